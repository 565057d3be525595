import type { HostId, ImageId, PackageId, PullInput, PullResult } from './contract.ts';
import { failure } from './failing.ts';
import { onControl, onHost } from './options.ts';
import { tell } from './tell.ts';

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

/** The holders are asked in turn; what one of them sent is not fetched again from the next. */
async function pullPackage(packageId: PackageId, destination: HostId): Promise<number> {
  const { hosts, ...known } = await onControl({ summary: 'Who holds it?' }).findPackage({ packageId });
  const reader = await onControl({ summary: `Is ${destination} in the pool?` }).findHost({ host: destination });
  if (hosts.some(({ id }) => id === destination)) return known.bytes;
  let failed: unknown = failure('PackageNotFound', `No host holds package ${packageId}`);
  for (const [turn, { id, record: source }] of hosts.entries()) {
    try {
      const { instanceId, generation, sealedAt } = known;
      await onHost(id, { summary: `Let ${destination} fetch it` }).readdressPackage({
        packageId,
        instanceId,
        destination: reader.record,
      });
      const { bytes } = await onHost(destination, { summary: `Fetch it from ${id}` }).pullPackage({
        packageId,
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
      return bytes;
    } catch (error) {
      if (turn === 0) failed = error;
    }
  }
  throw failed;
}
