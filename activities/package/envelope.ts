/**
 * Envelopes: what makes a package readable to one host. Each is one OpenPGP message, signed by whoever addressed the
 * package and encrypted to one reader, with the session key and the origin record inside. A package may have many; the
 * bulk stays as it is.
 */
import { join } from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import {
  config,
  createMessage,
  encrypt,
  PublicKeyEncryptedSessionKeyPacket,
  readMessage,
  SymEncryptedIntegrityProtectedDataPacket,
  type Message,
} from 'openpgp';
import { z } from 'zod';
import type { HostRecord, InstanceId, PackageId, SignedText } from '../../workflows/contract.ts';
import { VmferryError } from '../../workflows/failures.ts';
import { exists, writeDurable } from '../records/durable.ts';
import type { HostKeys } from '../trust/keys.ts';
import { JUDGING_DATE, PROFILE } from '../trust/openpgp-profile.ts';
import { keyOfRecord } from '../trust/pool-key.ts';
import type { CertifiedHost, PoolTrust } from '../trust/pool.ts';
import { decode, literalOf, readUnverified, signingDate, verifyMessage, verifyText } from '../trust/signed-text.ts';
import { isUnreadable, readBounded } from './files.ts';
import { checkRecord, Envelope, envelopeName, MAX_ENVELOPE_BYTES, MAX_ORIGIN_LENGTH, OriginRecord } from './format.ts';

/** A package whose envelope this host could open and believes. */
export interface OpenedEnvelope {
  origin: OriginRecord;
  /** As the source signed it. */
  originText: SignedText;
  /** SHA-256 of the origin record's payload text: what receipts name. */
  originDigest: string;
  /** 32 bytes. */
  sessionKey: Uint8Array;
  /** The host that addressed the package to this one. */
  sender: HostRecord;
}

/** What is peeked at before a signature can be checked: who claims to have signed. */
const Sender = z.object({ senderRecord: z.string().max(64 * 1024) });
const Source = z.object({
  sourceFingerprint: z.string().max(64),
  chain: z.object({ hosts: z.array(z.string()).max(1_000) }),
});

/** The source's record is in the chain, as of everyone who ever owned the instance; see docs/package-format.md. */
const SELF_CONTAINED = 'the chain lacks the certified record of its source';

/**
 * Opens and checks the envelope that a package folder holds for this host: its form, who signed it, to whom; then the
 * origin record, who signed it and what it says. Segments and the chain are judged by others.
 *
 * @param source where the package is expected from; an envelope by anybody else is refused
 * @throws PackageNotFound, PackageMalformed, WrongDestination, HostNotCertified, SignatureInvalid
 */
export async function readEnvelope(options: {
  folder: string;
  keys: HostKeys;
  pool: PoolTrust;
  source?: SignedText;
}): Promise<OpenedEnvelope> {
  const { folder, keys } = options;
  const data = await readBounded(join(folder, envelopeName(keys.fingerprint)), MAX_ENVELOPE_BYTES).catch(
    (error: unknown) => {
      if (!isUnreadable(error)) throw error;
      throw new VmferryError('PackageMalformed', `the envelope in ${folder} cannot be read`, { cause: error });
    },
  );
  if (!data)
    throw new VmferryError('WrongDestination', `the package in ${folder} has no envelope for host ${keys.name}`);
  return verifyEnvelope(data, options);
}

/**
 * As `readEnvelope`, of an envelope that lies in no package yet.
 *
 * @throws as `readEnvelope`
 */
export async function verifyEnvelope(
  data: Uint8Array,
  options: { keys: HostKeys; pool: PoolTrust; source?: SignedText },
): Promise<OpenedEnvelope> {
  const { keys, pool } = options;
  const message = await decryptEnvelope(data, keys);

  const claimed = parse(decode(literalOf(message)), Sender);
  const sender = await pool.certifiedHost(claimed.senderRecord);
  if (
    options.source !== undefined &&
    (await pool.verifyHost(options.source)).fingerprint !== sender.record.fingerprint
  ) {
    throw new VmferryError(
      'HostNotCertified',
      `the envelope is signed by host ${sender.record.name}, which is not the expected source`,
    );
  }
  const envelope = parse(decode(await verifyMessage(message, sender.key)), Envelope);
  if (envelope.senderFingerprint !== sender.record.fingerprint || envelope.sender !== sender.record.name) {
    throw new VmferryError(
      'SignatureInvalid',
      `the envelope names ${envelope.sender} and is signed by ${sender.record.name}`,
    );
  }
  // A signature does not name its reader: without this, one reader could pass the envelope on as if it were for another.
  if (envelope.toFingerprint !== keys.fingerprint || envelope.to !== keys.name) {
    throw new VmferryError(
      'WrongDestination',
      `package ${envelope.packageId} is addressed to host ${envelope.to}, not to ${keys.name}`,
    );
  }

  const { record, key } = await sourceOf(envelope.origin, pool);
  const { payload: json, digest } = await verifyText(envelope.origin, key, z.unknown(), MAX_ORIGIN_LENGTH);
  const origin = checkRecord(json, OriginRecord, 'an origin record');
  if (origin.source !== record.name || origin.packageId !== envelope.packageId) {
    throw new VmferryError(
      'PackageMalformed',
      `the origin record of package ${envelope.packageId} is one of ${origin.source} for ${origin.packageId}`,
    );
  }
  return {
    origin,
    originText: envelope.origin,
    originDigest: digest,
    sessionKey: new Uint8Array(Buffer.from(envelope.session.key, 'base64')),
    sender: sender.record,
  };
}

/**
 * The record is of this package, made for this generation of the instance.
 *
 * @throws PackageMalformed
 */
export function requireSealedFor(
  { packageId, instanceId, generation }: OriginRecord,
  expected: { packageId: PackageId; instanceId: InstanceId; generation: number },
): void {
  const same =
    packageId === expected.packageId && instanceId === expected.instanceId && generation === expected.generation;
  if (same) return;
  throw new VmferryError(
    'PackageMalformed',
    `what is taken for package ${expected.packageId} for generation ${expected.generation} of instance ` +
      `${expected.instanceId} is package ${packageId} for generation ${generation} of instance ${instanceId}`,
  );
}

/**
 * Adds an envelope for another host to a package that this host can read. Atomic; one that is there for the same host stays
 * as it is, for nothing of a sealed package is ever written again.
 *
 * @param senderRecord this host's own certified record
 */
export async function addressPackage(options: {
  folder: string;
  keys: HostKeys;
  pool: PoolTrust;
  senderRecord: SignedText;
  destination: HostRecord;
}): Promise<void> {
  const { folder, keys, pool, senderRecord, destination } = options;
  if (await exists(join(folder, envelopeName(destination.fingerprint)))) return;
  const { origin, originText, sessionKey } = await readEnvelope({ folder, keys, pool });
  await writeEnvelope({
    folder,
    keys,
    senderRecord,
    to: destination,
    packageId: origin.packageId,
    sessionKey,
    originText,
  });
}

/** Writes the envelope for one reader. */
export async function writeEnvelope(options: {
  folder: string;
  keys: HostKeys;
  senderRecord: SignedText;
  to: HostRecord;
  packageId: string;
  sessionKey: Uint8Array;
  originText: SignedText;
}): Promise<void> {
  const { folder, keys, to } = options;
  const envelope: Envelope = {
    type: 'envelope',
    version: 1,
    packageId: options.packageId,
    sender: keys.name,
    senderFingerprint: keys.fingerprint,
    senderRecord: options.senderRecord,
    to: to.name,
    toFingerprint: to.fingerprint,
    session: { algorithm: 'aes256', aead: 'gcm', key: Buffer.from(options.sessionKey).toString('base64') },
    origin: options.originText,
    time: new Date().toISOString(),
  };
  const date = signingDate(keys.privateKey);
  const message = await createMessage({ binary: new TextEncoder().encode(JSON.stringify(envelope)), date });
  const encryptionKeys = await keyOfRecord(to);
  // The reader's key may have been made by a clock that is ahead of ours.
  const encryptionDate = new Date(Math.max(date.getTime(), encryptionKeys.getCreationTime().getTime()));
  const sealed: unknown = await encrypt({
    message,
    encryptionKeys,
    signingKeys: keys.privateKey,
    format: 'binary',
    date: encryptionDate,
    config: PROFILE,
  });
  await writeDurable(join(folder, envelopeName(to.fingerprint)), sealed as Uint8Array);
}

/** One session-key packet for this host and one SEIPDv2 packet: nothing else is even tried. */
async function decryptEnvelope(data: Uint8Array, keys: HostKeys): Promise<Message<Uint8Array>> {
  let message: Message<Uint8Array>;
  try {
    message = await readMessage({ binaryMessage: data, config: PROFILE });
  } catch (cause) {
    throw new VmferryError('PackageMalformed', 'an envelope is no OpenPGP message', { cause });
  }
  const [sessionKey, content] = message.packets;
  const form =
    message.packets.length === 2 &&
    sessionKey instanceof PublicKeyEncryptedSessionKeyPacket &&
    content instanceof SymEncryptedIntegrityProtectedDataPacket &&
    'version' in content &&
    content.version === 2;
  if (!form) throw new VmferryError('PackageMalformed', 'an envelope is not one session key and one SEIPDv2 packet');
  const own = await keys.publicKey.getEncryptionKey(undefined, JUDGING_DATE);
  const named = 'publicKeyFingerprint' in sessionKey ? sessionKey.publicKeyFingerprint : null;
  if (!isDeepStrictEqual(named, own.keyPacket.getFingerprintBytes())) {
    throw new VmferryError(
      'WrongDestination',
      `an envelope is encrypted to another key than that of host ${keys.name}`,
    );
  }
  try {
    const full = { ...config, ...PROFILE };
    return (await message.decrypt([keys.privateKey], undefined, undefined, JUDGING_DATE, full)) as Message<Uint8Array>;
  } catch (cause) {
    throw new VmferryError('PackageMalformed', 'an envelope is damaged: it cannot be decrypted', { cause });
  }
}

/** The certified record of the host that claims to have signed the origin record. */
async function sourceOf(originText: SignedText, pool: PoolTrust): Promise<CertifiedHost> {
  const claimed = await readUnverified(originText, Source, MAX_ORIGIN_LENGTH);
  for (const signed of claimed.chain.hosts) {
    const candidate = await pool.onceCertifiedHost(signed);
    // Asked again, now whether it still may sign.
    if (candidate.record.fingerprint === claimed.sourceFingerprint) return pool.certifiedHost(signed);
  }
  throw new VmferryError('HostNotCertified', SELF_CONTAINED);
}

function parse<T>(text: string, schema: z.ZodType<T>): T {
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch (cause) {
    throw new VmferryError('PackageMalformed', 'an envelope is not JSON', { cause });
  }
  return checkRecord(json, schema, 'an envelope');
}
