/**
 * The operator's side of fences: what a fence would follow, and which were signed already. Beside the pool key, on the
 * operator's machine, `fences/<instance>-<generation>.asc` keeps each one, because two for the same generation would let
 * two hosts run the instance. The client imports this file and pool-key.ts alone from the activities.
 */
import { readFile, rename } from 'node:fs/promises';
import { join } from 'node:path';
import type { HostId, InstanceId, PackageId, SignedText } from '../../workflows/contract.ts';
import { VmferryError } from '../../workflows/failures.ts';
import { createOnce, exists, makeDirectory, syncDirectory } from '../records/durable.ts';
import { loadPoolKey, type PoolKey } from './pool-key.ts';
import { PoolTrust } from './pool.ts';
import { readUnverified, verifyText } from './signed-text.ts';
import { Fence, Link } from './statements.ts';

/** The statement by which somebody owns an instance, verified: a fence that follows it ends exactly that ownership. */
export interface LastStatement {
  instanceId: InstanceId;
  /** Of the owner who would be fenced. */
  generation: number;
  owner: HostId;
  ownerFingerprint: string;
  /** When it was signed, by the signer's clock. */
  time: string;
  digest: string;
}

/** The fences of a pool, in the folder of its key. */
export class Fences {
  readonly #folder: string;
  readonly #poolKey: PoolKey;
  readonly #pool: PoolTrust;

  private constructor(folder: string, poolKey: PoolKey, pool: PoolTrust) {
    this.#folder = folder;
    this.#poolKey = poolKey;
    this.#pool = pool;
  }

  /** @throws PoolKeyMissing */
  static async open(folder: string): Promise<Fences> {
    const poolKey = await loadPoolKey(folder);
    const pool = poolKey && (await PoolTrust.load(folder));
    if (!poolKey || !pool) throw new VmferryError('PoolKeyMissing', `there is no pool key in ${folder}`);
    return new Fences(folder, poolKey, pool);
  }

  /**
   * Reads what a fence would follow. Whoever carried the statement here is not believed: what the operator is shown, and
   * signs, comes from the signed text.
   *
   * @param records certified records of hosts, among them of the one that signed
   * @throws SignatureInvalid, HostNotCertified, OwnershipDecided if the instance was deleted
   */
  async readLast(statement: SignedText, records: readonly SignedText[]): Promise<LastStatement> {
    const claimed = await readUnverified(statement, Link);
    const key = claimed.type === 'fence' ? this.#pool.publicKey : await this.#signerKey(claimed, records);
    const { payload, digest } = await verifyText(statement, key, Link);
    const { instanceId, generation, time } = payload;
    const known = { instanceId, generation, time, digest };
    switch (payload.type) {
      case 'release':
      case 'fence':
        return { ...known, owner: payload.to, ownerFingerprint: payload.toFingerprint };
      case 'spawn':
      case 'return':
        return { ...known, owner: payload.signer, ownerFingerprint: payload.signerFingerprint };
      case 'end':
        throw new VmferryError('OwnershipDecided', `instance ${instanceId} was deleted; nobody goes on with it`);
    }
  }

  /**
   * Signs the fence that ends an ownership, or gives the one that was signed for it before.
   *
   * @param to certified record of the host that goes on
   * @throws FenceConflict if another host was to go on, or from another package
   * @throws SameHost if that is the fenced host itself, HostNotCertified
   */
  async sign(last: LastStatement, packageId: PackageId, to: SignedText): Promise<SignedText> {
    const next = await this.#pool.verifyHost(to);
    if (next.fingerprint === last.ownerFingerprint) {
      throw new VmferryError('SameHost', `host ${next.name} is the one that would be fenced`);
    }
    const wanted = {
      instanceId: last.instanceId,
      packageId,
      generation: last.generation + 1,
      to: next.name,
      toFingerprint: next.fingerprint,
      previous: last.digest,
    };
    await makeDirectory(join(this.#folder, 'fences'), { mode: 0o700 });
    const path = this.#path(last);
    await createOnce(path, await this.#poolKey.signFence(wanted));
    const kept = await readFile(path, 'utf8');
    const { payload } = await verifyText(kept, this.#pool.publicKey, Fence);
    const fields = Object.keys(wanted) as (keyof typeof wanted)[];
    if (fields.every((field) => payload[field] === wanted[field])) return kept;
    throw new VmferryError(
      'FenceConflict',
      `a fence for generation ${wanted.generation} of instance ${wanted.instanceId} was signed already, ` +
        `for host ${payload.to} with package ${payload.packageId}: ${path}`,
    );
  }

  /**
   * Puts a fence aside that its host refused and nobody acted on, so that another may be signed for the same generation
   * when that is needed. No error if there is none.
   */
  async setAside(last: LastStatement): Promise<void> {
    const path = this.#path(last);
    if (!(await exists(path))) return;
    await rename(path, path.replace(/\.asc$/, `-refused-${Date.now()}.asc`));
    await syncDirectory(join(this.#folder, 'fences'));
  }

  #path({ instanceId, generation }: LastStatement): string {
    return join(this.#folder, 'fences', `${instanceId}-${generation + 1}.asc`);
  }

  async #signerKey(
    { signer, signerFingerprint }: Exclude<Link, Fence>,
    records: readonly SignedText[],
  ): Promise<PoolTrust['publicKey']> {
    for (const signed of records) {
      const { record, key } = await this.#pool.onceCertifiedHost(signed);
      if (record.name === signer && record.fingerprint === signerFingerprint) return key;
    }
    throw new VmferryError('HostNotCertified', `no host ${signer} with key ${signerFingerprint} is in the pool`);
  }
}
