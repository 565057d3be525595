import type { AddImageInput, Image } from './contract.ts';
import { onControl, onHost } from './options.ts';
import { tell } from './tell.ts';

/** Takes a base image, with kernel and ramdisk if it has them, into the store of the host that has the files. */
export async function addImage({ host, ...files }: AddImageInput): Promise<Image> {
  tell(`Adds image \`${files.path}\` of **${host}**.`, { source: host });
  await onControl({ summary: `Is ${host} in the pool?` }).findHost({ host });
  const image = await onHost(host, { summary: `Digest and keep ${files.path}` }).addImage(files);
  await onControl({ summary: `${host} holds image ${image.name}`, patience: 'for ever' }).recordImage({ image, host });
  return image;
}
