/** What a host knows of its pool: the public key by which it decides, alone, which hosts it believes. */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { readKey, type PublicKey } from 'openpgp';
import type { HostRecord as HostRecordType, SignedText } from '../../workflows/contract.ts';
import { VmferryError } from '../../workflows/failures.ts';
import { exists } from '../records/durable.ts';
import { PROFILE } from './openpgp-profile.ts';
import { fingerprintOf, HostRecord, keyOfRecord, POOL_FILES, Revocations } from './pool-key.ts';
import { verifyText } from './signed-text.ts';

/** A certified record with its key, ready to verify with. */
export interface CertifiedHost {
  record: HostRecordType;
  key: PublicKey;
}

export class PoolTrust {
  /** Of the pool key, upper-case hexadecimal. */
  readonly fingerprint: string;
  readonly publicKey: PublicKey;
  readonly #revoked: ReadonlySet<string>;

  constructor(publicKey: PublicKey, revoked: Iterable<string> = []) {
    this.publicKey = publicKey;
    this.fingerprint = fingerprintOf(publicKey);
    this.#revoked = new Set(revoked);
  }

  /**
   * Reads `pool.pub`, and `pool.revoked` if there is one; null without a `pool.pub`.
   *
   * @throws PoolMismatch if `pool.pub` is no v6 public key, SignatureInvalid if the list is not this pool's
   */
  static async load(directory: string): Promise<PoolTrust | null> {
    const path = join(directory, POOL_FILES.public);
    if (!(await exists(path))) return null;
    let key: PublicKey;
    try {
      key = await readKey({ armoredKey: await readFile(path, 'utf8'), config: PROFILE });
    } catch (cause) {
      throw new VmferryError('PoolMismatch', `the pool key ${path} cannot be read`, { cause });
    }
    if (key.isPrivate() || key.keyPacket.version !== 6) {
      throw new VmferryError('PoolMismatch', `${path} is not a v6 public key; the private one must not be on a host`);
    }
    const list = join(directory, POOL_FILES.revoked);
    if (!(await exists(list))) return new PoolTrust(key);
    const text = await readFile(list, 'utf8');
    const { payload } = await verifyText(text, key, Revocations, 1024 * 1024);
    return new PoolTrust(key, payload.fingerprints);
  }

  /**
   * The record of a host that may sign today.
   *
   * @throws HostNotCertified if this pool has not certified the record, or has revoked the host
   */
  async verifyHost(record: SignedText): Promise<HostRecordType> {
    return (await this.certifiedHost(record)).record;
  }

  /** As `verifyHost`, with the host's key. */
  async certifiedHost(record: SignedText): Promise<CertifiedHost> {
    const host = await this.onceCertifiedHost(record);
    if (this.#revoked.has(host.record.fingerprint)) {
      throw new VmferryError(
        'HostNotCertified',
        `the pool has revoked host ${host.record.name} (${host.record.fingerprint})`,
      );
    }
    return host;
  }

  /**
   * The record of a host that the pool certified, were it revoked since: good for reading the past only. A host that
   * has left the pool once released instances that others own today; their chains stay whole.
   *
   * @throws HostNotCertified
   */
  async onceCertifiedHost(signed: SignedText): Promise<CertifiedHost> {
    let record: HostRecordType;
    try {
      record = (await verifyText(signed, this.publicKey, HostRecord)).payload;
    } catch (cause) {
      throw new VmferryError('HostNotCertified', `a host record is not certified by pool ${this.fingerprint}`, {
        cause,
      });
    }
    return { record, key: await keyOfRecord(record) };
  }
}
