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
import { join } from 'node:path';
import { z } from 'zod';
import type { HostActivities, MoveRef, SignedText } from '../workflows/contract.ts';
import { VmferryError } from '../workflows/failures.ts';
import { withHeartbeat, type Work } from './heartbeat.ts';
import type { HostContext } from './host-context.ts';
import { readEnvelope } from './package/envelope.ts';
import { readJson, writeDurable } from './records/durable.ts';
import { withInstanceLock } from './records/lock.ts';
import { restorePausedCopy } from './restore-copy.ts';

const Restored = z.strictObject({
  process: z.strictObject({ pid: z.number(), startTime: z.number() }),
  diskSha256: z.record(z.string(), z.string()),
});

export function createRestoreInstance(host: HostContext): HostActivities['restoreInstance'] {
  return (move) =>
    withHeartbeat('restoreInstance', (work) =>
      withInstanceLock(host.layout, move.instanceId, () => restoreInstance(host, move, work)),
    );
}

async function restoreInstance(
  host: HostContext,
  move: MoveRef,
  work: Work,
): Promise<{ receipt: SignedText; diskSha256: Record<string, string> }> {
  const { instanceId, generation, packageId, moveId } = move;
  const folder = host.layout.stage(moveId);
  const marker = join(folder, 'restored.json');
  const { origin, originDigest } = await readEnvelope({
    folder: host.layout.package(packageId),
    keys: host.keys,
    pool: host.pool,
  });
  const receipt = (): Promise<SignedText> =>
    host.ledger.giveReceipt({ instanceId, generation, packageId, moveId, originDigest });

  const owned = await host.ledger.owned(instanceId);
  const restored = await readJson(marker, Restored);
  if (owned?.generation === generation) return { receipt: await receipt(), diskSha256: restored?.diskSha256 ?? {} };
  if (owned) {
    throw new VmferryError(
      'AlreadyExists',
      `host ${host.name} owns generation ${owned.generation} of ${instanceId}; it is not overwritten`,
    );
  }

  const found = await host.hypervisor.find(instanceId);
  if (found && (found.state === 'running' || found.persistent)) {
    throw new VmferryError(
      'AlreadyExists',
      `host ${host.name} has a ${found.state} domain ${instanceId} that no release gave to it; look at it before anything else`,
    );
  }
  const same =
    restored?.process.pid === found?.process?.pid && restored?.process.startTime === found?.process?.startTime;
  if (restored && found?.state === 'paused' && same)
    return { receipt: await receipt(), diskSha256: restored.diskSha256 };

  const diskSha256 = await restorePausedCopy(host, instanceId, generation, folder, origin.disks, work);
  const domain = await host.hypervisor.find(instanceId);
  if (domain?.state !== 'paused' || !domain.process) {
    throw new VmferryError(
      'LibvirtFailed',
      `instance ${instanceId} is ${domain?.state ?? 'gone'} on ${host.name} after its restore`,
    );
  }
  await writeDurable(
    marker,
    JSON.stringify({ process: domain.process, diskSha256 } satisfies z.infer<typeof Restored>),
  );
  return { receipt: await receipt(), diskSha256 };
}
