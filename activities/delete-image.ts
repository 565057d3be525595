/** Removes an image from this host, unless an overlay here is based on it. Idempotent. */
import { readdir, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { HostActivities } from '../workflows/contract.ts';
import { VmferryError } from '../workflows/failures.ts';
import { inspectQcow2 } from './disk/qcow2.ts';
import type { HostContext } from './host-context.ts';
import { exists, syncDirectory } from './records/durable.ts';

export function createDeleteImage(host: HostContext): HostActivities['deleteImage'] {
  return async ({ imageId }) => {
    const { layout } = host;
    if (!(await exists(layout.image(imageId)))) return;
    const disk = layout.imageDisk(imageId);
    for (const overlay of await overlays(host)) {
      if ((await inspectQcow2(overlay)).backingFile === disk) {
        throw new VmferryError('InUse', `image ${imageId} is the base of ${overlay} on host ${host.name}`);
      }
    }
    // The record goes first, in one step with the name: a half-removed image must not be taken for a whole one.
    const condemned = join(layout.images, `.deleting-${imageId}`);
    await rm(condemned, { recursive: true, force: true });
    await rename(layout.image(imageId), condemned);
    await syncDirectory(layout.images);
    await rm(condemned, { recursive: true, force: true });
  };
}

/** Every overlay that a QEMU of this host may have open. */
async function overlays(host: HostContext): Promise<string[]> {
  const found: string[] = [];
  for (const name of await readdir(host.layout.instances, { recursive: true })) {
    if (/(^|\/)g[0-9]+\/[a-z0-9]+\.qcow2$/.test(name)) found.push(join(host.layout.instances, name));
  }
  return found;
}
