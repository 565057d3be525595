/** Step 2 [destination]: DHCP entry and anti-spoofing rule, so that neither costs blackout. Idempotent. */
import type { HostActivities } from '../workflows/contract.ts';
import { VmferryError } from '../workflows/failures.ts';
import type { HostContext } from './host-context.ts';
import { passed } from './marks.ts';
import { withInstanceLock } from './records/lock.ts';
import { readReservation, writeReservation } from './reservation.ts';

export function createReserve(host: HostContext): HostActivities['reserve'] {
  return (input) =>
    withInstanceLock(host.layout, input.instanceId, async () => {
      const { instanceId, generation, name, address } = input;
      const reserved = await readReservation(host.layout, instanceId);
      if (reserved && reserved.generation > generation) {
        throw new VmferryError(
          'StaleGeneration',
          `host ${host.name} has made room for a later generation of instance ${instanceId} than ${generation}`,
        );
      }
      await writeReservation(host.layout, input);
      await passed('reserved');
      await host.network.admit(instanceId, name, address);
    });
}
