/**
 * The fourteen steps of a move (docs/architecture.md), one function each, in order. A step throws what its host threw
 * when patience is over; what follows from that is decided in way-back.ts and, where a move can be parked, in parking.ts.
 */
import { ParentClosePolicy, startChild } from '@temporalio/workflow';
import type { clearUp as clearUpWorkflow } from '../clear-up.ts';
import {
  workflowId,
  type ControlActivities,
  type Host,
  type HostActivities,
  type HostId,
  type MoveOptions,
  type MoveOutcome,
  type MoveResult,
  type SaveResult,
  type SignedText,
} from '../contract.ts';
import { failure, isAbsence, isCancellation, reasonOf } from '../failing.ts';
import { onControl, type Patience } from '../options.ts';
import { atDestination, atSource, call, insist, unfailing, type Endurance } from './calling.ts';
import type { Move } from './move.ts';

/** Before the steps: what the catalog knows about the request. Changes nothing. */
export async function plan(move: Move, destination: string | null): Promise<void> {
  const { kind, instanceId } = move;
  checkOptions(move.options);
  move.planned(
    await onControl({ summary: 'Look up instance, image and hosts' }).planMove({ kind, instanceId, destination }),
  );
}

function checkOptions({ onFailure, retryWindowSeconds, compressionLevel }: Required<MoveOptions>): void {
  const must = (be: boolean, what: string): void => {
    if (!be) throw failure('InvalidInput', what);
  };
  must(onFailure === 'park' || onFailure === 'return', 'onFailure must be `park` or `return`');
  must(
    retryWindowSeconds >= 0 && retryWindowSeconds <= 30 * 86_400,
    'retryWindowSeconds must be between 0 and 30 days',
  );
  must(
    Number.isInteger(compressionLevel) && compressionLevel >= 1 && compressionLevel <= 19,
    'compressionLevel must be a whole number from 1 to 19',
  );
}

/** 1. Everything that can be known to fail, while the guest runs. A missing base image is pulled now. */
export async function preflight(move: Move): Promise<void> {
  const { instanceId, kind } = move;
  const facts = await atSource(
    move,
    'preflight',
    `Can ${move.name} leave ${move.source.id}?`,
    (source) => source.preflightSource({ instanceId, kind }),
    (found) => `${bytes(found.memoryBytes)} of RAM, generation ${found.ownedGeneration}`,
  );
  move.found(facts);
  if (!move.atHome) await preflightDestination(move);
}

/** The second half of step 1; again when the move is sent elsewhere. */
export async function preflightDestination(move: Move): Promise<void> {
  const { image, destination } = move;
  const { imageMissing } = await atDestination(move, 'preflight', ...canItRun(move, destination));
  if (!imageMissing) return;
  const sources = move.imageHosts.filter(({ id }) => id !== destination.id).map(({ record }) => record);
  await atDestination(
    move,
    'pullImage',
    `Fetch the base image ${image.name}`,
    (host) => host.pullImage({ image, sources }),
    (pulled) => bytes(pulled.bytes),
  );
  move.beside('The catalog was not told of the pulled image', () =>
    onControl({ patience: 'for ever', summary: `${destination.id} holds the base image now` }).recordImage({
      image,
      host: destination.id,
    }),
  );
}

/** The same question to a host before anything is sent there. */
export async function canRun(move: Move, host: Host, endurance: Endurance): Promise<{ imageMissing: boolean }> {
  const [summary, run, told] = canItRun(move, host);
  return move.story.step('preflight', host.id, () => call(move, host.id, summary, endurance, run), told);
}

const canItRun = ({ name, instanceId, facts, image, holder }: Move, { id }: Host) =>
  [
    `Can ${name} run on ${id}?`,
    (host: HostActivities) =>
      host.preflightDestination({ instanceId, facts, imageId: image.id, source: holder.record }),
    (answer: { imageMissing: boolean }) => (answer.imageMissing ? 'yes, once it has the base image' : 'yes'),
  ] as const;

/** 2. Generation and address in the catalog; DHCP entry and anti-spoofing rule at the destination, ahead of the blackout. */
export async function reserve(move: Move): Promise<void> {
  const { id: moveId, kind, instanceId, packageId, destination } = move;
  const { ownedGeneration } = move.facts;
  await move.story.step('reserve', 'control', async () => {
    move.reserved = true;
    const { address } = await onControl({ summary: `Open the move as generation ${ownedGeneration + 1}` }).reserveMove({
      moveId,
      kind,
      instanceId,
      packageId,
      destination: destination.id,
      ownedGeneration,
    });
    move.address = address;
  });
  if (kind !== 'save') await reserveAtDestination(move);
}

/** The second half of step 2; again when the move is sent elsewhere. */
export async function reserveAtDestination(move: Move): Promise<void> {
  const { name, address } = move;
  move.prepared = true;
  await atDestination(
    move,
    'reserve',
    `Expect ${name} as ${address.ip}`,
    (host) => host.reserve({ ...move.ref, name, address }),
    () => address.ip,
  );
}

/** 3. Notice to the guest. A guest that does not hear is moved all the same. */
export async function announceMove(move: Move): Promise<void> {
  const { source, destination } = move;
  const nothingToWaitFor = { failing: 0, absent: 0 };
  try {
    await move.story.step(
      'announceMove',
      source.id,
      () =>
        call(move, source.id, 'Tell the guest', nothingToWaitFor, (host) =>
          host.announceMove({ ...move.ref, destination: destination.id }),
        ),
      ({ acknowledged }) => (acknowledged ? 'the guest is ready' : 'the guest did not answer'),
    );
  } catch (error) {
    if (isCancellation(error)) throw error;
    move.story.note(`The guest could not be told: ${reasonOf(error).message}`);
  }
}

/** 4. The guest is suspended, then its RAM and CPU state written to a file. The blackout begins. */
export async function saveInstance(move: Move): Promise<void> {
  const saved = await atSource(
    move,
    'saveInstance',
    `Suspend ${move.name}, write its RAM and CPU state`,
    (source) => {
      move.blackoutBegins();
      return source.saveInstance(move.ref);
    },
    ({ saveBytes }) => bytes(saveBytes),
  );
  move.stopped(saved.stoppedMillis);
}

/** 5. A private copy of the overlay, its backing path made relative. */
export async function rebaseOverlay(move: Move): Promise<void> {
  await atSource(
    move,
    'rebaseOverlay',
    'Copy the disk overlay, make its backing path relative',
    (source) => source.rebaseOverlay(move.ref),
    (overlay) => bytes(overlay.bytes),
  );
}

/** 6. Members become streams of compressed segments. */
export async function buildPackage(move: Move): Promise<void> {
  const { compressionLevel } = move.options;
  await atSource(
    move,
    'buildPackage',
    `Compress with zstd level ${compressionLevel}`,
    (source) => source.buildPackage({ ...move.ref, compressionLevel }),
    ({ plainBytes, packedBytes }) => `${bytes(plainBytes)} to ${bytes(packedBytes)}`,
  );
}

/** 7. Segments are sealed, the origin record signed. At home the package stays with the source alone. */
export async function encryptPackage(move: Move): Promise<void> {
  const { source, destination, atHome, instanceId } = move;
  const sealed = await atSource(
    move,
    'encryptPackage',
    atHome ? `Seal for ${source.id} itself, and sign` : `Seal for ${destination.id}, and sign`,
    (host) => host.encryptPackage({ ...move.ref, destination: atHome ? null : destination.record }),
    (facts) => `package of ${bytes(facts.bytes)}`,
  );
  move.story.progress.packageBytes = sealed.bytes;
  move.beside('The catalog was not told of the package', () =>
    onControl({ patience: 'for ever', summary: `A package was sealed on ${source.id}` }).recordPackage({
      packageId: sealed.packageId,
      instanceId,
      generation: sealed.generation,
      host: source.id,
      bytes: sealed.bytes,
      sealedAt: sealed.sealedAt,
    }),
  );
}

/**
 * 7 again, for a package that is sealed already: another envelope, the bulk as it is. A destination that hands out the
 * package itself has read it before.
 */
export async function readdressPackage(move: Move): Promise<void> {
  const { packageId, instanceId, destination, holder, ref } = move;
  if (holder.id === destination.id) return;
  await atSource(
    move,
    'encryptPackage',
    `Address the package to ${destination.id}`,
    (host) =>
      host.readdressPackage({
        packageId,
        instanceId,
        destination: destination.record,
        ...(ref.fence && { fence: ref.fence }),
      }),
    () => `addressed to ${destination.id}`,
  );
}

/** 8. Ciphertext goes over; what arrived before is kept. */
export async function transferPackage(move: Move): Promise<void> {
  const { holder, destination } = move;
  if (holder.id === destination.id) return;
  const { wireBytes, packageBytes } = await atDestination(
    move,
    'transferPackage',
    `Fetch the package from ${holder.id}`,
    (host) => host.transferPackage({ ...move.ref, source: holder.record }),
    (sent) => `${bytes(sent.wireBytes)} over the wire`,
  );
  move.story.progress.wireBytes += wireBytes;
  move.story.progress.packageBytes = packageBytes;
  move.packageAt.add(destination.id);
}

/** 9. Signatures and trust are verified, then the package is decrypted and unpacked into a folder of this move. */
export async function openPackage(move: Move): Promise<void> {
  const { sender } = move;
  await atDestination(
    move,
    'openPackage',
    'Verify, decrypt and unpack',
    (destination) => destination.openPackage({ ...move.ref, source: sender.record }),
    (opened) => bytes(opened.bytes),
  );
}

/** 10. Domain XML and save-file header are made to fit the host. */
export async function rewriteXml(move: Move): Promise<void> {
  const { address } = move;
  await atDestination(move, 'rewriteXml', `Fit the domain XML to ${move.destination.id}`, (destination) =>
    destination.rewriteXml({ ...move.ref, address }),
  );
}

/** What a destination answers when it has restored the instance. */
export interface Restored {
  receipt: SignedText;
  /** The statement by which the source owns the instance. */
  last: SignedText;
}

/** 11. Restored from a fresh copy of what was packed, vCPUs stopped. The receipt says so. */
export async function restoreInstance(move: Move): Promise<Restored> {
  return await atDestination(
    move,
    'restoreInstance',
    `Restore ${move.name}, paused`,
    (destination) => destination.restoreInstance(move.ref),
    () => 'paused, receipt signed',
  );
}

/**
 * 14. The catalog learns the end, both hosts clear up. The guest runs: what an absent host has to clear up is left to a
 * workflow of its own after the retry window, so that it does not keep the instance from its next move.
 */
export async function settleMove(move: Move): Promise<MoveResult> {
  const { source, destination, atHome, fenced } = move;
  move.story.phase('settling');
  const result = resultOf(move);
  // A fence may have sent the instance back to where it came from.
  const outcome = atHome ? 'returned' : 'moved';
  const cleared: Promise<void>[] = [clearUp(move, destination.id, 'destination', outcome)];
  // Who was fenced clears up when it is told so.
  if (!atHome && !fenced.has(source.id)) cleared.push(clearUp(move, source.id, 'source', outcome));
  await move.story.step('settleMove', 'control', () =>
    Promise.all([
      closeMove(move, { outcome, owner: destination.id, generation: move.ref.generation, result }),
      ...cleared,
    ]),
  );
  move.story.phase(outcome);
  if (!atHome) return result;
  const lost = [...fenced].join(' and ');
  throw failure(
    'MoveReturned',
    `Instance ${move.name} runs on ${source.id} again: ${lost} died for good and was fenced`,
  );
}

/** 14 of a save: the package is kept, the instance is down and still the source's. */
export async function settleSave(move: Move): Promise<SaveResult> {
  const { source, instanceId, packageId, facts } = move;
  move.operator.pointOfNoReturn(`the instance is saved on ${source.id}; \`restore\` continues it`);
  await move.story.step('settleMove', 'control', () =>
    Promise.all([
      clearUp(move, source.id, 'source', 'saved'),
      closeMove(move, { outcome: 'saved', owner: source.id, generation: facts.ownedGeneration }),
    ]),
  );
  move.story.phase('moved');
  return { instanceId, packageId, host: source.id, packageBytes: move.story.progress.packageBytes };
}

/** 11 to 13 of a restore by the owner: it takes the instance back to itself, and runs it from the opened package. */
export async function runAtHome(move: Move): Promise<void> {
  const { source, name } = move;
  move.operator.pointOfNoReturn(`${source.id} takes the instance back to itself and runs it`);
  await unfailing(
    move,
    'returnInstance',
    source.id,
    `Run ${name} from its package`,
    (host) => host.returnInstance(move.ref),
    ({ how }) => how,
  );
  move.blackoutEnds();
}

/** 14 of a restore by the owner. */
export async function settleAtHome(move: Move): Promise<MoveResult> {
  const { source } = move;
  move.story.phase('settling');
  const result = resultOf(move);
  await move.story.step('settleMove', 'control', () =>
    Promise.all([
      clearUp(move, source.id, 'source', 'returned'),
      closeMove(move, { outcome: 'returned', owner: source.id, generation: move.ref.generation, result }),
    ]),
  );
  move.story.phase('moved');
  return result;
}

/**
 * Part of step 14, and of the way back: the host removes what only this move needed. One that stays absent is left to a
 * workflow of its own.
 */
export async function clearUp(
  move: Move,
  host: HostId,
  role: 'source' | 'destination',
  outcome: MoveOutcome,
): Promise<void> {
  const summary = `Remove what only the move needed on ${host}`;
  const endurance: Endurance = { failing: 'for ever', absent: move.options.retryWindowSeconds };
  await insist(move, host, async () => {
    try {
      await call(move, host, summary, endurance, (at) => at.settleMove({ ...move.ref, role, outcome }));
    } catch (error) {
      if (!isAbsence(error)) throw error;
      move.story.note(`${host} is absent, and clears up when it is back`);
      await startChild<typeof clearUpWorkflow>('clearUp', {
        workflowId: workflowId.clearUp(move.id, host),
        args: [{ host, move: move.ref, role, outcome }],
        parentClosePolicy: ParentClosePolicy.ABANDON,
        staticSummary: `Clear up after a move of ${move.name} on ${host}`,
      });
    }
  });
}

/** Part of going on by a fence: the catalog learns where the move goes now. Told again at the end, where it counts. */
export async function redirectInCatalog(move: Move): Promise<void> {
  try {
    await redirect(move, 15);
  } catch (error) {
    move.story.note(`The catalog was not told where the move goes: ${reasonOf(error).message}`);
  }
}

/** A move that comes back to its source keeps the destination that it had. */
async function redirect({ id, destination, atHome }: Move, patience: Patience): Promise<void> {
  if (atHome) return;
  const catalog = onControl({ patience, summary: `Send the move to ${destination.id}` });
  await catalog.redirectMove({ moveId: id, destination: destination.id });
}

/** Part of step 14, and of the way back: the catalog's last word on the move, after all others. */
export async function closeMove(
  move: Move,
  end: Omit<Parameters<ControlActivities['closeMove']>[0], 'moveId'>,
): Promise<void> {
  await move.besideDone();
  for (const host of move.packageAt) {
    move.beside('The catalog was not told that the package arrived', () => packageArrived(move, host));
  }
  await move.besideDone();
  const catalog = onControl({ patience: 'for ever', summary: `Close the move: ${end.outcome}` });
  await insist(move, 'the catalog', async () => {
    if (move.fenced.size > 0) await redirect(move, 'for ever');
    await catalog.closeMove({ moveId: move.id, ...end });
  });
}

/** Told at the end, wherever that is: what came to a host stays there until it is deleted, and costs no blackout now. */
async function packageArrived({ packageId }: Move, host: HostId): Promise<void> {
  const catalog = onControl({ patience: 'for ever', summary: `The package is on ${host} too` });
  await catalog.recordPackage({ ...(await catalog.findPackage({ packageId })), host });
}

function resultOf(move: Move): MoveResult {
  const { blackoutSeconds = 0, packageBytes, wireBytes } = move.story.progress;
  return {
    moveId: move.id,
    instanceId: move.instanceId,
    packageId: move.packageId,
    source: move.source.id,
    destination: move.destination.id,
    generation: move.ref.generation,
    address: move.address,
    stepSeconds: move.story.stepSeconds(),
    blackoutSeconds,
    totalSeconds: (Date.now() - move.startedAt) / 1000,
    packageBytes,
    wireBytes,
  };
}

/** In the units of people: 10^6 bytes are one MB. */
function bytes(count: number): string {
  if (count >= 1e9) return `${(count / 1e9).toFixed(2)} GB`;
  if (count >= 1e6) return `${(count / 1e6).toFixed(1)} MB`;
  return `${(count / 1e3).toFixed(1)} kB`;
}
