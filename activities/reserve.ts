/** Step 2 [destination]: DHCP entry and anti-spoofing rule, so that neither costs blackout. Idempotent. */
import type { HostActivities } from '../workflows/contract.ts';
import type { HostContext } from './host-context.ts';

export function createReserve(host: HostContext): HostActivities['reserve'] {
  return ({ instanceId, name, address }) => host.network.admit(instanceId, name, address);
}
