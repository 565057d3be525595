/** A move that cannot go on may wait for the operator, who sends it on, there or elsewhere. */
import { ParentClosePolicy, startChild } from '@temporalio/workflow';
import { workflowId, type HostId } from '../contract.ts';
import type { discardCopy as discardCopyWorkflow } from '../discard-copy.ts';
import { isCancellation, reasonOf } from '../failing.ts';
import { onControl } from '../options.ts';
import { call } from './calling.ts';
import type { Move } from './move.ts';
import { preflightDestination, readdressPackage, reserveAtDestination } from './steps.ts';

/**
 * Runs the steps from the transfer to the paused restore. Each has been retried for the retry window when it throws: then
 * `onFailure` applies. Parked, the guest stays stopped and safe in its package until the operator decides.
 */
export async function parkable<T>(move: Move, steps: () => Promise<T>): Promise<T> {
  let sentElsewhere = false;
  for (;;) {
    try {
      if (sentElsewhere) await prepare(move);
      sentElsewhere = false;
      return await steps();
    } catch (error) {
      if (isCancellation(error) || move.options.onFailure === 'return') throw error;
      sentElsewhere = (await parkUntilDecided(move, error)) || sentElsewhere;
    }
  }
}

/** Resolves when the steps are to be tried again; true if at another destination. */
async function parkUntilDecided(move: Move, cause: unknown): Promise<boolean> {
  for (;;) {
    const decision = await move.operator.park(cause);
    try {
      if (decision.kind === 'readdress') await redirect(move, decision.destination);
      move.story.phase('blackout');
      return decision.kind === 'readdress';
    } catch (error) {
      if (isCancellation(error)) throw error;
      cause = error;
    }
  }
}

async function redirect(move: Move, to: HostId): Promise<void> {
  const before = move.destination.id;
  const { destination } = await onControl({ summary: `Send the move to ${to}` }).redirectMove({
    moveId: move.id,
    destination: to,
  });
  move.redirected(destination);
  // Not beside the next steps: they may come back to this very host.
  if (before !== destination.id) await discardCopy(move, before);
  move.keepers.delete(destination.id);
}

/** What steps 1, 2 and 7 did for the first destination. */
async function prepare(move: Move): Promise<void> {
  await readdressPackage(move);
  await preflightDestination(move);
  await reserveAtDestination(move);
}

/**
 * Nothing depends on it, for a copy without a release never runs: a host that cannot be told now is told after the move
 * (`discardLater`).
 */
export async function discardCopy(move: Move, host: HostId): Promise<void> {
  try {
    await call(move, host, 'Give up the copy', { failing: 15, absent: 0 }, (at) => at.discardCopy(move.ref));
    move.keepers.delete(host);
  } catch (error) {
    move.keepers.add(host);
    move.story.note(`${host} was not told to give up its copy: ${reasonOf(error).message}`);
  }
}

/** Hands what is left to clear up to a workflow of its own, for each host that could not be told. */
export async function discardLater(move: Move): Promise<void> {
  for (const host of move.keepers) {
    await startChild<typeof discardCopyWorkflow>('discardCopy', {
      workflowId: workflowId.discard(move.id, host),
      args: [{ host, move: move.ref }],
      parentClosePolicy: ParentClosePolicy.ABANDON,
      staticSummary: `Give up the copy of ${move.name} on ${host}`,
    });
  }
}
