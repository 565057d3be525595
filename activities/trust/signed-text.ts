/** Signed text: one JSON object as the binary literal of an armored OpenPGP message with exactly one signature. */
import { createHash } from 'node:crypto';
import {
  createMessage,
  LiteralDataPacket,
  OnePassSignaturePacket,
  readMessage,
  sign,
  verify,
  type Message,
  type PrivateKey,
  type PublicKey,
} from 'openpgp';
import type { z } from 'zod';
import type { SignedText } from '../../workflows/contract.ts';
import { VmferryError } from '../../workflows/failures.ts';
import { JUDGING_DATE, PROFILE } from './openpgp-profile.ts';

/** Longest statement or host record, in characters of its armored form. */
export const MAX_STATEMENT_LENGTH = 64 * 1024;

export interface Verified<T> {
  payload: T;
  /** The signed bytes, as text. */
  text: string;
  /** SHA-256 of `text` in UTF-8, lower-case hexadecimal: the name by which other statements refer to this one. */
  digest: string;
}

const sha256Hex = (data: string | Uint8Array): string => createHash('sha256').update(data).digest('hex');

/** When to say that something was signed: a clock set back since the key was made must not make the key unusable. */
export const signingDate = (key: PublicKey): Date => new Date(Math.max(Date.now(), key.getCreationTime().getTime()));

/** Signs the JSON of a payload. Two calls give different texts: whoever needs the same one keeps it. */
export async function signText(payload: object, key: PrivateKey): Promise<SignedText> {
  const binary = new TextEncoder().encode(JSON.stringify(payload));
  const date = signingDate(key);
  const message = await createMessage({ binary, date });
  return (await sign({ message, signingKeys: key, date, format: 'armored', config: PROFILE })) as string;
}

/**
 * What a signed text says, with nothing proven: good for finding out which key should have signed it.
 *
 * @throws SignatureInvalid if it is no signed text, or its payload does not fit the schema
 */
export async function readUnverified<T>(
  signed: SignedText,
  schema: z.ZodType<T>,
  limit: number = MAX_STATEMENT_LENGTH,
): Promise<T> {
  const message = await read(signed, limit);
  return parsePayload(decode(literalOf(message)), schema);
}

/** Digest of a signed text that this host has verified before, or made itself. */
export async function digestOf(signed: SignedText, limit: number = MAX_STATEMENT_LENGTH): Promise<string> {
  return sha256Hex(decode(literalOf(await read(signed, limit))));
}

/**
 * Checks the signature and then the payload.
 *
 * @throws SignatureInvalid if anything about it is wrong
 */
export async function verifyText<T>(
  signed: SignedText,
  publicKey: PublicKey,
  schema: z.ZodType<T>,
  limit: number = MAX_STATEMENT_LENGTH,
): Promise<Verified<T>> {
  const text = decode(await verifyMessage(await read(signed, limit), publicKey));
  return { payload: parsePayload(text, schema), text, digest: sha256Hex(text) };
}

/**
 * The literal of a message that carries exactly one signature, by this key.
 *
 * @throws SignatureInvalid
 */
export async function verifyMessage(message: Message<Uint8Array>, publicKey: PublicKey): Promise<Uint8Array> {
  requireForm(message);
  const result = await refusing(
    `the signature is not one of key ${publicKey.getFingerprint().toUpperCase()}`,
    async () => {
      const verification = await verify({
        message,
        verificationKeys: publicKey,
        expectSigned: true,
        format: 'binary',
        date: JUDGING_DATE,
        config: PROFILE,
      });
      // `expectSigned` is content with one good signature among several.
      if (verification.signatures.length !== 1) throw new Error(`${verification.signatures.length} signatures`);
      await verification.signatures[0]?.verified;
      return verification;
    },
  );
  return result.data as Uint8Array;
}

/** The literal of a message of the one permitted form, nothing proven. Throws SignatureInvalid for any other form. */
export function literalOf(message: Message<Uint8Array>): Uint8Array {
  requireForm(message);
  const data = message.getLiteralData() as Uint8Array | null;
  if (!data) throw new VmferryError('SignatureInvalid', 'a signed message holds no literal data');
  return data;
}

/** UTF-8, strictly. */
export function decode(data: Uint8Array): string {
  try {
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(data);
  } catch (cause) {
    throw new VmferryError('SignatureInvalid', 'a signed text is not UTF-8', { cause });
  }
}

async function read(signed: SignedText, limit: number): Promise<Message<Uint8Array>> {
  if (signed.length > limit) {
    throw new VmferryError('SignatureInvalid', `a signed text of ${signed.length} characters is longer than ${limit}`);
  }
  return refusing('it is not an OpenPGP message', async () => {
    const message = await readMessage({ armoredMessage: signed, config: PROFILE });
    return message;
  });
}

/**
 * A one-pass signature, then the literal: no compression, no nesting. OpenPGP.js reads no further before it verifies, and
 * its grammar allows nothing but signatures after that; that there is one is checked when it has.
 */
function requireForm(message: Message<Uint8Array>): void {
  const [onePass, literal] = message.packets;
  const form =
    message.packets.length === 2 && onePass instanceof OnePassSignaturePacket && literal instanceof LiteralDataPacket;
  if (!form) throw new VmferryError('SignatureInvalid', 'a message is not one literal with one signature');
}

function parsePayload<T>(text: string, schema: z.ZodType<T>): T {
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch (cause) {
    throw new VmferryError('SignatureInvalid', 'a signed text is not JSON', { cause });
  }
  const result = schema.safeParse(json);
  if (!result.success) {
    const { path = [], message = '' } = result.error.issues[0] ?? {};
    throw new VmferryError(
      'SignatureInvalid',
      `a signed text is not what it should be: ${path.join('.').slice(0, 200)} ${message.slice(0, 300)}`,
      { cause: result.error.issues.length },
    );
  }
  return result.data;
}

async function refusing<T>(what: string, check: () => Promise<T>): Promise<T> {
  try {
    return await check();
  } catch (cause) {
    if (cause instanceof VmferryError) throw cause;
    throw new VmferryError('SignatureInvalid', `a signed message is refused: ${what}`, { cause });
  }
}
