/** Ends what libvirt is doing to an instance for a caller that is gone. */
import { setTimeout as sleep } from 'node:timers/promises';
import type { InstanceId } from '../workflows/contract.ts';
import type { Work } from './heartbeat.ts';
import type { HostContext } from './host-context.ts';
import type { Domain } from './hypervisor/hypervisor.ts';

/**
 * Ends a save that an attempt or a step before began. One that is past its last byte cannot be ended: then libvirt is about
 * to end QEMU, and the file is all that will be left of the RAM, so it is waited for. To give up the file, or to note that
 * the guest goes on, is safe only beside a QEMU that stays.
 *
 * @returns the domain, with no job under way: a QEMU that is there now stays
 */
export async function endJob({ hypervisor }: HostContext, instanceId: InstanceId, work: Work): Promise<Domain | null> {
  await hypervisor.abortJob(instanceId);
  while (await hypervisor.saveProgress(instanceId)) {
    work.signal.throwIfAborted();
    await sleep(20);
  }
  return hypervisor.find(instanceId);
}
