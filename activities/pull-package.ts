/** Brings a package of another host here, to keep: for instance before its owner goes away. Nothing is opened. */
import type { HostActivities } from '../workflows/contract.ts';
import { withHeartbeat } from './heartbeat.ts';
import type { HostContext } from './host-context.ts';
import { fetchPackage } from './transfer/fetch-package.ts';

export function createPullPackage(host: HostContext): HostActivities['pullPackage'] {
  return ({ packageId, source }) =>
    withHeartbeat('pullPackage', async (work) => {
      const { packageBytes } = await fetchPackage({
        ...host,
        selfRecord: await host.ledger.selfRecord(),
        packageId,
        source,
        inspect: () => Promise.resolve(),
        work,
      });
      return { bytes: packageBytes };
    });
}
