/** The host's own keys: OpenPGP to sign and decrypt, TLS to serve. Made once at set-up; the private halves never leave. */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { generateKey, readPrivateKey, type PrivateKey, type PublicKey } from 'openpgp';
import type { HostId } from '../../workflows/contract.ts';
import { VmferryError } from '../../workflows/failures.ts';
import { run } from '../exec/run.ts';
import { createOnce, exists, makeDirectory } from '../records/durable.ts';
import { PROFILE } from './openpgp-profile.ts';
import { fingerprintOf } from './pool-key.ts';

export interface HostKeys {
  readonly name: HostId;
  /** Upper-case hexadecimal. */
  readonly fingerprint: string;
  readonly publicKey: PublicKey;
  readonly privateKey: PrivateKey;
  readonly armoredPublicKey: string;
  /** PEM. */
  readonly tls: { readonly key: string; readonly cert: string };
}

const FILES = { openpgp: 'host.key', tls: 'tls.pem' } as const;

/**
 * Loads the host's keys from a directory, making what is missing: `host.key`, an OpenPGP v6 key, and `tls.pem`, a TLS key
 * with its self-signed certificate. Each is one file written in one act, so a crash leaves a whole one or none.
 *
 * @throws InvalidInput if the directory holds the keys of a host of another name
 */
export async function ensureHostKeys(directory: string, name: HostId): Promise<HostKeys> {
  await makeDirectory(directory, { mode: 0o700 });
  const privateKey = await ensureOpenpgpKey(join(directory, FILES.openpgp), name);
  const publicKey = privateKey.toPublic();
  return {
    name,
    fingerprint: fingerprintOf(publicKey),
    publicKey,
    privateKey,
    armoredPublicKey: publicKey.armor(),
    tls: await ensureTls(join(directory, FILES.tls), name),
  };
}

async function ensureOpenpgpKey(path: string, name: HostId): Promise<PrivateKey> {
  if (!(await exists(path))) {
    const { privateKey } = await generateKey({
      type: 'curve25519',
      userIDs: [{ name }],
      format: 'armored',
      config: PROFILE,
    });
    await createOnce(path, privateKey, { mode: 0o600 });
  }
  const key = await readPrivateKey({ armoredKey: await readFile(path, 'utf8'), config: PROFILE });
  if (!key.getUserIDs().includes(name)) {
    throw new VmferryError(
      'InvalidInput',
      `the key ${path} belongs to ${key.getUserIDs().join(', ')}, not to host ${name}`,
    );
  }
  return key;
}

async function ensureTls(path: string, name: HostId): Promise<HostKeys['tls']> {
  if (!(await exists(path))) {
    // Key and certificate on standard output: no intermediate file, no pair that does not match after a crash.
    const { stdout } = await run('openssl', [
      ...['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-sha256'],
      ...['-days', '36500', '-subj', `/CN=${name}`, '-addext', `subjectAltName=DNS:${name}`],
      ...['-keyout', '-', '-out', '-'],
    ]);
    await createOnce(path, `${stdout.trim()}\n`, { mode: 0o600 });
  }
  const text = await readFile(path, 'utf8');
  return { key: block(text, 'PRIVATE KEY', path), cert: block(text, 'CERTIFICATE', path) };
}

function block(text: string, label: string, path: string): string {
  const found = new RegExp(`-----BEGIN ${label}-----[^-]+-----END ${label}-----`).exec(text)?.[0];
  if (found === undefined) throw new VmferryError('Internal', `${path} holds no ${label}`);
  return `${found}\n`;
}
