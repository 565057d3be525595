/**
 * Takes a disk image, with kernel and ramdisk if given, into this host's store. Its id is the SHA-256 of its content, so
 * adding it twice changes nothing. The folder gets its final name when all is in it and synced.
 */
import { rename, rm, stat } from 'node:fs/promises';
import { basename, isAbsolute, join } from 'node:path';
import type { BootFiles, HostActivities, Image } from '../workflows/contract.ts';
import { VmferryError } from '../workflows/failures.ts';
import { copyFile, sha256File } from './disk/copy.ts';
import { inspectImage } from './disk/qcow2.ts';
import { withHeartbeat } from './heartbeat.ts';
import type { HostContext } from './host-context.ts';
import { aboutImage, IMAGE_JSON, readImage } from './images.ts';
import { makeDirectory, syncDirectory, temporaryName, writeRecord } from './records/durable.ts';

export function createAddImage(host: HostContext): HostActivities['addImage'] {
  return ({ path, kernelPath, initrdPath, cmdline, name }) =>
    withHeartbeat('addImage', async (work) => {
      for (const file of [path, kernelPath, initrdPath]) if (file !== undefined) await requireFile(host, file);
      // Refuses an image that is itself based on another file.
      const { format, virtualBytes } = await inspectImage(path);
      const id = await sha256File(path, work);
      const known = await readImage(host.layout, id);
      if (known) return known;

      const folder = join(host.layout.images, temporaryName('adding'));
      await makeDirectory(folder);
      try {
        await copyFile({ from: path, to: join(folder, 'disk.img'), work });
        const boot: BootFiles = { ...(cmdline !== undefined && { cmdline }) };
        for (const [part, from] of Object.entries({ kernel: kernelPath, initrd: initrdPath })) {
          if (from === undefined) continue;
          await copyFile({ from, to: join(folder, part), work });
          boot[part as 'kernel' | 'initrd'] = { sha256: await sha256File(from, work), bytes: (await stat(from)).size };
        }
        if ((await sha256File(join(folder, 'disk.img'), work)) !== id) {
          throw new VmferryError('ImageDamaged', `${path} on host ${host.name} changed while it was read`);
        }
        const bytes = (await stat(path)).size;
        const image: Image = { id, name: name ?? basename(path), format, bytes, virtualBytes, boot };
        await writeRecord(join(folder, IMAGE_JSON), aboutImage(image, `added on ${host.name} from ${path}`), image);
        await syncDirectory(folder);
        await rename(folder, host.layout.image(id));
        await syncDirectory(host.layout.images);
        return image;
      } finally {
        await rm(folder, { recursive: true, force: true });
      }
    });
}

async function requireFile(host: HostContext, path: string): Promise<void> {
  if (!isAbsolute(path)) throw new VmferryError('InvalidInput', `${path} is not an absolute path on host ${host.name}`);
  const found = await stat(path).catch((error: unknown) => {
    throw new VmferryError('FileNotFound', `there is no file ${path} on host ${host.name}`, { cause: error });
  });
  if (!found.isFile()) throw new VmferryError('FileNotFound', `${path} on host ${host.name} is not a regular file`);
}
