/**
 * A verified package becomes the files that it was made of. Every segment is checked by length and digest before it is
 * decrypted, every stream by its digest before it gets its name, the config archive member by member.
 *
 * Resumable by stream: a file has its name only when it is whole and on the disk, and what has its name is kept.
 */
import { createHash } from 'node:crypto';
import { join } from 'node:path';
import type { FileHandle } from 'node:fs/promises';
import { rm } from 'node:fs/promises';
import { VmferryError } from '../../workflows/failures.ts';
import type { Work } from '../heartbeat.ts';
import { exists, makeDirectory, syncDirectory } from '../records/durable.ts';
import { MEMBER } from '../records/layout.ts';
import { ahead, WIDTH } from './ahead.ts';
import { SegmentCipher } from './cipher.ts';
import { decodePiece } from './codec.ts';
import { extractConfig } from './config-archive.ts';
import { discard, openRegular, readExactly, writeThen } from './files.ts';
import {
  CONFIG_STREAM,
  MAX_CONFIG_BYTES,
  pieceBytes,
  SEGMENT_BYTES,
  type OriginRecord,
  type Stream,
} from './format.ts';
import { checkSegment, segmentPath, type SegmentPlace } from './verify.ts';

const ZEROS = Buffer.alloc(SEGMENT_BYTES);

/**
 * Unpacks a package into `target`, under the names of `MEMBER`.
 *
 * @returns plain bytes of all streams
 * @throws SegmentDamaged, SegmentMisplaced, PackageMalformed, ForbiddenMember, NoSpace
 */
export async function openPackage(options: {
  folder: string;
  origin: OriginRecord;
  sessionKey: Uint8Array;
  target: string;
  work: Work;
}): Promise<{ bytes: number }> {
  const { folder, origin, sessionKey, target, work } = options;
  await makeDirectory(target);
  const total = origin.streams.reduce((sum, { bytes }) => sum + bytes, 0);
  let done = 0;
  const cipher = new SegmentCipher(sessionKey);
  try {
    for (const stream of origin.streams) {
      const before = done;
      const progress: Work = { signal: work.signal, onProgress: (bytes) => work.onProgress(before + bytes, total) };
      const open = (path: string): Promise<void> => openStream(folder, origin, stream, cipher, path, progress);
      if (stream.name === CONFIG_STREAM) await openConfig(origin, stream, target, open);
      else await openOnce(join(target, fileOf(stream)), open);
      work.onProgress((done += stream.bytes), total);
    }
  } finally {
    await cipher.close();
  }
  await syncDirectory(target);
  return { bytes: total };
}

/** The schema lets a record name only these streams. */
const fileOf = ({ name }: Stream): string =>
  name.startsWith('disk-') ? MEMBER.disk(name.slice('disk-'.length)) : MEMBER.snapshot;

async function openOnce(path: string, open: (path: string) => Promise<void>): Promise<void> {
  if (!(await exists(path))) await open(path);
}

async function openConfig(
  origin: OriginRecord,
  stream: Stream,
  target: string,
  open: (path: string) => Promise<void>,
): Promise<void> {
  if (stream.bytes > MAX_CONFIG_BYTES) {
    throw new VmferryError(
      'PackageMalformed',
      `the config stream of package ${origin.packageId} has ${stream.bytes} bytes`,
    );
  }
  const archive = join(target, 'config.tar');
  const missing = await Promise.all(origin.members.map(async ({ name }) => !(await exists(join(target, name)))));
  try {
    if (!missing.includes(true)) return;
    await open(archive);
    await extractConfig(archive, origin.members, target);
  } finally {
    // Also one that an attempt left which died here.
    await rm(archive, { force: true });
  }
}

async function openStream(
  folder: string,
  origin: OriginRecord,
  stream: Stream,
  cipher: SegmentCipher,
  path: string,
  work: Work,
): Promise<void> {
  await writeThen(path, async (output) => {
    const hash = createHash('sha256');
    await ahead(
      stream.segments.length,
      WIDTH,
      async (index) => {
        work.signal.throwIfAborted();
        const content = await openSegment(folder, origin, { stream: stream.name, index }, cipher);
        const piece = await decodePiece(content, stream.encoding, pieceBytes(stream.bytes, index));
        if (content !== piece) discard(content);
        return piece;
      },
      async (index, piece) => {
        hash.update(piece);
        const position = index * SEGMENT_BYTES;
        // Leaves holes where the guest's memory or disk is empty.
        if (Buffer.compare(piece, ZEROS.subarray(0, piece.length)) !== 0) await writeAt(output, piece, position);
        work.onProgress(position + piece.length, stream.bytes);
        discard(piece);
      },
    );
    await output.truncate(stream.bytes);
    if (hash.digest('hex') !== stream.sha256) {
      throw new VmferryError(
        'PackageMalformed',
        `stream ${stream.name} of package ${origin.packageId} has another digest than its record says`,
      );
    }
  });
}

/** The content of one segment, after its length and digest were found right. */
async function openSegment(
  folder: string,
  origin: OriginRecord,
  place: SegmentPlace,
  cipher: SegmentCipher,
): Promise<Uint8Array> {
  const where = `segment ${place.index} of stream ${place.stream} in package ${origin.packageId}`;
  const expected = origin.streams.find(({ name }) => name === place.stream)?.segments[place.index];
  const path = segmentPath(folder, place);
  const opened = await openRegular(path);
  if (!opened || !expected) throw new VmferryError('SegmentDamaged', `${where} is missing`);
  try {
    if (opened.bytes === expected.bytes) {
      const sealed = await readExactly(opened.file, expected.bytes, 0);
      const { data, failure } = await cipher.open(sealed, expected.sha256);
      if (data) return data;
      if (failure !== undefined) {
        throw new VmferryError('PackageMalformed', `${where} does not open with its session key`, { cause: failure });
      }
    }
  } finally {
    await opened.file.close();
  }
  await checkSegment(path, place, origin);
  throw new VmferryError('SegmentDamaged', `${where} changed while it was read`);
}

async function writeAt(output: FileHandle, data: Uint8Array, position: number): Promise<void> {
  for (let done = 0; done < data.length;) {
    done += (await output.write(data, done, data.length - done, position + done)).bytesWritten;
  }
}
