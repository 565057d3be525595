/**
 * Step 11 [destination]: restores the instance, paused, from a fresh copy of the packaged overlay, and signs the receipt.
 *
 * How it can die half way, and what the next attempt finds:
 * - a half-started QEMU or half-copied disks: both are thrown away and made anew (they never ran, for that takes the
 *   release).
 * - a paused domain, but no `restored.json`: nobody can say that libvirt had finished; thrown away likewise.
 * - `restored.json` and the domain paused: kept; the same receipt again.
 * - this host owns the generation already: the answer was lost after the release; the same receipt again.
 */
import type { HostActivities, MoveRef, SignedText } from '../workflows/contract.ts';
import { VmferryError } from '../workflows/failures.ts';
import { atDestination } from './given-up.ts';
import { withHeartbeat, type Work } from './heartbeat.ts';
import type { HostContext } from './host-context.ts';
import { requireOpened } from './move-folder.ts';
import { readMovedEnvelope } from './moved-envelope.ts';
import { isRewritten } from './rewrite-xml.ts';
import { ensurePausedCopy, sealedDisks, type StagedDisk } from './restore-copy.ts';

export function createRestoreInstance(host: HostContext): HostActivities['restoreInstance'] {
  return (move) =>
    withHeartbeat('restoreInstance', (work) => atDestination(host, move, () => restoreInstance(host, move, work)));
}

async function restoreInstance(
  host: HostContext,
  move: MoveRef,
  work: Work,
): Promise<{ receipt: SignedText; last: SignedText; diskSha256: Record<string, string> }> {
  const { instanceId, generation, packageId, moveId } = move;
  const folder = host.layout.stage(moveId);
  const { origin, originDigest } = await readMovedEnvelope(host, move);
  const answer = async (
    diskSha256: Record<string, string>,
  ): Promise<{ receipt: SignedText; last: SignedText; diskSha256: Record<string, string> }> => ({
    receipt: await host.ledger.giveReceipt({ instanceId, generation, packageId, moveId, originDigest }),
    last: origin.chain.statements.at(-1) ?? '',
    diskSha256,
  });

  const owned = await host.ledger.owned(instanceId);
  if (owned?.generation === generation) return answer({});
  if (owned) {
    throw new VmferryError(
      'AlreadyExists',
      `host ${host.name} owns generation ${owned.generation} of ${instanceId}; it is not overwritten`,
    );
  }
  const found = await host.hypervisor.find(instanceId);
  if (found?.persistent) {
    throw new VmferryError(
      'AlreadyExists',
      `host ${host.name} has a domain ${instanceId} that no release gave to it; look at it before anything else`,
    );
  }
  await requireOpened(folder, move);
  if (!(await isRewritten(host, move, folder))) {
    throw new VmferryError(
      'PackageNotFound',
      `package ${packageId} is opened in ${folder}, and its XML not rewritten for ${host.name}`,
    );
  }
  const disksOf = (): Promise<StagedDisk[]> => Promise.resolve(sealedDisks(origin));
  return answer(await ensurePausedCopy(host, instanceId, generation, folder, disksOf, work));
}
