/** The images of a host as its own files tell: `images/<sha256>/{disk.img,kernel,initrd,image.json}`. */
import { basename, dirname } from 'node:path';
import { join } from 'node:path';
import { z } from 'zod';
import type { Image, ImageId } from '../workflows/contract.ts';
import { VmferryError } from '../workflows/failures.ts';
import { inspectQcow2 } from './disk/qcow2.ts';
import { readJson } from './records/durable.ts';
import type { Layout } from './records/layout.ts';

const sha256 = z.string().regex(/^[0-9a-f]{64}$/);
const BootFile = z.strictObject({ sha256, bytes: z.int().nonnegative() });

/** `image.json`; also what a peer says of an image that it offers. */
export const ImageFile = z.strictObject({
  id: sha256,
  name: z.string().min(1).max(200),
  format: z.enum(['qcow2', 'raw']),
  bytes: z.int().nonnegative(),
  virtualBytes: z.int().nonnegative(),
  boot: z.strictObject({
    kernel: BootFile.exactOptional(),
    initrd: BootFile.exactOptional(),
    cmdline: z.string().max(4096).exactOptional(),
  }),
});

export const IMAGE_JSON = 'image.json';

/** @param how it came here */
export const aboutImage = ({ name }: Image, how: string): string =>
  `${new Date().toISOString()}: image ${name}, ${how}`;

/** Null if this host does not hold the image whole: `image.json` is the last file to appear. */
export async function readImage(layout: Layout, id: ImageId): Promise<Image | null> {
  return readJson(join(layout.image(id), IMAGE_JSON), ImageFile);
}

/**
 * The image that an overlay of this host is based on.
 *
 * @throws UnsupportedDevice if it is based on anything else, for that would not travel
 */
export async function imageOfOverlay(layout: Layout, overlay: string): Promise<ImageId> {
  const { backingFile } = await inspectQcow2(overlay);
  if (backingFile !== null && dirname(dirname(backingFile)) === layout.images) return basename(dirname(backingFile));
  throw new VmferryError(
    'UnsupportedDevice',
    `disk ${overlay} is based on ${backingFile ?? 'no file'}, which is no image of this host`,
  );
}
