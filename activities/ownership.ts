/** Questions about ownership that several steps ask before they act. */
import type { InstanceId, MoveRef } from '../workflows/contract.ts';
import { VmferryError } from '../workflows/failures.ts';
import type { HostContext } from './host-context.ts';
import { requireFolder } from './move-folder.ts';
import { readSaveRecord } from './save-record.ts';
import type { Owned } from './trust/ledger-book.ts';

/**
 * This host owns the generation before the move's and has not decided about it, and the move's folder is no other
 * move's. Every step at the source asks this first: an attempt that was thought dead and wakes after the instance was
 * given away or taken back ends here.
 *
 * @throws NotOwner, AlreadyExists
 */
export async function requireOwned(host: HostContext, move: MoveRef): Promise<Owned> {
  const owned = await host.ledger.owned(move.instanceId);
  if (owned?.generation !== move.generation - 1) {
    throw new VmferryError(
      'NotOwner',
      `host ${host.name} ${owned ? `owns generation ${owned.generation}` : 'owns no generation'} of instance ${move.instanceId}; ` +
        `move ${move.moveId} needs generation ${move.generation - 1}`,
    );
  }
  await requireFolder(host.layout.move(move.moveId), move);
  return owned;
}

/**
 * No move has stopped this generation here. Every step that lets an instance run asks this first: this host may own the
 * generation still, but once a later move has begun to save it, a call that was thought dead and wakes now would run it on
 * behind a save that is complete, or boot it beside one.
 *
 * @throws StaleGeneration
 */
export async function requireNotStopped(host: HostContext, instanceId: InstanceId, generation: number): Promise<void> {
  const stopped = await readSaveRecord(host.layout, instanceId, generation);
  if (!stopped) return;
  throw new VmferryError(
    'StaleGeneration',
    `generation ${generation} of instance ${instanceId} was stopped on ${host.name} by move ${stopped.moveId} since`,
  );
}
