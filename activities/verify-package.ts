/**
 * Checks a package that lies on this host, from the signatures down to the last byte. Changes nothing, so it may die at any
 * instant; the next attempt begins anew.
 */
import type { HostActivities } from '../workflows/contract.ts';
import { VmferryError } from '../workflows/failures.ts';
import { withHeartbeat } from './heartbeat.ts';
import type { HostContext } from './host-context.ts';
import { verifyFolder } from './package/verify-file.ts';
import { exists } from './records/durable.ts';

export function createVerifyPackage(host: HostContext): HostActivities['verifyPackage'] {
  return ({ packageId, gently = false }) =>
    withHeartbeat('verifyPackage', async (work) => {
      const folder = host.layout.package(packageId);
      if (!(await exists(folder))) {
        throw new VmferryError('PackageNotFound', `host ${host.name} does not hold package ${packageId}`);
      }
      return verifyFolder({ folder, keys: host.keys, pool: host.pool, work, gently });
    });
}
