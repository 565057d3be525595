/** The release that this host has given, for a new owner who has not heard of it. Changes nothing. */
import type { HostActivities } from '../workflows/contract.ts';
import { VmferryError } from '../workflows/failures.ts';
import type { HostContext } from './host-context.ts';

export function createFindRelease(host: HostContext): HostActivities['findRelease'] {
  return async ({ instanceId }) => {
    const decided = (await host.ledger.view(instanceId))?.decided ?? null;
    const decision = decided && (await host.ledger.decision(instanceId, decided.generation));
    if (decided?.kind !== 'release' || decided.to === null || !decision || decision.packageId === null) {
      throw new VmferryError('ReleaseMissing', `host ${host.name} has released instance ${instanceId} to nobody`);
    }
    const { statement: release, packageId } = decision;
    return { release, packageId, generation: decided.generation + 1, to: decided.to };
  };
}
