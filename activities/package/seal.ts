/**
 * Packed streams become a sealed package: every piece encrypted in the cipher thread, the origin record signed, envelopes
 * written, all of it in `<package>.partial`; the rename to its own name is the last act. A folder of that name is whole.
 */
import { mkdir, rename, rm } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import type { HostRecord, SignedText } from '../../workflows/contract.ts';
import { VmferryError } from '../../workflows/failures.ts';
import type { Work } from '../heartbeat.ts';
import { makeDirectory, syncDirectory } from '../records/durable.ts';
import type { HostKeys } from '../trust/keys.ts';
import { digestOf, signText } from '../trust/signed-text.ts';
import { ahead, WIDTH } from './ahead.ts';
import { SegmentCipher } from './cipher.ts';
import { writeEnvelope } from './envelope.ts';
import { discard, namesIn, readBounded, writeWhole } from './files.ts';
import {
  checkRecord,
  envelopeName,
  MAX_ORIGIN_LENGTH,
  MAX_SEALED_BYTES,
  OriginRecord,
  SEGMENT_BYTES,
  segmentCount,
  segmentName,
  type Segment,
  type Stream,
} from './format.ts';
import { piecePath, readPacked, readPackedMembers, type PackedStream } from './pack.ts';

/** What only the caller knows; the rest of the record comes from what was packed. */
export type OriginBase = Omit<
  OriginRecord,
  'type' | 'version' | 'segmentBytes' | 'streams' | 'members' | 'sealedAt' | 'source' | 'sourceFingerprint'
>;

/**
 * Seals what lies in `packed` and gives it the name `target`. Repeated after a crash it keeps every segment that opens to
 * its piece under this session key.
 *
 * @param streams names, in the record's order
 * @param onSigned called with the digest of the origin record, before anybody else can see it
 * @throws NoSpace; Internal if a stream is not packed
 */
export async function sealPackage(options: {
  packed: string;
  partial: string;
  target: string;
  streams: readonly string[];
  origin: OriginBase;
  sessionKey: Uint8Array;
  keys: HostKeys;
  senderRecord: SignedText;
  readers: readonly HostRecord[];
  onSigned: (originDigest: string) => Promise<void>;
  work: Work;
}): Promise<{ origin: OriginRecord; originDigest: string }> {
  const { packed, partial, target, keys, sessionKey, senderRecord, readers, work } = options;
  const sources: PackedStream[] = [];
  for (const name of options.streams) {
    const source = await readPacked(packed, name);
    if (!source)
      throw new VmferryError('Internal', `stream ${name} of package ${options.origin.packageId} is not packed`);
    sources.push(source);
  }
  const members = await readPackedMembers(packed);
  if (!members) throw new VmferryError('Internal', `package ${options.origin.packageId} has no packed members`);

  await makeDirectory(partial);
  const total = sources.reduce((sum, { packedBytes }) => sum + packedBytes, 0);
  let done = 0;
  const cipher = new SegmentCipher(sessionKey);
  const streams: Stream[] = [];
  try {
    for (const source of sources) {
      const segments = await sealStream(packed, partial, source, cipher, work, (bytes) =>
        work.onProgress((done += bytes), total),
      );
      const { name, encoding, bytes, sha256 } = source;
      streams.push({ name, encoding, bytes, sha256, segments });
    }
  } finally {
    await cipher.close();
  }

  const record: OriginRecord = {
    type: 'origin',
    version: 1,
    ...options.origin,
    source: keys.name,
    sourceFingerprint: keys.fingerprint,
    sealedAt: new Date().toISOString(),
    segmentBytes: SEGMENT_BYTES,
    streams,
    members,
  };
  const origin = checkRecord(record, OriginRecord, `the record of package ${record.packageId}`);
  const originText = await signText(origin, keys.privateKey);
  for (const to of readers) {
    await writeEnvelope({
      folder: partial,
      keys,
      senderRecord,
      to,
      packageId: origin.packageId,
      sessionKey,
      originText,
    });
  }
  await removeOthers(partial, [
    ...streams.map(({ name }) => name),
    ...readers.map((reader) => envelopeName(reader.fingerprint)),
  ]);

  const originDigest = await digestOf(originText, MAX_ORIGIN_LENGTH);
  await options.onSigned(originDigest);
  await syncDirectory(partial);
  await rename(partial, target);
  await syncDirectory(dirname(target));
  return { origin, originDigest };
}

async function sealStream(
  packed: string,
  partial: string,
  source: PackedStream,
  cipher: SegmentCipher,
  work: Work,
  onDone: (packedBytes: number) => void,
): Promise<Segment[]> {
  const folder = join(partial, source.name);
  await mkdir(folder, { recursive: true });
  const segments: Segment[] = [];
  const count = segmentCount(source.bytes);
  await ahead(
    count,
    WIDTH,
    async (index) => {
      work.signal.throwIfAborted();
      const piece = await readBounded(piecePath(packed, source.name, index), MAX_SEALED_BYTES);
      if (!piece) throw new VmferryError('Internal', `piece ${index} of stream ${source.name} disappeared`);
      const bytes = piece.length;
      const path = join(folder, segmentName(index));
      const kept = await keptSegment(path, piece, cipher);
      if (kept) return { segment: kept, bytes };
      const { sealed, sha256 } = await cipher.seal(piece);
      await writeWhole(path, sealed);
      const segment = { bytes: sealed.length, sha256 };
      discard(sealed);
      return { segment, bytes };
    },
    (_index, { segment, bytes }) => {
      segments.push(segment);
      onDone(bytes);
    },
  );
  await removeOthers(
    folder,
    segments.map((_, index) => segmentName(index)),
  );
  await syncDirectory(folder);
  return segments;
}

/** A segment that an earlier attempt left, if it opens to this piece. */
async function keptSegment(path: string, piece: Uint8Array, cipher: SegmentCipher): Promise<Segment | null> {
  const sealed = await readBounded(path, MAX_SEALED_BYTES);
  if (!sealed) return null;
  const bytes = sealed.length;
  const { data, sha256 } = await cipher.try(sealed);
  return data && Buffer.compare(data, piece) === 0 ? { bytes, sha256 } : null;
}

/** Leftovers of an attempt that was killed: the folder is named by its package and still partial, so all in it is ours. */
async function removeOthers(folder: string, keep: readonly string[]): Promise<void> {
  for (const name of await namesIn(folder)) {
    if (!keep.includes(name)) await rm(join(folder, name), { recursive: true });
  }
}
