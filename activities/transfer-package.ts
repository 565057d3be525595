/**
 * Step 8 [destination]: pulls the sealed package from the source. The origin record is checked before the bulk is fetched:
 * a package that this host would refuse costs a few kilobytes.
 */
import { packageGeneration, type HostActivities } from '../workflows/contract.ts';
import { atDestination } from './given-up.ts';
import { withHeartbeat } from './heartbeat.ts';
import type { HostContext } from './host-context.ts';
import { passed } from './marks.ts';
import { requireSealedFor } from './package/envelope.ts';
import { fetchPackage } from './transfer/fetch-package.ts';

export function createTransferPackage(host: HostContext): HostActivities['transferPackage'] {
  return (move) =>
    withHeartbeat('transferPackage', (work) => {
      const { packageId, source, fence } = move;
      return atDestination(host, move, async () =>
        fetchPackage({
          ...host,
          selfRecord: await host.ledger.selfRecord(),
          packageId,
          source,
          inspect: async ({ origin }) => {
            requireSealedFor(origin, { ...move, generation: packageGeneration(move) });
            await host.ledger.accept(origin, fence);
            await passed('accepted');
          },
          work,
        }),
      );
    });
}
