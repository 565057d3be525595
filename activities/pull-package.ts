/**
 * Brings a package of another host here, to keep: for instance before its owner goes away. A copy that is here already is
 * looked at, and what is damaged of it is fetched anew. Nothing is opened.
 *
 * How it can die half way: see fetch-package.ts and repair-package.ts. Under `packages/` lies nothing, or the whole package,
 * or the damaged one with some of its files repaired; the next attempt finds out which, and goes on.
 */
import type { HostActivities } from '../workflows/contract.ts';
import { withHeartbeat } from './heartbeat.ts';
import type { HostContext } from './host-context.ts';
import { requireSealedFor } from './package/envelope.ts';
import { fetchPackage } from './transfer/fetch-package.ts';
import { repairPackage } from './transfer/repair-package.ts';

export function createPullPackage(host: HostContext): HostActivities['pullPackage'] {
  return (input) =>
    withHeartbeat('pullPackage', async (work) => {
      const pull = { ...host, ...input, selfRecord: await host.ledger.selfRecord(), work };
      const repaired = await repairPackage(pull);
      if (repaired) return { bytes: repaired.bytes };
      const { packageBytes } = await fetchPackage({
        ...pull,
        inspect: ({ origin }) => Promise.resolve(requireSealedFor(origin, input)),
      });
      return { bytes: packageBytes };
    });
}
