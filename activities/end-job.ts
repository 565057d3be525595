/** What libvirt is doing to an instance for a caller that is gone: a save that an attempt or a step before began. */
import { setTimeout as sleep } from 'node:timers/promises';
import type { InstanceId } from '../workflows/contract.ts';
import { VmferryError } from '../workflows/failures.ts';
import type { Work } from './heartbeat.ts';
import type { HostContext } from './host-context.ts';
import type { Domain } from './hypervisor/hypervisor.ts';

/** How long a QEMU that libvirt has let go of may take to end. */
const QEMU_END_MS = 10_000;

/**
 * Ends it. A save that is past its last byte cannot be ended: then libvirt is about to end QEMU, and the file is all that
 * will be left of the RAM, so it is waited for. To give up the file, or to note that the guest goes on, is safe only beside a
 * QEMU that stays.
 *
 * @returns the domain, with no job under way: a QEMU that is there now stays
 */
export async function endJob(host: HostContext, instanceId: InstanceId, work: Work): Promise<Domain | null> {
  await host.hypervisor.abortJob(instanceId);
  return jobEnded(host, instanceId, work);
}

/**
 * Waits for it, however long it takes: libvirt goes on, whoever asked.
 *
 * @returns the domain, with no job under way: a QEMU that is there now stays
 * @throws LibvirtFailed if libvirt has lost sight of a QEMU that lives
 */
export async function jobEnded(host: HostContext, instanceId: InstanceId, work: Work): Promise<Domain | null> {
  const { hypervisor, name } = host;
  for (let job; (job = await hypervisor.saveProgress(instanceId)) !== null; await sleep(20)) {
    work.signal.throwIfAborted();
    work.onProgress(job.done, job.total);
  }
  const deadline = performance.now() + QEMU_END_MS;
  for (;;) {
    const domain = await hypervisor.find(instanceId);
    if (!domain?.process || domain.state === 'running' || domain.state === 'paused') return domain;
    // On its way out.
    if (performance.now() > deadline) {
      const { pid } = domain.process;
      throw new VmferryError('LibvirtFailed', `libvirt on ${name} has lost sight of QEMU ${pid} of ${instanceId}`);
    }
    await sleep(20);
  }
}
