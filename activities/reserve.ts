/** Step 2 [destination]: DHCP entry and anti-spoofing rule, so that neither costs blackout. Idempotent. */
import type { HostActivities } from '../workflows/contract.ts';
import { VmferryError } from '../workflows/failures.ts';
import { atDestination } from './given-up.ts';
import type { HostContext } from './host-context.ts';
import { passed } from './marks.ts';
import { readReservation, writeReservation } from './reservation.ts';

export function createReserve(host: HostContext): HostActivities['reserve'] {
  return (input) =>
    atDestination(host, input, async () => {
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
