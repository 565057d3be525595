/**
 * Boots a new instance from an image of this host. The host signs the instance's first statement before QEMU starts:
 * whoever runs it owns generation 1.
 *
 * How it can die half way: everything up to the start is made anew or found equal; a running domain that the ledger
 * knows is the finished work of the attempt before. `resumed-1.json` is written just before the start. Once it is there
 * the disk is never made again, for the guest may have written to it: an instance that is gone then is booted from it,
 * unless a move has stopped it.
 */
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { Address, HostActivities, InstanceId, InstanceSpec } from '../workflows/contract.ts';
import { VmferryError } from '../workflows/failures.ts';
import { copyFile } from './disk/copy.ts';
import { createOverlay } from './disk/qemu-img.ts';
import { withHeartbeat, type Work } from './heartbeat.ts';
import type { HostContext } from './host-context.ts';
import { newDomainXml } from './hypervisor/domain-xml.ts';
import { readImage } from './images.ts';
import { makeDirectory, syncDirectory } from './records/durable.ts';
import { withInstanceLock } from './records/lock.ts';
import { requireNotStopped } from './ownership.ts';
import { hasRun, markRun } from './resume-instance.ts';

export function createSpawnInstance(host: HostContext): HostActivities['spawnInstance'] {
  return ({ instanceId, spec, address }) =>
    withHeartbeat('spawnInstance', (work) =>
      withInstanceLock(host.layout, instanceId, () => spawnInstance(host, instanceId, spec, address, work)),
    );
}

async function spawnInstance(
  host: HostContext,
  instanceId: InstanceId,
  spec: InstanceSpec,
  address: Address,
  work: Work,
): Promise<{ generation: number }> {
  const { hypervisor, ledger, layout, network } = host;
  const found = await hypervisor.find(instanceId);
  const owned = await ledger.owned(instanceId);
  if (found && !owned) {
    throw new VmferryError('AlreadyExists', `host ${host.name} has a domain ${instanceId} that vmferry did not make`);
  }
  if (found?.process && owned) return { generation: owned.generation };
  if (owned?.generation === 1 && (await hasRun(host, instanceId, 1))) {
    await requireNotStopped(host, instanceId, 1);
    await hypervisor.start(instanceId);
    return { generation: 1 };
  }

  const image = await readImage(layout, spec.imageId);
  if (!image) throw new VmferryError('ImageNotFound', `host ${host.name} does not hold image ${spec.imageId}`);
  const { domainTypes, machines, emulators, architecture } = await hypervisor.facts();
  const domainType = spec.domainType === 'auto' ? (domainTypes.includes('kvm') ? 'kvm' : 'qemu') : spec.domainType;
  if (!domainTypes.includes(domainType)) {
    throw new VmferryError(
      'IncompatibleHost',
      `host ${host.name} cannot run domain type ${domainType}; it offers ${domainTypes.join(', ')}`,
    );
  }
  const emulator = emulators[architecture];
  if (emulator === undefined)
    throw new VmferryError('IncompatibleHost', `host ${host.name} has no emulator for ${architecture}`);

  // Before anything is made: what is owned can be ended, and then cleared away.
  const { generation } = await ledger.spawn(instanceId);
  const folder = layout.generation(instanceId, 1);
  await rm(folder, { recursive: true, force: true });
  await makeDirectory(folder);
  const disk = join(folder, 'vda.qcow2');
  await createOverlay({ path: disk, base: layout.imageDisk(image.id), baseFormat: image.format });
  for (const part of ['kernel', 'initrd'] as const) {
    if (image.boot[part]) await copyFile({ from: join(layout.image(image.id), part), to: join(folder, part), work });
  }
  await syncDirectory(folder);
  await network.admit(instanceId, spec.name, address);
  await hypervisor.define(
    newDomainXml({
      instanceId,
      name: spec.name,
      memoryBytes: spec.memoryBytes,
      vcpus: spec.vcpus,
      domainType,
      architecture,
      emulator,
      machines,
      mac: address.mac,
      tap: network.tapName(instanceId),
      disk,
      base: { path: layout.imageDisk(image.id), format: image.format },
      ...(image.boot.kernel && { kernel: join(folder, 'kernel') }),
      ...(image.boot.initrd && { initrd: join(folder, 'initrd') }),
      ...(image.boot.cmdline !== undefined && { cmdline: image.boot.cmdline }),
      serialLog: join(folder, 'serial.log'),
    }),
  );
  await markRun(host, instanceId, generation);
  await hypervisor.start(instanceId);
  return { generation };
}
