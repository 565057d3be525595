/**
 * Removes an image from this host, unless a disk here is based on it. Idempotent. What the catalog knows of users is not
 * enough: a disk may stand on the image that no catalog has heard of, or not any more.
 *
 * How it can die half way: the image has another name, by which nobody finds it; the next attempt, or the worker's start,
 * ends what was begun. The look at the disks comes again after the name is gone, for one may have been made in between: it
 * then gets its base back. Whoever makes a disk later finds no image.
 */
import { readdir } from 'node:fs/promises';
import { basename, join } from 'node:path';
import type { HostActivities, ImageId } from '../workflows/contract.ts';
import { VmferryError } from '../workflows/failures.ts';
import { backingChain } from './disk/backing-chain.ts';
import type { HostContext } from './host-context.ts';
import { diskFiles } from './hypervisor/domain-xml.ts';
import { condemn, condemned, reprieve } from './records/condemned.ts';
import { exists, removeDurably } from './records/durable.ts';

export function createDeleteImage(host: HostContext): HostActivities['deleteImage'] {
  return async ({ imageId }) => {
    const { layout } = host;
    if (await exists(layout.image(imageId))) {
      await requireUnused(host, imageId);
      // The record goes first, in one step with the name: a half-removed image must not be taken for a whole one.
      await condemn(layout.image(imageId));
    }
    await endImageDeletion(host, imageId);
  };
}

/**
 * Removes the files of an image whose name is gone already; no error if there are none.
 *
 * @throws InUse, with the image in its place again, if a disk has come to stand on it
 */
export async function endImageDeletion(host: HostContext, imageId: ImageId): Promise<void> {
  const image = host.layout.image(imageId);
  if (!(await exists(condemned(image)))) return;
  try {
    await requireUnused(host, imageId);
  } catch (error) {
    await reprieve(image);
    throw error;
  }
  await removeDurably(condemned(image));
}

/** @throws InUse */
async function requireUnused(host: HostContext, imageId: ImageId): Promise<void> {
  const image = host.layout.imageDisk(imageId);
  for (const disk of await disksOf(host)) {
    const { files, broken } = await backingChain(disk);
    // Members of packages name their base by its id alone.
    const stands = files.includes(image) || broken?.path === image || basename(broken?.path ?? '') === imageId;
    if (stands) throw new VmferryError('InUse', `image ${imageId} is the base of ${disk} on host ${host.name}`);
  }
}

/** Every disk that a QEMU of this host may have open, or that a move goes on from. */
async function disksOf({ layout, hypervisor }: HostContext): Promise<Set<string>> {
  const found = new Set<string>();
  for (const folder of [layout.instances, layout.moves, layout.staging]) {
    for (const name of await readdir(folder, { recursive: true })) {
      if (/(^|\/)(g[0-9]+\/[a-z0-9]+|disk-[a-z0-9]+)\.qcow2$/.test(name)) found.add(join(folder, name));
    }
  }
  for (const { instanceId, persistent, process } of await hypervisor.list()) {
    for (const which of ['live', 'inactive'] as const) {
      if (which === 'live' ? process === null : !persistent) continue;
      for (const file of diskFiles(await hypervisor.domainXml(instanceId, which))) found.add(file);
    }
  }
  return found;
}
