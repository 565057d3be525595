/** Is what was saved of an instance still the last that there is of it? Asked before it is given away. */
import type { InstanceId } from '../workflows/contract.ts';
import { VmferryError } from '../workflows/failures.ts';
import type { HostContext } from './host-context.ts';
import { changedDisk, readSaveRecord, sameProcess } from './save-record.ts';

/**
 * The instance ended with its save and has not run since.
 *
 * A complete save file proves neither: libvirt writes its magic before it ends QEMU, and a libvirtd that died in between
 * leaves QEMU paused; a person may have started the domain since.
 *
 * @throws SourceStillRunning while QEMU is on its way out, SourceRanOn if the saved state is no longer the last
 */
export async function requireAtRest(host: HostContext, instanceId: InstanceId, owned: number): Promise<void> {
  const record = await readSaveRecord(host.layout, instanceId, owned);
  if (!record?.saved) {
    throw new VmferryError(
      'InstanceNotRunning',
      `instance ${instanceId} was not saved on ${host.name}; there is nothing to release`,
    );
  }
  const domain = await host.hypervisor.find(instanceId);
  if (domain?.state === 'running') {
    throw new VmferryError('SourceRanOn', `instance ${instanceId} runs on ${host.name} although it was saved`);
  }
  if (domain?.process) {
    if (!sameProcess(domain.process, record.process)) {
      throw new VmferryError(
        'SourceRanOn',
        `instance ${instanceId} was started again on ${host.name} after it was saved`,
      );
    }
    if (await host.hypervisor.saveProgress(instanceId)) {
      throw new VmferryError(
        'SourceStillRunning',
        `libvirt still ends the QEMU process of ${instanceId} on ${host.name}`,
      );
    }
    // Suspended before the save and paused ever since, but left behind by a libvirtd that died: what it holds is sealed.
    await host.hypervisor.destroy(instanceId);
  }
  if (record.process && (await host.hypervisor.processAlive(record.process))) {
    throw new VmferryError(
      'SourceStillRunning',
      `the QEMU process ${record.process.pid} of ${instanceId} still lives on ${host.name}`,
    );
  }
  const changed = await changedDisk(record);
  if (changed) {
    const { target, how } = changed;
    throw new VmferryError(
      'SourceRanOn',
      `disk ${target} of instance ${instanceId} was ${how === 'gone' ? 'removed' : 'written'} on ${host.name} after the save`,
    );
  }
}
