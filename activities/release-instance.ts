/**
 * Step 12 [source]: the point of no return. Given the destination's receipt, and the QEMU process gone, the release is
 * written once and durably; then the domain is undefined.
 *
 * How it can die half way: before the release is on disk nothing happened; after it the same release is answered for
 * ever, and the domain is undefined by the next attempt.
 */
import type { HostActivities, MoveRef, SignedText } from '../workflows/contract.ts';
import { VmferryError } from '../workflows/failures.ts';
import type { HostContext } from './host-context.ts';
import { passed } from './marks.ts';
import { withInstanceLock } from './records/lock.ts';
import { changedDisk, readSaveRecord, sameProcess, type SaveRecord } from './save-record.ts';

export function createReleaseInstance(host: HostContext): HostActivities['releaseInstance'] {
  return (input) =>
    withInstanceLock(host.layout, input.instanceId, async () => {
      const { instanceId, generation, packageId, receipt, destination } = input;
      if (!(await host.ledger.decision(instanceId, generation - 1))) await requireAtRest(host, input);
      const release: SignedText = await host.ledger.release({
        instanceId,
        generation,
        packageId,
        receipt,
        destination,
      });
      await passed('released');
      await host.hypervisor.undefine(instanceId);
      return { release };
    });
}

/**
 * The instance ended with its save and has not run since.
 *
 * A complete save file proves neither: libvirt writes its magic before it ends QEMU, and a libvirtd that died in between
 * leaves QEMU paused; a person may have started the domain since.
 *
 * @throws SourceStillRunning while QEMU is on its way out, SourceRanOn if the saved state is no longer the last
 */
async function requireAtRest(host: HostContext, move: MoveRef): Promise<void> {
  const record: SaveRecord | null = await readSaveRecord(host.layout, move.instanceId, move.generation - 1);
  if (!record?.saved) {
    throw new VmferryError(
      'InstanceNotRunning',
      `instance ${move.instanceId} was not saved on ${host.name}; there is nothing to release`,
    );
  }
  const domain = await host.hypervisor.find(move.instanceId);
  if (domain?.state === 'running') {
    throw new VmferryError('SourceRanOn', `instance ${move.instanceId} runs on ${host.name} although it was saved`);
  }
  if (domain?.process) {
    if (!sameProcess(domain.process, record.process)) {
      throw new VmferryError(
        'SourceRanOn',
        `instance ${move.instanceId} was started again on ${host.name} after it was saved`,
      );
    }
    if (await host.hypervisor.saveProgress(move.instanceId)) {
      throw new VmferryError(
        'SourceStillRunning',
        `libvirt still ends the QEMU process of ${move.instanceId} on ${host.name}`,
      );
    }
    // Suspended before the save and paused ever since, but left behind by a libvirtd that died: what it holds is sealed.
    await host.hypervisor.destroy(move.instanceId);
  }
  if (record.process && (await host.hypervisor.processAlive(record.process))) {
    throw new VmferryError(
      'SourceStillRunning',
      `the QEMU process ${record.process.pid} of ${move.instanceId} still lives on ${host.name}`,
    );
  }
  const changed = await changedDisk(record);
  if (changed) {
    const { target, how } = changed;
    throw new VmferryError(
      'SourceRanOn',
      `disk ${target} of instance ${move.instanceId} was ${how === 'gone' ? 'removed' : 'written'} on ${host.name} after the save`,
    );
  }
}
