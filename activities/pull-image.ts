/**
 * Fetches a base image from a peer while the guest still runs. Kernel and ramdisk come along, so that instances can be
 * spawned from it here. Everything is checked against its digest; the folder gets its name when all is there.
 */
import { rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { HostActivities, HostId, Image, SignedText } from '../workflows/contract.ts';
import { VmferryError } from '../workflows/failures.ts';
import { sha256File } from './disk/copy.ts';
import { inspectImage } from './disk/qcow2.ts';
import { withHeartbeat, type Work } from './heartbeat.ts';
import type { HostContext } from './host-context.ts';
import { aboutImage, IMAGE_JSON, ImageFile, readImage } from './images.ts';
import { makeDirectory, syncDirectory, syncFile, writeRecord } from './records/durable.ts';
import { withImageLock } from './records/lock.ts';
import { path } from './transfer/endpoint.ts';
import { PeerClient } from './transfer/package-client.ts';

export function createPullImage(host: HostContext): HostActivities['pullImage'] {
  return ({ image, sources }) =>
    withHeartbeat('pullImage', async (work) => {
      const known = ImageFile.parse(image);
      // Two that write one file would spoil what either of them has checked.
      return withImageLock(host.layout, known.id, () => pullFromAny(host, known, sources, work), { wait: OTHER_MS });
    });
}

/** Milliseconds to wait for another attempt that pulls the same image: then it is there. */
const OTHER_MS = 60_000;

async function pullFromAny(
  host: HostContext,
  known: Image,
  sources: readonly SignedText[],
  work: Work,
): Promise<{ bytes: number }> {
  if (await readImage(host.layout, known.id)) return { bytes: 0 };
  const self = await host.ledger.selfRecord();
  let failure: unknown = new VmferryError('ImageNotFound', `no host holds image ${known.name} (${known.id})`);
  for (const source of sources) {
    const peer = await host.pool.verifyHost(source);
    if (peer.name === host.name) continue;
    const client = new PeerClient(peer, host.keys, self);
    try {
      return { bytes: await pull(host, known, peer.name, client, work) };
    } catch (error) {
      work.signal.throwIfAborted();
      failure = error;
    } finally {
      client.close();
    }
  }
  throw failure;
}

async function pull(host: HostContext, image: Image, peer: HostId, client: PeerClient, work: Work): Promise<number> {
  const folder = `${host.layout.image(image.id)}.incoming`;
  await makeDirectory(folder);
  const files = [
    { name: 'disk.img', bytes: image.bytes, sha256: image.id },
    ...(['kernel', 'initrd'] as const).flatMap((name) => (image.boot[name] ? [{ name, ...image.boot[name] }] : [])),
  ] as const;
  const total = files.reduce((sum, { bytes }) => sum + bytes, 0);
  let done = 0;
  let wire = 0;
  for (const { name, bytes, sha256 } of files) {
    const target = join(folder, name);
    wire += await client.fetchFile(path.image(image.id, name), target, bytes, work.signal, (count) =>
      work.onProgress((done += count), total),
    );
    if ((await sha256File(target, work)) !== sha256) {
      await rm(target, { force: true });
      throw new VmferryError(
        'ImageDamaged',
        `${name} of image ${image.name} (${image.id}) arrived with another digest`,
      );
    }
    await syncFile(target);
  }
  // The digest says that it is the image that was asked for; this says that it names no other file.
  const { format, virtualBytes } = await inspectImage(join(folder, 'disk.img'));
  if (format !== image.format || virtualBytes !== image.virtualBytes) {
    throw new VmferryError(
      'ImageDamaged',
      `image ${image.name} is not the ${image.format} of ${image.virtualBytes} bytes that was announced`,
    );
  }
  await writeRecord(join(folder, IMAGE_JSON), aboutImage(image, `fetched to ${host.name} from ${peer}`), image);
  await syncDirectory(folder);
  await rename(folder, host.layout.image(image.id));
  await syncDirectory(host.layout.images);
  return wire;
}
