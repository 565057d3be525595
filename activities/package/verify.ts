/** Is what lies in a folder what the origin record says? Lengths and digests, before anything is decrypted. */
import { createHash } from 'node:crypto';
import { lstat } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { PackageFacts } from '../../workflows/contract.ts';
import { VmferryError } from '../../workflows/failures.ts';
import type { Work } from '../heartbeat.ts';
import { digestFile, isUnreadable, namesIn, openRegular } from './files.ts';
import { MAX_SEALED_BYTES, segmentName, type OriginRecord, type Segment } from './format.ts';

/** Which segment of a package. */
export interface SegmentPlace {
  /** Name of its stream. */
  stream: string;
  index: number;
}

/** Path of a segment file below its package's folder. */
export const segmentPath = (folder: string, place: SegmentPlace): string =>
  join(folder, place.stream, segmentName(place.index));

/** Every segment that a record lists, in order, with what it must be. */
export function* segmentsOf(origin: OriginRecord): Generator<{ place: SegmentPlace; expected: Segment }> {
  for (const { name, segments } of origin.streams) {
    for (const [index, expected] of segments.entries()) yield { place: { stream: name, index }, expected };
  }
}

/** Bytes of all sealed segments. */
export function sealedBytes(origin: OriginRecord): number {
  let bytes = 0;
  for (const { expected } of segmentsOf(origin)) bytes += expected.bytes;
  return bytes;
}

/**
 * Compares what was found of a segment with what the record says of its place.
 *
 * @throws SegmentMisplaced if it is another segment of this package, SegmentDamaged if it is none
 */
export function judgeSegment(found: Segment, place: SegmentPlace, origin: OriginRecord): void {
  const where = `segment ${place.index} of stream ${place.stream} in package ${origin.packageId}`;
  const expected = origin.streams.find(({ name }) => name === place.stream)?.segments[place.index];
  if (!expected) throw new VmferryError('SegmentMisplaced', `the record knows no ${where}`);
  if (found.bytes === expected.bytes && found.sha256 === expected.sha256) return;
  for (const { place: other, expected: segment } of segmentsOf(origin)) {
    if (segment.sha256 !== found.sha256) continue;
    throw new VmferryError('SegmentMisplaced', `${where} is really segment ${other.index} of stream ${other.stream}`);
  }
  throw new VmferryError(
    'SegmentDamaged',
    found.bytes === expected.bytes
      ? `${where} has another digest than its record says`
      : `${where} has ${found.bytes} bytes instead of ${expected.bytes}`,
  );
}

/**
 * Checks a segment, in memory or in a file, against the record.
 *
 * @throws SegmentMisplaced, SegmentDamaged (also if the file is missing), ForbiddenMember if it is no regular file
 */
export async function checkSegment(
  source: Uint8Array | string,
  place: SegmentPlace,
  origin: OriginRecord,
): Promise<void> {
  if (typeof source !== 'string') {
    const sha256 = createHash('sha256').update(source).digest('hex');
    return judgeSegment({ bytes: source.length, sha256 }, place, origin);
  }
  const damaged = (how: string, cause?: unknown): VmferryError =>
    new VmferryError(
      'SegmentDamaged',
      `segment ${place.index} of stream ${place.stream} ${how} in package ${origin.packageId}`,
      { cause },
    );
  let found: Segment | null;
  try {
    found = await readSegment(source);
  } catch (error) {
    throw isUnreadable(error) ? damaged('cannot be read from the disk', error) : error;
  }
  if (!found) throw damaged('is missing');
  judgeSegment(found, place, origin);
}

/** Length and digest of a segment file; null if there is none. */
async function readSegment(path: string): Promise<Segment | null> {
  const opened = await openRegular(path);
  if (!opened) return null;
  try {
    // What no segment could be is not read: it may be as large as the disk. A segment of another length is, to tell an
    // exchanged one from a damaged one.
    return { bytes: opened.bytes, sha256: opened.bytes <= MAX_SEALED_BYTES ? await digestFile(opened.file) : '' };
  } finally {
    await opened.file.close();
  }
}

/**
 * The folder holds what the record lists, envelopes, signed statements, and nothing else.
 *
 * @throws ForbiddenMember
 */
export async function checkLayout(folder: string, origin: OriginRecord): Promise<void> {
  const refuse = (name: string): never => {
    throw new VmferryError(
      'ForbiddenMember',
      `package ${origin.packageId} holds ${name}, which its record does not list`,
    );
  };
  for (const name of await namesIn(folder)) {
    // An envelope that is being written; what a crash has left of one is found by the inspection.
    if (name.startsWith('.tmp-')) continue;
    const stream = origin.streams.find((candidate) => candidate.name === name);
    const stats = await lstat(join(folder, name));
    if (!stream) {
      if (!stats.isFile() || !/^(to-[0-9A-F]{64}\.pgp|[a-z0-9-]+\.asc)$/.test(name)) refuse(name);
      continue;
    }
    if (!stats.isDirectory()) refuse(name);
    const listed = new Set(stream.segments.map((_, index) => segmentName(index)));
    for (const segment of await namesIn(join(folder, name))) {
      if (!listed.has(segment)) refuse(`${name}/${segment}`);
    }
  }
}

/**
 * Checks a whole package against its verified record: nothing missing, nothing more, every byte as it was sealed.
 *
 * @param gently rests after each segment as long as it took, so that disk and processor have time for others
 * @throws ForbiddenMember, SegmentDamaged, SegmentMisplaced
 */
export async function verifyPackage(options: {
  folder: string;
  origin: OriginRecord;
  work: Work;
  gently?: boolean;
}): Promise<PackageFacts> {
  const { folder, origin, work, gently = false } = options;
  await checkLayout(folder, origin);
  const total = sealedBytes(origin);
  let done = 0;
  work.onProgress(done, total);
  for (const { place, expected } of segmentsOf(origin)) {
    work.signal.throwIfAborted();
    const began = performance.now();
    await checkSegment(segmentPath(folder, place), place, origin);
    if (gently) await sleep(performance.now() - began);
    work.onProgress((done += expected.bytes), total);
  }
  return packageFacts(folder, origin);
}

/** What people and the catalog are told of a package. */
export async function packageFacts(folder: string, origin: OriginRecord): Promise<PackageFacts> {
  let envelopes = 0;
  for (const name of await namesIn(folder)) {
    if (name.startsWith('to-')) envelopes += (await lstat(join(folder, name))).size;
  }
  return {
    packageId: origin.packageId,
    instanceId: origin.instanceId,
    generation: origin.generation,
    source: origin.source,
    sealedAt: origin.sealedAt,
    bytes: sealedBytes(origin) + envelopes,
    streams: origin.streams.map(({ name, bytes, segments }) => ({
      name,
      segments: segments.length,
      plainBytes: bytes,
      sealedBytes: segments.reduce((sum, segment) => sum + segment.bytes, 0),
    })),
  };
}
