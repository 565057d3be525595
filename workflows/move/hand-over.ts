/**
 * Steps 12 and 13: the instance changes hands. From the moment that the source is asked for the release only it knows
 * whether it gave one, so the move can only go forward, for as long as it takes.
 *
 * Each of the two steps depends on one host: first on the source, then on the one that was given the instance. If that host
 * died for good, the operator signs a fence, and another host goes on from the package. The host that would be fenced is
 * asked first, in case it lives after all: only its own word or its absence lets the fence be used, and no time-out does.
 */
import { CancellationScope, condition, ParentClosePolicy, startChild } from '@temporalio/workflow';
import { workflowId, type Host, type HostId, type SignedText } from '../contract.ts';
import { failure, isCancellation, reasonOf } from '../failing.ts';
import { onControl, onHost } from '../options.ts';
import type { tellFence as tellFenceWorkflow } from '../tell-fence.ts';
import { enduring } from './calling.ts';
import type { Move } from './move.ts';
import type { FenceDecision } from './operator.ts';
import {
  canRun,
  openPackage,
  preflightDestination,
  readdressPackage,
  redirectInCatalog,
  reserveAtDestination,
  restoreInstance,
  rewriteXml,
  transferPackage,
  type Restored,
} from './steps.ts';

/** By what the destination goes on, and the last statement about who owns the instance: a fence would follow it. */
export interface Grant {
  by: 'release' | 'fence';
  last: SignedText;
}

/** Seconds for which a host that is to be fenced is asked whether it lives. */
const ASK_PATIENCE = 15;
/** Seconds until it counts as absent: the move has waited for it before. */
const ASK_ABSENT_AFTER = 5;

/**
 * 12. The source gives the instance away, in exchange for the receipt. The point of no return. A refusal is its decision
 * too: nothing was released, and the instance goes back.
 */
export async function releaseInstance(move: Move, { receipt, last }: Restored): Promise<Grant> {
  const { source, destination, operator } = move;
  operator.pointOfNoReturn(`${source.id} releases the instance to ${destination.id}; from then on it belongs there`);
  try {
    return await onlyForward(move, source.id, last, async (): Promise<Grant> => {
      const { release } = await enduring(
        move,
        'releaseInstance',
        source.id,
        `Give ${move.name} to ${destination.id}: the point of no return`,
        'throw',
        (host) => host.releaseInstance({ ...move.ref, receipt, destination: destination.record }),
        () => `belongs to ${destination.id} now`,
      );
      move.later.push(release);
      return { by: 'release', last: release };
    });
  } catch (error) {
    operator.backBeforeRelease();
    throw error;
  }
}

/** 13. Given the release, or after a fence, the vCPUs run. The blackout ends. */
export async function resumeInstance(move: Move, granted: Grant): Promise<void> {
  for (let grant: Grant | null = granted; grant;) {
    const { by, last }: Grant = grant;
    let restored = by === 'release';
    grant = await onlyForward(move, move.destination.id, last, async () => {
      if (!restored) await restoreAgain(move);
      // From here on the destination may own it, and sees to it by itself that there is a copy.
      restored = true;
      const { destination, sender } = move;
      await enduring(
        move,
        'resumeInstance',
        destination.id,
        `Let ${move.name} run`,
        'bear',
        (host) =>
          host.resumeInstance({ ...move.ref, ...(by === 'release' && { release: last }), source: sender.record }),
        () => 'the guest runs',
      );
      return null;
    });
  }
  move.blackoutEnds();
}

/** Steps 1, 2 and 7 to 11 at the host that goes on. One that hands out the package has run it or restored it before. */
async function restoreAgain(move: Move): Promise<void> {
  await readdressPackage(move);
  if (move.holder.id !== move.destination.id) await preflightDestination(move);
  await reserveAtDestination(move);
  await transferPackage(move);
  await openPackage(move);
  await rewriteXml(move);
  await restoreInstance(move);
}

/**
 * Runs what depends on one host, until it is done or the operator has put another host in its place.
 *
 * @returns what `run` returned, or by what the other host goes on
 */
async function onlyForward<T>(move: Move, host: HostId, last: SignedText, run: () => Promise<T>): Promise<T | Grant> {
  const { operator, packageId } = move;
  operator.offerFence({ host, last, packageId, savedAt: move.stoppedAt, since: Date.now() });
  try {
    return await CancellationScope.nonCancellable(async () => {
      for (;;) {
        const scope = new CancellationScope();
        const attempt = watched(scope.run(run));
        await condition(() => attempt.outcome !== null || operator.hasDecided);
        // What the host was asked is taken back before anything else is tried. It may have been done in spite of that.
        if (attempt.outcome === null) scope.cancel();
        await condition(() => attempt.outcome !== null);
        const outcome = attempt.outcome as Outcome<T>;
        if ('result' in outcome) return outcome.result;
        if (!isCancellation(outcome.error)) throw outcome.error;
        const decision = operator.takeDecision();
        if (decision?.kind !== 'fence') continue;
        let next: Host;
        try {
          next = await tryFence(move, host, decision);
        } catch (error) {
          const { type, message } = reasonOf(error);
          move.story.note(`The fence of ${host} is not used: ${message}`);
          decision.verdict.reject(failure(type, message, error));
          continue;
        }
        decision.verdict.resolve();
        await useFence(move, host, decision.fence, next);
        return { by: 'fence', last: decision.fence };
      }
    });
  } finally {
    operator.withdrawFence();
  }
}

/**
 * @returns the host that goes on
 * @throws if it cannot, or if the one that would be fenced lives; then nobody has acted on the fence
 */
async function tryFence(move: Move, lost: HostId, decision: FenceDecision): Promise<Host> {
  const next = await hostCalled(move, decision.destination);
  // A destination that has restored it can run it.
  if (next.id !== move.destination.id) await canRun(move, next, { failing: ASK_PATIENCE, absent: 0 });
  const ref = move.refAfter(decision.fence);
  await move.story.step(
    'obeyFence',
    lost,
    async () => {
      const asked = onHost(lost, { summary: 'Does it live?', patience: ASK_PATIENCE, absentAfter: ASK_ABSENT_AFTER });
      try {
        return await asked.obeyFence({ ...ref, final: false });
      } catch (error) {
        if (reasonOf(error).type !== 'HostUnreachable') throw error;
        return null;
      }
    },
    (answer) => (answer ? `gave it up, and had ${answer.found}` : 'does not answer; the operator’s word counts'),
  );
  return next;
}

/** From here on the fence is in use, and nothing of this may fail. */
async function useFence(move: Move, lost: HostId, fence: SignedText, next: Host): Promise<void> {
  const former = move.destination.id;
  move.goesOnBy(fence, lost, next);
  for (const other of new Set([lost, former])) {
    if (other !== next.id) move.beside(`${other} will not be told of the fence`, () => tell(move, other));
  }
  await redirectInCatalog(move);
}

async function hostCalled({ source, destination }: Move, id: HostId): Promise<Host> {
  const known = [source, destination].find((host) => host.id === id);
  return known ?? (await onControl({ summary: `Is ${id} in the pool?` }).findHost({ host: id }));
}

/** Whenever it comes back, it learns that its generation is over; nobody waits for that. */
async function tell(move: Move, host: HostId): Promise<void> {
  const { ref, instanceId, name } = move;
  await startChild<typeof tellFenceWorkflow>('tellFence', {
    workflowId: workflowId.fence(instanceId, ref.generation, host),
    args: [{ host, move: ref }],
    parentClosePolicy: ParentClosePolicy.ABANDON,
    staticSummary: `Tell ${host} that ${name} goes on elsewhere by a fence`,
  });
}

type Outcome<T> = { result: T } | { error: unknown };

/** What became of a promise so far. */
function watched<T>(promise: Promise<T>): { outcome: Outcome<T> | null } {
  const attempt: { outcome: Outcome<T> | null } = { outcome: null };
  promise.then(
    (result) => (attempt.outcome = { result }),
    (error: unknown) => (attempt.outcome = { error }),
  );
  return attempt;
}
