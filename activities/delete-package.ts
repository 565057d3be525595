/**
 * Removes a package from this host, unless an instance here would be continued from it. Idempotent; answers the bytes that
 * became free. What the catalog knows is not enough: it may be behind, and a call that was thought dead may come late.
 *
 * How it can die half way: the package has another name, by which nobody finds it; the next attempt, or the worker's start,
 * ends what was begun. The look at the instances comes again after the name is gone, for one may have been saved or taken
 * over in between: it then gets its package back.
 */
import { readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import type { HostActivities, InstanceId, PackageId } from '../workflows/contract.ts';
import { VmferryError } from '../workflows/failures.ts';
import type { HostContext } from './host-context.ts';
import { stagedBy } from './move-folder.ts';
import { condemn, condemned, reprieve } from './records/condemned.ts';
import { exists, removeDurably } from './records/durable.ts';
import { withPackageLock } from './records/lock.ts';
import { hasRun } from './resume-instance.ts';
import { readSaveRecord } from './save-record.ts';

export function createDeletePackage(host: HostContext): HostActivities['deletePackage'] {
  return ({ packageId }) => withPackageLock(host.layout, packageId, () => deletePackage(host, packageId));
}

async function deletePackage(host: HostContext, packageId: PackageId): Promise<{ bytes: number }> {
  const { layout } = host;
  if (await exists(layout.package(packageId))) {
    await requireUnneeded(host, packageId);
    // A half-removed package must not be taken for a sealed one.
    await condemn(layout.package(packageId));
  }
  return endPackageDeletion(host, packageId);
}

/**
 * Removes the files of a package whose name is gone already; no error if there are none.
 *
 * @throws InUse, with the package in its place again, if an instance has come to need it
 */
export async function endPackageDeletion(host: HostContext, packageId: PackageId): Promise<{ bytes: number }> {
  const sealed = host.layout.package(packageId);
  const folder = condemned(sealed);
  if (!(await exists(folder))) return { bytes: 0 };
  try {
    await requireUnneeded(host, packageId);
  } catch (error) {
    await reprieve(sealed);
    throw error;
  }
  let bytes = 0;
  for (const entry of await readdir(folder, { recursive: true, withFileTypes: true })) {
    if (entry.isFile()) bytes += (await stat(join(entry.parentPath, entry.name))).size;
  }
  await removeDurably(folder);
  return { bytes };
}

/** @throws InUse */
async function requireUnneeded(host: HostContext, packageId: PackageId): Promise<void> {
  // Released to this host or not: should it lose its power, it opens the package once more.
  const moveId = await stagedBy(host.layout, packageId);
  if (moveId !== null) {
    throw new VmferryError('InUse', `move ${moveId} may have to open package ${packageId} again on host ${host.name}`);
  }
  for (const instanceId of await readdir(host.layout.instances)) {
    if (!(await isNeededFor(host, packageId, instanceId))) continue;
    throw new VmferryError(
      'InUse',
      `instance ${instanceId} on host ${host.name} would be continued from package ${packageId}`,
    );
  }
}

/** Saved in it by this host, which owns it still; or by it given to this host, or taken back, and not let run since. */
async function isNeededFor(host: HostContext, packageId: PackageId, instanceId: InstanceId): Promise<boolean> {
  const owned = await host.ledger.owned(instanceId);
  if (!owned) return false;
  const saved = await readSaveRecord(host.layout, instanceId, owned.generation);
  const last = await host.ledger.lastOwned(instanceId);
  const given = last?.packageId === packageId && !(await hasRun(host, instanceId, owned.generation));
  if (saved?.packageId !== packageId && !given) return false;
  return (await host.hypervisor.find(instanceId))?.state !== 'running';
}
