/**
 * Brings a sealed package here, segment by segment, and goes on wherever a former attempt stopped.
 *
 * `incoming/<package>/` fills with segments, each checked against the signed origin record before it gets its name; the
 * folder is renamed to `packages/<package>/` when nothing is missing. So a name under packages/ means: whole, verified.
 */
import { mkdir, readdir, rename, rm, stat } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import type { PackageId, SignedText } from '../../workflows/contract.ts';
import { VmferryError, type FailureType } from '../../workflows/failures.ts';
import type { Work } from '../heartbeat.ts';
import { readEnvelope, verifyEnvelope, type OpenedEnvelope } from '../package/envelope.ts';
import { envelopeName, MAX_ENVELOPE_BYTES, type OriginRecord, type Segment } from '../package/format.ts';
import { checkSegment, sealedBytes, segmentPath, segmentsOf, type SegmentPlace } from '../package/verify.ts';
import { exists, makeDirectory, syncDirectory, syncFile, writeDurable } from '../records/durable.ts';
import type { Layout } from '../records/layout.ts';
import { withPackageLock } from '../records/lock.ts';
import type { HostKeys } from '../trust/keys.ts';
import type { PoolTrust } from '../trust/pool.ts';
import { path } from './endpoint.ts';
import { PeerClient } from './package-client.ts';

/** Enough to fill a link while one segment is checked and synced. */
const PARALLEL = 2;

export interface FetchPackage {
  layout: Layout;
  keys: HostKeys;
  pool: PoolTrust;
  selfRecord: SignedText;
  packageId: PackageId;
  /** Certified record of the host to fetch from. */
  source: SignedText;
  /** Told of the verified origin record before any segment is fetched; throws to refuse the package. */
  inspect: (envelope: OpenedEnvelope) => Promise<void>;
  work: Work;
}

/**
 * @returns the package's bytes and how many of them crossed the wire in this attempt
 * @throws InstanceBusy while another fetches the same package
 */
export function fetchPackage(options: FetchPackage): Promise<{ packageBytes: number; wireBytes: number }> {
  // Two that write one file would spoil what either of them has checked.
  return withPackageLock(options.layout, options.packageId, () => fetchIt(options));
}

async function fetchIt(options: FetchPackage): Promise<{ packageBytes: number; wireBytes: number }> {
  const { layout, keys, pool, packageId, source, inspect, work } = options;
  const target = layout.package(packageId);
  const folder = (await exists(target)) ? target : layout.incoming(packageId);
  const client = new PeerClient(await pool.verifyHost(source), keys, options.selfRecord);
  try {
    const envelopePath = join(folder, envelopeName(keys.fingerprint));
    let wireBytes = 0;
    let opened = await keptEnvelope(options, folder);
    let envelope: Uint8Array | null = null;
    if (!opened) {
      envelope = await client.fetchSmall(path.envelope(packageId), MAX_ENVELOPE_BYTES, work.signal);
      opened = await verifyEnvelope(envelope, { keys, pool, source });
    }
    const { origin } = opened;
    if (origin.packageId !== packageId) {
      throw new VmferryError(
        'PackageMalformed',
        `the envelope of package ${packageId} holds the record of ${origin.packageId}`,
      );
    }
    await inspect(opened);
    // Its name is synced also where an attempt that died has made it, or given it the package's name.
    await makeDirectory(folder);
    // Only now: what is refused leaves things as they were, and another envelope that is here may be all that opens it.
    if (envelope) {
      await writeDurable(envelopePath, envelope);
      wireBytes += envelope.length;
    }

    const envelopeBytes = (await stat(envelopePath)).size;
    const packageBytes = sealedBytes(origin) + envelopeBytes;
    if (folder === target) return { packageBytes, wireBytes };

    let done = envelopeBytes;
    const advance = (bytes: number): void => work.onProgress((done += bytes), packageBytes);
    for (const { name } of origin.streams) await mkdir(join(folder, name), { recursive: true });
    const queue = segmentsOf(origin);
    const fetchOne = async (): Promise<void> => {
      for (;;) {
        work.signal.throwIfAborted();
        // Not for…of: the first fetcher to end would close the queue for the others.
        const next = queue.next();
        if (next.done) return;
        const { place, expected } = next.value;
        const file = segmentPath(folder, place);
        if (await exists(file)) {
          advance(expected.bytes);
          continue;
        }
        const part = `${file}.part`;
        if (await exists(part)) advance((await stat(part)).size);
        // Not `wireBytes += await …`: that reads the sum before the others have added to it.
        const received = await fetchSegment({ client, origin, place, expected, part, work, advance });
        wireBytes += received;
        await rename(part, file);
      }
    };
    const fetchers = Array.from({ length: PARALLEL }, fetchOne);
    // All have ended before an error leaves: nothing goes on behind the caller's back.
    const failed = (await Promise.allSettled(fetchers)).find((result) => result.status === 'rejected');
    if (failed) throw failed.reason;

    await syncTree(folder);
    await makeDirectory(dirname(target));
    await rename(folder, target);
    await syncDirectory(dirname(target));
    return { packageBytes, wireBytes };
  } finally {
    client.close();
  }
}

const OTHER_ENVELOPE: readonly FailureType[] = [
  'WrongDestination',
  'PackageMalformed',
  'SignatureInvalid',
  'HostNotCertified',
];

/** What lies here already, if it is what the source says; null if there is none, or it is damaged, or another's. */
async function keptEnvelope({ keys, pool, source }: FetchPackage, folder: string): Promise<OpenedEnvelope | null> {
  if (!(await exists(join(folder, envelopeName(keys.fingerprint))))) return null;
  return whole(() => readEnvelope({ folder, keys, pool, source }), OTHER_ENVELOPE);
}

/** What `look` answers; null if it finds damage of these types. */
export async function whole<T>(look: () => Promise<T>, damage: readonly FailureType[]): Promise<T | null> {
  try {
    return await look();
  } catch (error) {
    if (error instanceof VmferryError && damage.includes(error.type)) return null;
    throw error;
  }
}

/**
 * Fetches one segment to `part`, from wherever a former attempt has left it: checked, on the disk, and still to be named.
 *
 * @returns bytes that crossed the wire
 * @throws SegmentDamaged, SegmentMisplaced if the source gave something else; nothing of that is kept
 */
export async function fetchSegment(options: {
  client: PeerClient;
  origin: OriginRecord;
  place: SegmentPlace;
  expected: Segment;
  part: string;
  work: Work;
  /** Told of bytes as they come. */
  advance?: (bytes: number) => void;
}): Promise<number> {
  const { client, origin, place, expected, part, work, advance = () => undefined } = options;
  const url = path.segment(origin.packageId, place.stream, place.index);
  const received = await client.fetchFile(url, part, expected.bytes, work.signal, advance);
  await checkSegment(part, place, origin).catch(async (error: unknown) => {
    await rm(part, { force: true });
    throw error;
  });
  await syncFile(part);
  return received;
}

async function syncTree(folder: string): Promise<void> {
  for (const entry of await readdir(folder, { withFileTypes: true })) {
    if (entry.isDirectory()) await syncDirectory(join(folder, entry.name));
  }
  await syncDirectory(folder);
}
