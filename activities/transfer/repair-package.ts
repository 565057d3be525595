/**
 * Makes a damaged copy of a package whole again, file by file, from a host that has those files whole.
 *
 * What is damaged or missing is fetched beside it, into `incoming/<package>/`, checked against the signed origin record,
 * synced, and renamed over what it replaces. So at every instant each file is there, the old one or the right one, and the
 * folder keeps its name; whole files are never touched. An attempt that dies leaves more whole files than it found, and what
 * it had fetched of the next one; the next attempt looks at all of them and goes on.
 */
import { rename } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import type { InstanceId, PackageFacts, PackageId, SignedText } from '../../workflows/contract.ts';
import type { FailureType } from '../../workflows/failures.ts';
import type { Work } from '../heartbeat.ts';
import { readEnvelope, requireSealedFor, verifyEnvelope } from '../package/envelope.ts';
import { envelopeName, MAX_ENVELOPE_BYTES, type OriginRecord } from '../package/format.ts';
import {
  checkLayout,
  checkSegment,
  packageFacts,
  sealedBytes,
  segmentPath,
  segmentsOf,
  type SegmentPlace,
} from '../package/verify.ts';
import { exists, makeDirectory, removeDurably, syncDirectory, writeDurable } from '../records/durable.ts';
import type { Layout } from '../records/layout.ts';
import { withPackageLock } from '../records/lock.ts';
import { verifyClaim } from '../trust/chain.ts';
import type { HostKeys } from '../trust/keys.ts';
import type { PoolTrust } from '../trust/pool.ts';
import { path } from './endpoint.ts';
import { fetchSegment, whole } from './fetch-package.ts';
import { PeerClient } from './package-client.ts';

export interface RepairPackage {
  layout: Layout;
  keys: HostKeys;
  pool: PoolTrust;
  selfRecord: SignedText;
  packageId: PackageId;
  /** What the catalog knows of it: another envelope may not make another package of it. */
  instanceId: InstanceId;
  generation: number;
  /** Certified record of the host to fetch from. */
  source: SignedText;
  work: Work;
}

/**
 * Looks at every byte of the copy and fetches what is not as it was sealed.
 *
 * @returns null if there is no copy at all
 * @throws ForbiddenMember, with nothing changed, if something lies there that is not the package's; what fetching throws
 */
export function repairPackage(options: RepairPackage): Promise<PackageFacts | null> {
  return withPackageLock(options.layout, options.packageId, () => repairIt(options));
}

async function repairIt(options: RepairPackage): Promise<PackageFacts | null> {
  const { layout, keys, pool, packageId, work } = options;
  const folder = layout.package(packageId);
  const beside = layout.incoming(packageId);
  if (!(await exists(folder))) return null;
  const client = new PeerClient(await pool.verifyHost(options.source), keys, options.selfRecord);
  try {
    const origin = await originOf(options, client);
    await checkLayout(folder, origin);
    const total = sealedBytes(origin);
    let done = 0;
    work.onProgress(done, total);
    for (const { place, expected } of segmentsOf(origin)) {
      work.signal.throwIfAborted();
      const file = segmentPath(folder, place);
      if (!(await isWhole(file, place, origin))) {
        const part = `${segmentPath(beside, place)}.part`;
        await makeDirectory(dirname(part));
        await fetchSegment({ client, origin, place, expected, part, work });
        await makeDirectory(dirname(file));
        await rename(part, file);
        await syncDirectory(dirname(file));
      }
      work.onProgress((done += expected.bytes), total);
    }
    await removeDurably(beside);
    return await packageFacts(folder, origin);
  } finally {
    client.close();
  }
}

/** The verified record of the package; with an envelope from the source if the one that lies here cannot be read. */
async function originOf(options: RepairPackage, client: PeerClient): Promise<OriginRecord> {
  const { layout, keys, pool, packageId, source, work } = options;
  const folder = layout.package(packageId);
  const kept = await whole(async () => {
    const { origin } = await readEnvelope({ folder, keys, pool });
    await verifyClaim(origin, pool);
    return origin;
  }, BAD_ENVELOPE);
  if (kept) return kept;

  const envelope = await client.fetchSmall(path.envelope(packageId), MAX_ENVELOPE_BYTES, work.signal);
  const { origin } = await verifyEnvelope(envelope, { keys, pool, source });
  await verifyClaim(origin, pool);
  requireSealedFor(origin, options);
  await writeDurable(join(folder, envelopeName(keys.fingerprint)), envelope);
  return origin;
}

const BAD_ENVELOPE: readonly FailureType[] = ['WrongDestination', 'PackageMalformed', 'SignatureInvalid'];
const BAD_SEGMENT: readonly FailureType[] = ['SegmentDamaged', 'SegmentMisplaced'];

async function isWhole(file: string, place: SegmentPlace, origin: OriginRecord): Promise<boolean> {
  return (await whole(() => checkSegment(file, place, origin).then(() => true), BAD_SEGMENT)) ?? false;
}
