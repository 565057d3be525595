import { ApplicationFailure, patched } from '@temporalio/workflow';
import type { HostId, ImageId, PackageId, PullInput, PullResult } from './contract.ts';
import { failure, isCancellation, reasonOf } from './failing.ts';
import { onControl, onHost } from './options.ts';
import { tell } from './tell.ts';
import { recordWhole, verifyAt } from './verifying.ts';

/** Brings an image or a package to another host, which fetches it from one that holds it. */
export async function pull({ kind, id, destination }: PullInput): Promise<PullResult> {
  tell(`Pulls ${kind} \`${id}\` to **${destination}**.`, { destination });
  const bytes = kind === 'image' ? await pullImage(id, destination) : await pullPackage(id, destination);
  return { id, destination, bytes };
}

async function pullImage(imageId: ImageId, destination: HostId): Promise<number> {
  const { image, hosts } = await onControl({ summary: 'Who holds it?' }).findImage({ imageId });
  await onControl({ summary: `Is ${destination} in the pool?` }).findHost({ host: destination });
  const sources = hosts.filter(({ id }) => id !== destination).map(({ record }) => record);
  const { bytes } = await onHost(destination, { summary: `Fetch image ${image.name}` }).pullImage({ image, sources });
  await onControl({ summary: `${destination} holds it now`, patience: 'for ever' }).recordImage({
    image,
    host: destination,
  });
  return bytes;
}

/**
 * The holders are asked in turn, those first whose copy is not known to be damaged; what one of them sent is not fetched again
 * from the next. A copy that the destination has already is looked at, and repaired if it is damaged.
 */
async function pullPackage(packageId: PackageId, destination: HostId): Promise<number> {
  const catalog = onControl({ summary: 'Who holds it?' });
  const { hosts, damaged = [], at, ...known } = await catalog.findPackage({ packageId });
  const reader = await onControl({ summary: `Is ${destination} in the pool?` }).findHost({ host: destination });
  const looks = patched('look-before-pull');
  let failed: unknown = failure('PackageNotFound', `No host holds package ${packageId}`);
  if (hosts.some(({ id }) => id === destination)) {
    if (!looks) return known.bytes;
    const found = await verifyAt({ packageId, host: destination, at });
    if (!(found instanceof ApplicationFailure)) return found.bytes;
    const { type, message } = reasonOf(found);
    failed = failure(type, `${message}; no other host holds package ${packageId}`, found);
  }
  const sources = hosts
    .filter(({ id }) => id !== destination)
    .sort((a, b) => Number(damaged.includes(a.id)) - Number(damaged.includes(b.id)));
  for (const [turn, { id, record: source }] of sources.entries()) {
    try {
      const { instanceId, generation, sealedAt } = known;
      await onHost(id, { summary: `Let ${destination} fetch it` }).readdressPackage({
        packageId,
        instanceId,
        destination: reader.record,
      });
      const began = looks ? (await onControl({ summary: 'When does it begin?' }).findPackage({ packageId })).at : null;
      const { bytes } = await onHost(destination, { summary: `Fetch it from ${id}` }).pullPackage({
        packageId,
        instanceId,
        generation,
        source,
      });
      await onControl({ summary: `${destination} holds it now`, patience: 'for ever' }).recordPackage({
        packageId,
        instanceId,
        generation,
        host: destination,
        bytes,
        sealedAt,
      });
      if (began !== null) await recordWhole({ packageId, host: destination, at: began });
      return bytes;
    } catch (error) {
      if (isCancellation(error)) throw error;
      if (turn === 0) failed = error;
    }
  }
  throw failed;
}
