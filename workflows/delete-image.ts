import type { DeleteImageInput } from './contract.ts';
import { failure } from './failing.ts';
import { onControl, onHost } from './options.ts';
import { tell } from './tell.ts';
import { everywhere } from './everywhere.ts';

/** Deletes a base image from every host that holds it. Refused while an instance needs it. */
export async function deleteImage({ imageId }: DeleteImageInput): Promise<void> {
  tell(`Deletes image \`${imageId}\`.`);
  const { image, hosts, usedBy } = await onControl({ summary: 'Who holds it, who needs it?' }).findImage({ imageId });
  if (usedBy.length > 0)
    throw failure(
      'InUse',
      `Image ${image.name} is the base of ${usedBy.length} instances: ${usedBy.slice(0, 5).join(', ')}`,
    );
  await everywhere(hosts, async (host) => {
    await onHost(host, { summary: `Delete image ${image.name}` }).deleteImage({ imageId });
    await onControl({ summary: `${host} holds it no more`, patience: 'for ever' }).forgetImage({ imageId, host });
  });
}
