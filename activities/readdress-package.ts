/**
 * Writes an envelope for another destination into a package that this host can read; the bulk stays as it is. If the other
 * goes on by a fence, this host takes note of the fence first: so it hands the package to no second one.
 */
import type { HostActivities } from '../workflows/contract.ts';
import { VmferryError } from '../workflows/failures.ts';
import type { HostContext } from './host-context.ts';
import { addressPackage, readEnvelope } from './package/envelope.ts';
import { exists } from './records/durable.ts';
import { withInstanceLock } from './records/lock.ts';

export function createReaddressPackage(host: HostContext): HostActivities['readdressPackage'] {
  return ({ packageId, instanceId, destination, fence }) =>
    withInstanceLock(host.layout, instanceId, async () => {
      const { keys, layout, ledger, pool } = host;
      const folder = layout.package(packageId);
      if (!(await exists(folder))) {
        throw new VmferryError('PackageNotFound', `host ${host.name} does not hold package ${packageId}`);
      }
      const { origin } = await readEnvelope({ folder, keys, pool });
      if (origin.instanceId !== instanceId) {
        throw new VmferryError(
          'PackageMalformed',
          `package ${packageId} is of instance ${origin.instanceId}, not of ${instanceId}`,
        );
      }
      const last = fence?.at(-1);
      if (last !== undefined) await ledger.obeyFence(last, { final: false });
      await addressPackage({
        folder,
        keys,
        pool,
        senderRecord: await ledger.selfRecord(),
        destination: await pool.verifyHost(destination),
      });
    });
}
