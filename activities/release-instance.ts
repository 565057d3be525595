/**
 * Step 12 [source]: the point of no return. Given the destination's receipt, and the QEMU process gone, the release is
 * written once and durably; then the domain is undefined.
 *
 * How it can die half way: before the release is on disk nothing happened; after it the same release is answered for
 * ever, and the domain is undefined by the next attempt.
 */
import type { HostActivities, SignedText } from '../workflows/contract.ts';
import { requireAtRest } from './at-rest.ts';
import type { HostContext } from './host-context.ts';
import { passed } from './marks.ts';
import { withInstanceLock } from './records/lock.ts';

export function createReleaseInstance(host: HostContext): HostActivities['releaseInstance'] {
  return (input) =>
    withInstanceLock(host.layout, input.instanceId, async () => {
      const { instanceId, generation, packageId, receipt, destination } = input;
      if (!(await host.ledger.decision(instanceId, generation - 1)))
        await requireAtRest(host, instanceId, generation - 1);
      const release: SignedText = await host.ledger.release({
        instanceId,
        generation,
        packageId,
        receipt,
        destination,
      });
      await passed('released');
      // An old release may be asked for again when the instance has long come back.
      if (await host.ledger.owned(instanceId)) return { release };
      // A person who started the domain since it was looked at: nobody else can run the instance before this answer.
      const domain = await host.hypervisor.find(instanceId);
      if (domain?.process && domain.persistent) await host.hypervisor.destroy(instanceId);
      await host.hypervisor.undefine(instanceId);
      return { release };
    });
}
