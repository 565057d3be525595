/**
 * Streams cut into pieces, each compressed into a file of its own: `packed/<stream>/000000.piece` and, once all are
 * there, `stream.json`.
 *
 * A killed attempt leaves pieces whose names appeared only with their content on the disk. The next one keeps each that
 * still decodes to what the source holds, so nothing that an earlier attempt left is believed unseen.
 */
import { createHash } from 'node:crypto';
import { stat } from 'node:fs/promises';
import { join } from 'node:path';
import { once } from 'node:events';
import { isDeepStrictEqual } from 'node:util';
import { Worker } from 'node:worker_threads';
import { z } from 'zod';
import { VmferryError } from '../../workflows/failures.ts';
import type { Work } from '../heartbeat.ts';
import { makeDirectory, readJson, syncDirectory, writeDurable, writeRecord } from '../records/durable.ts';
import { hex } from '../trust/statements.ts';
import { ahead, WIDTH } from './ahead.ts';
import { decodePiece, encodePiece } from './codec.ts';
import { digestFile, discard, openRegular, readBounded, readExactly, writeThen, writeWhole } from './files.ts';
import {
  CONFIG_STREAM,
  Encoding,
  MAX_SEALED_BYTES,
  Member,
  pieceBytes,
  SEGMENT_BYTES,
  segmentCount,
  type MemberName,
} from './format.ts';
import { workerFile } from './worker-file.ts';

/** `stream.json`: a stream that is packed. */
export const PackedStream = z.strictObject({
  name: z.string(),
  encoding: Encoding,
  /** Of the plain stream. */
  bytes: z.int().min(0),
  sha256: hex(32),
  /** Sum of its pieces. */
  packedBytes: z.int().min(0),
  /** Changes whenever the source is written or replaced. */
  source: z.string(),
});
export type PackedStream = z.infer<typeof PackedStream>;

const PackedMembers = z.array(Member).min(1);

/** Path of a packed piece. */
export const piecePath = (folder: string, stream: string, index: number): string =>
  join(folder, stream, `${String(index).padStart(6, '0')}.piece`);

/** What packing left of a stream; null while it is not finished. */
export const readPacked = (folder: string, stream: string): Promise<PackedStream | null> =>
  readJson(join(folder, stream, 'stream.json'), PackedStream);

/** The members of the packed config stream, in their order; null while it is not finished. */
export const readPackedMembers = (folder: string): Promise<Member[] | null> =>
  readJson(join(folder, CONFIG_STREAM, 'members.json'), PackedMembers);

/**
 * Packs one file into `folder/<name>/`. A stream that is packed already, from the same file, is left alone.
 *
 * @param level of zstd, 1 to 19; 0 stores the pieces as they are
 * @throws FileNotFound, NoSpace
 */
export async function packStream(options: {
  name: string;
  source: string;
  folder: string;
  level: number;
  work: Work;
}): Promise<PackedStream> {
  const { name, source, folder, level, work } = options;
  const opened = await openRegular(source);
  if (!opened) throw new VmferryError('FileNotFound', `there is no ${source} to pack`);
  const { file, bytes } = opened;
  try {
    const stamp = await stampOf(source);
    const before = await readPacked(folder, name);
    if (before?.source === stamp && before.bytes === bytes) return before;

    await makeDirectory(join(folder, name));
    const encoding: Encoding = { kind: level === 0 ? 'store' : 'zstd' };
    const hash = createHash('sha256');
    let packedBytes = 0;
    await ahead(
      segmentCount(bytes),
      WIDTH,
      async (index) => {
        work.signal.throwIfAborted();
        const piece = await readExactly(file, pieceBytes(bytes, index), index * SEGMENT_BYTES);
        const path = piecePath(folder, name, index);
        const kept = await keptPiece(path, encoding, piece);
        if (kept !== null) return { piece, packed: kept };
        const content = await encodePiece(piece, encoding, level);
        await writeWhole(path, content);
        const packed = content.length;
        if (content !== piece) discard(content);
        return { piece, packed };
      },
      (index, { piece, packed }) => {
        hash.update(piece);
        discard(piece);
        packedBytes += packed;
        work.onProgress(Math.min(bytes, (index + 1) * SEGMENT_BYTES), bytes);
      },
    );
    if ((await stampOf(source)) !== stamp) throw new VmferryError('Internal', `${source} changed while it was packed`);
    await syncDirectory(join(folder, name));
    const packed: PackedStream = { name, encoding, bytes, sha256: hash.digest('hex'), packedBytes, source: stamp };
    await writeRecord(join(folder, name, 'stream.json'), `${new Date().toISOString()}: ${source}, packed`, packed);
    return packed;
  } finally {
    await file.close();
  }
}

/**
 * Packs the small files as one tar archive, made beside the streams.
 *
 * @throws FileNotFound, NoSpace
 */
export async function packConfig(options: {
  members: readonly { name: MemberName; path: string }[];
  folder: string;
  level: number;
  work: Work;
}): Promise<PackedStream> {
  const { members, folder, level, work } = options;
  await makeDirectory(join(folder, CONFIG_STREAM));
  const archive = join(folder, 'config.tar');
  const listed: Member[] = [];
  for (const { name, path } of members) listed.push(await describeMember(name, path, work));
  if (!isDeepStrictEqual(await readPackedMembers(folder), listed)) {
    await writeThen(archive, () => writeArchive(`${archive}.partial`, members));
    await syncDirectory(folder);
    await writeDurable(join(folder, CONFIG_STREAM, 'members.json'), JSON.stringify(listed, null, 2));
  }
  return packStream({ name: CONFIG_STREAM, source: archive, folder, level, work });
}

async function stampOf(path: string): Promise<string> {
  const { ino, size, mtimeNs } = await stat(path, { bigint: true });
  return `${ino}:${size}:${mtimeNs}`;
}

/** Bytes of a piece that an earlier attempt left, if it decodes to what the source holds now. */
async function keptPiece(path: string, encoding: Encoding, piece: Uint8Array): Promise<number | null> {
  const content = await readBounded(path, MAX_SEALED_BYTES);
  if (!content) return null;
  try {
    const decoded = await decodePiece(content, encoding, piece.length);
    return Buffer.compare(decoded, piece) === 0 ? content.length : null;
  } catch (error) {
    if (error instanceof VmferryError && error.type === 'PackageMalformed') return null;
    throw error;
  }
}

async function describeMember(name: MemberName, path: string, work: Work): Promise<Member> {
  const opened = await openRegular(path);
  if (!opened) throw new VmferryError('FileNotFound', `there is no ${path} to pack`);
  try {
    return { name, bytes: opened.bytes, sha256: await digestFile(opened.file, work.signal) };
  } finally {
    await opened.file.close();
  }
}

/**
 * In a thread of its own: archiver ends with an uncaught error when a file changes or cannot be read, and only the
 * thread dies of it.
 */
async function writeArchive(path: string, members: readonly { name: string; path: string }[]): Promise<void> {
  const worker = new Worker(workerFile('archive-worker', import.meta.url), { workerData: { path, members } });
  try {
    await once(worker, 'exit');
  } catch (cause) {
    throw new VmferryError('Internal', `the archive ${path} could not be written`, { cause });
  } finally {
    await worker.terminate();
  }
}
