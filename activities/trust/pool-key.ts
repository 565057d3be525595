/**
 * The operator's side of a pool: its key pair, with which host records are certified. It lives where the operator works,
 * never on a host. The client imports this file and fences.ts alone from the activities.
 */
import { join } from 'node:path';
import { generateKey, readKey, readPrivateKey, type PrivateKey, type PublicKey } from 'openpgp';
import { z } from 'zod';
import { readFile } from 'node:fs/promises';
import type { HostRecord as HostRecordType, SignedText } from '../../workflows/contract.ts';
import { VmferryError } from '../../workflows/failures.ts';
import { createOnce, exists, makeDirectory, writeDurable } from '../records/durable.ts';
import { PROFILE } from './openpgp-profile.ts';
import { signText } from './signed-text.ts';
import { Fence, fingerprint, hostName } from './statements.ts';

/** Names of the files in a pool directory; hosts have the public one only. */
export const POOL_FILES = { private: 'pool.key', public: 'pool.pub', revoked: 'pool.revoked' } as const;

const pem = (label: string): z.ZodString =>
  z
    .string()
    .max(16_384)
    .regex(new RegExp(`^-----BEGIN ${label}-----\\s[\\s\\S]*-----END ${label}-----\\s*$`));

/** A host's statement about itself, as the pool key signs it. See `HostRecord` in the contract. */
export const HostRecord = z.strictObject({
  version: z.literal(1),
  name: hostName,
  fingerprint,
  publicKey: pem('PGP PUBLIC KEY BLOCK'),
  tlsCertificate: pem('CERTIFICATE'),
  addresses: z
    .array(
      z
        .string()
        .max(260)
        .regex(/^[^\s/@]+:\d{1,5}$/),
    )
    .max(16),
  location: z.string().max(200),
  architecture: z.string().regex(/^[a-z0-9_]{1,32}$/),
}) satisfies z.ZodType<HostRecordType>;

/** Signed by the pool key: hosts whose new statements count no more. The newest list replaces those before it. */
export const Revocations = z.strictObject({
  type: z.literal('revocations'),
  version: z.literal(1),
  fingerprints: z.array(fingerprint).max(10_000),
  time: z.iso.datetime(),
});

/** Fingerprint in the form in which records name keys and people compare them: upper-case hexadecimal. */
export const fingerprintOf = (key: PublicKey): string => key.getFingerprint().toUpperCase();

/**
 * The key of a host record, if it is what the record says.
 *
 * @throws HostNotCertified if it is no public v6 key of that fingerprint
 */
export async function keyOfRecord(record: HostRecordType): Promise<PublicKey> {
  let key: PublicKey;
  try {
    key = await readKey({ armoredKey: record.publicKey, config: PROFILE });
  } catch (cause) {
    throw new VmferryError('HostNotCertified', `the key in the record of host ${record.name} cannot be read`, {
      cause,
    });
  }
  if (key.isPrivate() || key.keyPacket.version !== 6 || fingerprintOf(key) !== record.fingerprint) {
    throw new VmferryError(
      'HostNotCertified',
      `the key in the record of host ${record.name} is not the v6 public key ${record.fingerprint}`,
    );
  }
  return key;
}

/** The operator's key pair. */
export class PoolKey {
  readonly fingerprint: string;
  readonly publicKeyArmored: string;
  readonly #key: PrivateKey;

  constructor(key: PrivateKey) {
    this.#key = key;
    this.fingerprint = fingerprintOf(key);
    this.publicKeyArmored = key.toPublic().armor();
  }

  /**
   * Certifies a host: the operator has compared its fingerprint.
   *
   * @throws HostNotCertified if the record does not hold together
   */
  async certifyHost(record: HostRecordType): Promise<SignedText> {
    const checked = HostRecord.safeParse(record);
    if (!checked.success) {
      const issue = checked.error.issues[0];
      throw new VmferryError(
        'HostNotCertified',
        `the host record is malformed: ${issue?.path.join('.')} ${issue?.message}`,
      );
    }
    await keyOfRecord(checked.data);
    return signText(checked.data, this.#key);
  }

  /**
   * Signs that the owner of the generation before died for good, and who goes on. It cannot be taken back: see fences.ts,
   * which lets it be signed only once.
   */
  async signFence(fence: Omit<Fence, 'type' | 'version' | 'time'>): Promise<SignedText> {
    return signText(Fence.parse({ type: 'fence', version: 1, ...fence, time: new Date().toISOString() }), this.#key);
  }

  /** The complete list of hosts that are no longer trusted; install it as `pool.revoked` on every host. */
  async revokeHosts(fingerprints: readonly string[]): Promise<SignedText> {
    const list = { type: 'revocations', version: 1, fingerprints, time: new Date().toISOString() };
    return signText(Revocations.parse(list), this.#key);
  }
}

/** Makes a pool key, or gives the one that is there: a second call never replaces it. */
export async function createPoolKey(directory: string): Promise<PoolKey> {
  await makeDirectory(directory, { mode: 0o700 });
  const { privateKey } = await generateKey({
    type: 'curve25519',
    userIDs: [{ name: 'vmferry pool' }],
    format: 'armored',
    config: PROFILE,
  });
  await createOnce(join(directory, POOL_FILES.private), privateKey, { mode: 0o600 });
  const pool = await loadPoolKey(directory);
  if (!pool) throw new VmferryError('FileNotFound', `the pool key in ${directory} disappeared while it was made`);
  return pool;
}

/** The pool key in a directory; null if there is none. Writes the public half anew when it is missing. */
export async function loadPoolKey(directory: string): Promise<PoolKey | null> {
  const path = join(directory, POOL_FILES.private);
  if (!(await exists(path))) return null;
  let key: PrivateKey;
  try {
    key = await readPrivateKey({ armoredKey: await readFile(path, 'utf8'), config: PROFILE });
  } catch (cause) {
    throw new VmferryError('InvalidInput', `the pool key ${path} cannot be read`, { cause });
  }
  const pool = new PoolKey(key);
  const publicPath = join(directory, POOL_FILES.public);
  if (!(await exists(publicPath))) await writeDurable(publicPath, pool.publicKeyArmored);
  return pool;
}
