/** Bulk files: read and written a piece at a time, never followed through links, on the disk before they have a name. */
import { createHash } from 'node:crypto';
import { constants } from 'node:fs';
import { open, readdir, rename, rm, type FileHandle } from 'node:fs/promises';
import { VmferryError } from '../../workflows/failures.ts';
import { asNoSpace } from '../records/durable.ts';

const codeOf = (error: unknown): unknown => (error instanceof Error && 'code' in error ? error.code : undefined);

/** Opens a regular file for reading; null if there is none. Refuses links and devices with ForbiddenMember. */
export async function openRegular(path: string): Promise<{ file: FileHandle; bytes: number } | null> {
  let file: FileHandle;
  try {
    // Without O_NONBLOCK a FIFO would hold us for ever.
    file = await open(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
  } catch (error) {
    if (codeOf(error) === 'ENOENT') return null;
    if (codeOf(error) === 'ELOOP') throw new VmferryError('ForbiddenMember', `${path} is a link`, { cause: error });
    throw error;
  }
  try {
    const stats = await file.stat();
    if (!stats.isFile()) throw new VmferryError('ForbiddenMember', `${path} is no regular file`);
    return { file, bytes: stats.size };
  } catch (error) {
    await file.close();
    throw error;
  }
}

/**
 * Reads exactly so many bytes into memory of their own, which may be transferred to a thread.
 *
 * @returns fewer bytes only where the file ends
 */
export async function readExactly(file: FileHandle, bytes: number, position: number): Promise<Uint8Array<ArrayBuffer>> {
  const buffer = new Uint8Array(new ArrayBuffer(bytes));
  let filled = 0;
  while (filled < bytes) {
    const { bytesRead } = await file.read(buffer, filled, bytes - filled, position + filled);
    if (bytesRead === 0) break;
    filled += bytesRead;
  }
  return filled === bytes ? buffer : buffer.slice(0, filled);
}

/**
 * Gives the memory of bulk buffers back at once. V8 lets some 64 MiB of dead ones pile up in every thread before it
 * collects, which alone would be half of what a worker may use. Nothing may look at them afterwards.
 */
export function discard(...views: Uint8Array[]): void {
  for (const { buffer } of views) {
    // Node hands out small buffers as parts of one that is shared.
    if (buffer instanceof ArrayBuffer && buffer.byteLength >= DISCARDED_BYTES && !buffer.detached) buffer.transfer(0);
  }
}

const DISCARDED_BYTES = 256 * 1024;

/** SHA-256 of an open file from its beginning, in hexadecimal, through one small buffer. */
export async function digestFile(file: FileHandle, signal?: AbortSignal): Promise<string> {
  const hash = createHash('sha256');
  const buffer = Buffer.allocUnsafeSlow(1024 * 1024);
  for (let position = 0; ;) {
    signal?.throwIfAborted();
    const { bytesRead } = await file.read(buffer, 0, buffer.length, position);
    if (bytesRead === 0) break;
    hash.update(buffer.subarray(0, bytesRead));
    position += bytesRead;
  }
  discard(buffer);
  return hash.digest('hex');
}

/** A whole small file, up to `limit` bytes; null if there is none. Throws PackageMalformed if it is longer. */
export async function readBounded(path: string, limit: number): Promise<Uint8Array<ArrayBuffer> | null> {
  const opened = await openRegular(path);
  if (!opened) return null;
  try {
    if (opened.bytes > limit) {
      throw new VmferryError(
        'PackageMalformed',
        `${path} has ${opened.bytes} bytes; ${limit} is the most that it may have`,
      );
    }
    return await readExactly(opened.file, opened.bytes, 0);
  } finally {
    await opened.file.close();
  }
}

/** Writes a file so that its name appears only with its content on the disk. The caller makes the name durable. */
export async function writeWhole(path: string, data: Uint8Array): Promise<void> {
  await writeThen(path, async (file) => {
    await file.writeFile(data);
  });
}

/** Lets `write` fill `<path>.partial`, syncs it and gives it its name. Throws NoSpace on a full disk. */
export async function writeThen(path: string, write: (file: FileHandle) => Promise<void>): Promise<void> {
  const partial = `${path}.partial`;
  // A leftover of an attempt that was killed is ours to replace: its folder carries the move's or the package's id.
  await rm(partial, { force: true });
  try {
    const file = await open(partial, 'wx', 0o600);
    try {
      await write(file);
      await file.datasync();
    } finally {
      await file.close();
    }
    await rename(partial, path);
  } catch (error) {
    await rm(partial, { force: true });
    throw asNoSpace(error, path);
  }
}

/** Did the disk fail to give what is there, or the file system find itself damaged? */
export function isUnreadable(error: unknown): boolean {
  return ['EIO', 'EBADMSG', 'EUCLEAN'].includes(String(codeOf(error)));
}

/** Names in a folder; none if there is no such folder. */
export async function namesIn(folder: string): Promise<string[]> {
  try {
    return await readdir(folder);
  } catch (error) {
    if (codeOf(error) === 'ENOENT') return [];
    throw error;
  }
}
