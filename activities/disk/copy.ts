/** Copies and digests of files of any size, in bounded memory. */
import { createHash } from 'node:crypto';
import { constants, copyFile as cloneFile, open, rm } from 'node:fs/promises';
import type { Work } from '../heartbeat.ts';
import { asNoSpace } from '../records/durable.ts';

const CHUNK_BYTES = 4 * 1024 * 1024;
/** Holes are made in this grain; it is a cluster of qcow2. */
const GRAIN_BYTES = 64 * 1024;
const ZEROS = Buffer.alloc(GRAIN_BYTES);

/**
 * Copies a file, replacing one that is there, readable for its owner alone. Where the file system can, both share their
 * blocks until one is written. Otherwise all bytes are copied, and stretches of zeros become holes. The content is synced;
 * its name is when the caller syncs the directory.
 */
export async function copyFile(options: { from: string; to: string; work: Work }): Promise<void> {
  const { from, to, work } = options;
  work.signal.throwIfAborted();
  await rm(to, { force: true });
  try {
    await cloneFile(from, to, constants.COPYFILE_FICLONE_FORCE);
  } catch {
    // No reflinks here, or an error that the copy by bytes meets again and reports.
    await copyBytes(from, to, work);
    return;
  }
  const copy = await open(to, 'r+');
  try {
    await copy.chmod(0o600);
    await copy.sync();
    const { size } = await copy.stat();
    work.onProgress(size, size);
  } finally {
    await copy.close();
  }
}

async function copyBytes(from: string, to: string, work: Work): Promise<void> {
  const source = await open(from, 'r');
  try {
    const target = await open(to, 'w', 0o600);
    try {
      const { size } = await source.stat();
      const buffer = Buffer.allocUnsafe(CHUNK_BYTES);
      for (let offset = 0; offset < size;) {
        work.signal.throwIfAborted();
        const { bytesRead } = await source.read(buffer, 0, buffer.length, offset);
        if (bytesRead === 0) throw new Error(`${from} became shorter while it was copied`);
        for (const [start, end] of stretches(buffer.subarray(0, bytesRead))) {
          for (let at = start; at < end;) {
            at += (await target.write(buffer, at, end - at, offset + at)).bytesWritten;
          }
        }
        offset += bytesRead;
        work.onProgress(offset, size);
      }
      await target.truncate(size);
      await target.sync();
    } catch (error) {
      throw asNoSpace(error, to);
    } finally {
      await target.close();
    }
  } finally {
    await source.close();
  }
}

/** Start and end of each stretch of grains that are not all zeros. */
function* stretches(data: Buffer): Generator<[start: number, end: number]> {
  let start = -1;
  for (let at = 0; at < data.length; at += GRAIN_BYTES) {
    const end = Math.min(at + GRAIN_BYTES, data.length);
    const empty = data.compare(ZEROS, 0, end - at, at, end) === 0;
    if (!empty && start < 0) start = at;
    if (empty && start >= 0) {
      yield [start, at];
      start = -1;
    }
  }
  if (start >= 0) yield [start, data.length];
}

/** Lower-case hexadecimal SHA-256 of a file's content. */
export async function sha256File(path: string, work: Work): Promise<string> {
  const file = await open(path, 'r');
  try {
    const { size } = await file.stat();
    const hash = createHash('sha256');
    const buffer = Buffer.allocUnsafe(1024 * 1024);
    for (let offset = 0; ;) {
      work.signal.throwIfAborted();
      const { bytesRead } = await file.read(buffer, 0, buffer.length, offset);
      if (bytesRead === 0) return hash.digest('hex');
      hash.update(buffer.subarray(0, bytesRead));
      offset += bytesRead;
      work.onProgress(offset, size);
    }
  } finally {
    await file.close();
  }
}
