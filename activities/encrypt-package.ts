/**
 * Step 7 [source]: packed pieces become the sealed package `packages/<package>/`, readable to its destination and to this
 * host itself, so that it can be addressed anew or opened for the way back.
 *
 * How it can die half way: the session key is on the disk before the first segment, so segments that are there are kept;
 * until the folder has its name nobody can have seen it. Once it has, the package is never written again, only checked.
 */
import { join } from 'node:path';
import { z } from 'zod';
import type { HostActivities, MoveRef, PackageFacts, SignedText } from '../workflows/contract.ts';
import { VmferryError } from '../workflows/failures.ts';
import { packedFolder, readMembers } from './build-package.ts';
import { withHeartbeat, type Work } from './heartbeat.ts';
import type { HostContext } from './host-context.ts';
import { passed } from './marks.ts';
import { requireOwned } from './ownership.ts';
import { newSessionKey } from './package/cipher.ts';
import { addressPackage } from './package/envelope.ts';
import { CONFIG_STREAM, diskStream, SNAPSHOT_STREAM } from './package/format.ts';
import { sealPackage } from './package/seal.ts';
import { packageFacts, verifyPackage } from './package/verify.ts';
import { createRecord, exists, makeDirectory, readJson } from './records/durable.ts';
import { withInstanceLock } from './records/lock.ts';
import { readMovedEnvelope } from './moved-envelope.ts';

export function createEncryptPackage(host: HostContext): HostActivities['encryptPackage'] {
  return (input) =>
    withHeartbeat('encryptPackage', (work) =>
      withInstanceLock(host.layout, input.instanceId, () => encryptPackage(host, input, work)),
    );
}

async function encryptPackage(
  host: HostContext,
  input: MoveRef & { destination: SignedText | null },
  work: Work,
): Promise<PackageFacts> {
  const { keys, layout, ledger, pool } = host;
  const { instanceId, generation, packageId } = input;
  const target = layout.package(packageId);
  const destination = input.destination === null ? null : await pool.verifyHost(input.destination);
  const senderRecord = await ledger.selfRecord();

  if (await exists(target)) {
    const { origin } = await readMovedEnvelope(host, input);
    if (destination) await addressPackage({ folder: target, keys, pool, senderRecord, destination });
    return verifyPackage({ folder: target, origin, work });
  }

  const owned = await requireOwned(host, input);
  const { disks, requirements } = await readMembers(layout, input);
  await makeDirectory(layout.packages);
  const self = await pool.verifyHost(senderRecord);
  const { origin } = await sealPackage({
    packed: packedFolder(layout, input),
    partial: `${target}.partial`,
    target,
    streams: [CONFIG_STREAM, SNAPSHOT_STREAM, ...disks.map((disk) => diskStream(disk.target))],
    origin: {
      packageId,
      instanceId,
      generation,
      disks,
      requirements,
      policy: { placement: null, protection: null },
      chain: { statements: [...owned.chain.statements], hosts: [...owned.chain.hosts] },
      previousOrigin: owned.originDigest,
    },
    sessionKey: await ensureSessionKey(layout.move(input.moveId), packageId),
    keys,
    senderRecord,
    readers: destination && destination.fingerprint !== keys.fingerprint ? [self, destination] : [self],
    onSigned: async (originDigest) => {
      await ledger.recordSealed({ instanceId, generation, packageId, originDigest });
      await passed('signed');
    },
    work,
  });
  return packageFacts(target, origin);
}

const SessionKeyFile = z.strictObject({ packageId: z.string(), key: z.base64().length(44) });

/** The session key of the move's package, on the disk before anything is encrypted under it. */
async function ensureSessionKey(folder: string, packageId: string): Promise<Uint8Array> {
  const path = join(folder, 'session.key');
  const made = { packageId, key: Buffer.from(newSessionKey()).toString('base64') };
  const about = `${new Date().toISOString()}: SECRET, the session key of package ${packageId}; it goes with this folder`;
  if (!(await exists(path))) await createRecord(path, about, made, { mode: 0o600 });
  const kept = await readJson(path, SessionKeyFile);
  if (kept?.packageId !== packageId)
    throw new VmferryError('Internal', `${path} is not the session key of package ${packageId}`);
  return new Uint8Array(Buffer.from(kept.key, 'base64'));
}
