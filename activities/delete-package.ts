/** Removes a package from this host. Idempotent; answers the bytes that became free. */
import { readdir, rename, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import type { HostActivities } from '../workflows/contract.ts';
import type { HostContext } from './host-context.ts';
import { exists, syncDirectory } from './records/durable.ts';

export function createDeletePackage(host: HostContext): HostActivities['deletePackage'] {
  return async ({ packageId }) => {
    const { layout } = host;
    const condemned = join(layout.packages, `.deleting-${packageId}`);
    // The name goes first, whole: a half-removed package must not be taken for a sealed one.
    if (await exists(layout.package(packageId))) {
      await rename(layout.package(packageId), condemned);
      await syncDirectory(layout.packages);
    }
    if (!(await exists(condemned))) return { bytes: 0 };
    let bytes = 0;
    for (const entry of await readdir(condemned, { recursive: true, withFileTypes: true })) {
      if (entry.isFile()) bytes += (await stat(join(entry.parentPath, entry.name))).size;
    }
    await rm(condemned, { recursive: true, force: true });
    return { bytes };
  };
}
