/** Lets another host of the pool fetch and open a package that this host holds: a new envelope, the bulk stays. */
import type { HostActivities } from '../workflows/contract.ts';
import type { HostContext } from './host-context.ts';
import { addressPackage } from './package/envelope.ts';
import { selfRecord } from './transfer-package.ts';

export function createSharePackage(host: HostContext): HostActivities['sharePackage'] {
  return async ({ packageId, reader }) =>
    addressPackage({
      folder: host.layout.package(packageId),
      keys: host.keys,
      pool: host.pool,
      senderRecord: await selfRecord(host),
      destination: await host.pool.verifyHost(reader),
    });
}
