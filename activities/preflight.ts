/**
 * Step 1 [source, then destination]: everything that can be known to fail, while the guest runs. Changes nothing, but for
 * a paused copy that an earlier move left at the destination and that may never run.
 *
 * The destination comes second because it compares itself with what the source found; this costs no blackout.
 */
import { stat, statfs } from 'node:fs/promises';
import type { HostActivities, InstanceFacts } from '../workflows/contract.ts';
import { VmferryError } from '../workflows/failures.ts';
import { inspectQcow2 } from './disk/qcow2.ts';
import type { HostContext } from './host-context.ts';
import { describeDomain, refuseUnsupported } from './hypervisor/domain-xml.ts';
import { discardUnowned } from './discard-copy.ts';
import { imageOfOverlay, readImage } from './images.ts';
import { passed } from './marks.ts';
import { withInstanceLock } from './records/lock.ts';
import { readSaveRecord } from './save-record.ts';

export function createPreflightSource(host: HostContext): HostActivities['preflightSource'] {
  return async ({ instanceId, kind }) => {
    const owned = await host.ledger.owned(instanceId);
    if (!owned) throw new VmferryError('NotOwner', `host ${host.name} does not own instance ${instanceId}`);
    const domain = await host.hypervisor.find(instanceId);
    if (kind !== 'restore' && domain?.state !== 'running') {
      throw new VmferryError(
        'InstanceNotRunning',
        `instance ${instanceId} is ${domain?.state ?? 'not defined'} on ${host.name}; only a running one can be moved`,
      );
    }
    if (kind === 'restore' && !(await readSaveRecord(host.layout, instanceId, owned.generation))?.saved) {
      throw new VmferryError('InstanceNotRunning', `instance ${instanceId} has not been saved on ${host.name}`);
    }
    if (!domain) throw new VmferryError('InstanceNotFound', `instance ${instanceId} is not defined on ${host.name}`);
    const xml = await host.hypervisor.domainXml(instanceId, 'inactive');
    refuseUnsupported(xml);
    const { name, memoryBytes, disks, requirements } = describeDomain(xml);
    const facts: InstanceFacts = {
      instanceId,
      name,
      ownedGeneration: owned.generation,
      running: domain.state === 'running',
      memoryBytes,
      saveBytes: memoryBytes + DEVICE_STATE_BYTES,
      disks: await Promise.all(
        disks.map(async ({ target, path }) => {
          const { virtualBytes } = await inspectQcow2(path);
          return {
            target,
            bytes: (await stat(path)).size,
            virtualBytes,
            imageId: await imageOfOverlay(host.layout, path),
          };
        }),
      ),
      requirements: { ...requirements, qemuVersion: (await host.hypervisor.facts()).qemuVersion },
    };
    if (kind !== 'restore') {
      // The save file, the private copies, then packed and sealed segments of both: three times at worst.
      await requireSpace(host, 3 * bulkBytes(facts), `to save instance ${name}`);
    }
    return facts;
  };
}

export function createPreflightDestination(host: HostContext): HostActivities['preflightDestination'] {
  return async ({ instanceId, facts, imageId, source }) => {
    await host.pool.verifyHost(source);
    const owned = await host.ledger.owned(instanceId);
    if (owned) {
      throw new VmferryError(
        'AlreadyExists',
        `host ${host.name} owns generation ${owned.generation} of instance ${instanceId} itself`,
      );
    }
    await withInstanceLock(host.layout, instanceId, () => discardUnowned(host, instanceId));
    await passed('compared');
    const other = (await host.hypervisor.list()).find(
      ({ instanceId: id, name }) => name === facts.name && id !== instanceId,
    );
    if (other) {
      throw new VmferryError(
        'AlreadyExists',
        `host ${host.name} has another domain named ${facts.name} (${other.instanceId})`,
      );
    }
    await host.hypervisor.checkCompatible(facts.requirements);
    const { freeMemoryBytes } = await host.hypervisor.facts();
    if (freeMemoryBytes < facts.memoryBytes) {
      throw new VmferryError(
        'IncompatibleHost',
        `host ${host.name} has ${mebibytes(freeMemoryBytes)} of free memory; instance ${facts.name} needs ${mebibytes(facts.memoryBytes)}`,
      );
    }
    // Sealed segments, opened members, the running copy of the overlay.
    await requireSpace(host, 3 * bulkBytes(facts), `for instance ${facts.name}`);
    return { imageMissing: (await readImage(host.layout, imageId)) === null };
  };
}

/** Generous: device state of a guest with a handful of virtio devices is below 1 MiB. */
const DEVICE_STATE_BYTES = 64 * 1024 * 1024;

const bulkBytes = (facts: InstanceFacts): number =>
  facts.saveBytes + facts.disks.reduce((sum, { bytes }) => sum + bytes, 0);

const mebibytes = (bytes: number): string => `${Math.round(bytes / 1024 / 1024)} MiB`;

async function requireSpace(host: HostContext, bytes: number, purpose: string): Promise<void> {
  const { bavail, bsize } = await statfs(host.layout.root);
  if (bavail * bsize < bytes) {
    throw new VmferryError(
      'NoSpace',
      `host ${host.name} has ${mebibytes(bavail * bsize)} free in ${host.layout.root}; ${mebibytes(bytes)} are needed ${purpose}`,
    );
  }
}
