/** The chain of statements that says who owns an instance: from its spawn, each by the owner of the one before. */
import type { SignedText } from '../../workflows/contract.ts';
import { VmferryError } from '../../workflows/failures.ts';
import type { CertifiedHost, PoolTrust } from './pool.ts';
import { readUnverified, verifyText, type Verified } from './signed-text.ts';
import { Fence, Link } from './statements.ts';

export interface Chain {
  statements: readonly SignedText[];
  /** Certified records of everyone who signed a statement, and of the owner. */
  hosts: readonly SignedText[];
}

/** Where a chain ends, and how it came there. */
export interface ChainEnd {
  instanceId: string;
  /** The generation that the owner holds. */
  generation: number;
  owner: string;
  ownerFingerprint: string;
  /** Digest of the last statement: what the next one names as `previous`. */
  tip: string;
  /** The instance was deleted; nothing may follow. */
  ended: boolean;
  /** Digest of the statement that made each generation, by generation. */
  madeBy: ReadonlyMap<number, string>;
}

/**
 * Checks a whole chain: every statement signed by the owner at that point, whom the pool has certified, naming the
 * statement before it by digest and the next generation by number.
 *
 * @throws ChainBroken with the cause
 */
export async function verifyChain(chain: Chain, pool: PoolTrust): Promise<ChainEnd> {
  const hosts = await signersOf(chain, pool);
  const end = await walk(chain.statements, hosts, pool);
  if (!end) throw new VmferryError('ChainBroken', 'an instance’s chain of statements is empty');
  if (!hosts.has(end.ownerFingerprint)) {
    throw new VmferryError('ChainBroken', `the chain of ${end.instanceId} lacks the record of its owner ${end.owner}`);
  }
  return end;
}

/** By fingerprint. */
async function signersOf({ hosts }: Chain, pool: PoolTrust): Promise<Map<string, CertifiedHost>> {
  const signers = new Map<string, CertifiedHost>();
  for (const signed of hosts) {
    const host = await meaningBroken('a host record in it', () => pool.onceCertifiedHost(signed));
    signers.set(host.record.fingerprint, host);
  }
  return signers;
}

/** Follows statements, from the first of all or from where a chain has ended before. */
async function walk(
  statements: readonly SignedText[],
  hosts: Map<string, CertifiedHost>,
  pool: PoolTrust,
  from?: ChainEnd,
): Promise<ChainEnd | undefined> {
  let end = from;
  const madeBy = new Map(from?.madeBy);
  for (const signed of statements) {
    const index = madeBy.size;
    const claimed = await meaningBroken(`statement ${index}`, () => readUnverified(signed, Link));
    const key = claimed.type === 'fence' ? pool.publicKey : signerKey(hosts, claimed, index);
    const { payload, digest } = await meaningBroken(`statement ${index}`, () => verifyText(signed, key, Link));
    end = follow(end, payload, digest, index);
    if (!end.ended) madeBy.set(end.generation, digest);
  }
  return end && { ...end, madeBy };
}

/** What a package claims about its instance, next to the chain that must prove it. */
export interface ChainClaim {
  packageId: string;
  instanceId: string;
  /** The one that the package's receiver would own. */
  generation: number;
  sourceFingerprint: string;
  chain: Chain;
}

/**
 * Checks that a package's chain ends with its source as owner of the generation before the package's.
 *
 * @param later statements that followed the package's chain, before the fence that goes back to the package
 * @returns where the chain ends with them
 * @throws ChainBroken
 */
export async function verifyClaim(
  claim: ChainClaim,
  pool: PoolTrust,
  later: readonly SignedText[] = [],
): Promise<ChainEnd> {
  const { packageId, instanceId, generation, sourceFingerprint } = claim;
  const end = await verifyChain(claim.chain, pool);
  if (end.ended || end.instanceId !== instanceId || end.generation !== generation - 1) {
    throw new VmferryError(
      'ChainBroken',
      `package ${packageId} is for generation ${generation} of ${instanceId}, ` +
        `its chain ${end.ended ? 'has ended' : 'stands'} at generation ${end.generation} of ${end.instanceId}`,
    );
  }
  if (end.ownerFingerprint !== sourceFingerprint) {
    throw new VmferryError(
      'ChainBroken',
      `package ${packageId} was not made by ${end.owner}, the owner of its instance`,
    );
  }
  if (later.length === 0) return end;
  const last = await walk(later, await signersOf(claim.chain, pool), pool, end);
  if (!last || last.ended) throw new VmferryError('ChainBroken', `instance ${instanceId} has ended`);
  return last;
}

/**
 * Checks that the pool key signed a fence.
 *
 * @throws FenceInvalid
 */
export async function verifyFence(fence: SignedText, pool: PoolTrust): Promise<Verified<Fence>> {
  try {
    return await verifyText(fence, pool.publicKey, Fence);
  } catch (cause) {
    throw new VmferryError('FenceInvalid', `a fence is not signed by the key of pool ${pool.fingerprint}`, { cause });
  }
}

function signerKey(
  hosts: Map<string, CertifiedHost>,
  link: Exclude<Link, { type: 'fence' }>,
  index: number,
): CertifiedHost['key'] {
  const host = hosts.get(link.signerFingerprint);
  if (host?.record.name !== link.signer) {
    throw new VmferryError(
      'ChainBroken',
      `statement ${index} is signed by ${link.signer}, of whom the chain has no record`,
    );
  }
  return host.key;
}

/** The end of the chain after one more statement. */
function follow(before: ChainEnd | undefined, link: Link, digest: string, index: number): ChainEnd {
  const refuse = (why: string): VmferryError =>
    new VmferryError('ChainBroken', `statement ${index} (${link.type}) of instance ${link.instanceId}: ${why}`);
  const madeBy = new Map<number, string>();
  if (link.type === 'spawn') {
    if (before) throw refuse('the instance exists already');
    const { instanceId, generation, signer: owner, signerFingerprint: ownerFingerprint } = link;
    return { instanceId, generation, owner, ownerFingerprint, tip: digest, ended: false, madeBy };
  }
  if (!before) throw refuse('a chain begins with spawn');
  if (before.ended) throw refuse('the instance has ended');
  if (link.instanceId !== before.instanceId) throw refuse(`the chain is of instance ${before.instanceId}`);
  if (link.previous !== before.tip) throw refuse('it does not name the statement before it');
  if (link.generation !== before.generation + (link.type === 'end' ? 0 : 1)) {
    throw refuse(`generation ${link.generation} does not follow ${before.generation}`);
  }
  if (link.type !== 'fence' && link.signerFingerprint !== before.ownerFingerprint) {
    throw refuse(`${link.signer} was not the owner, ${before.owner} was`);
  }
  const next = { ...before, generation: link.generation, tip: digest, ended: link.type === 'end' };
  if (link.type !== 'release' && link.type !== 'fence') return next;
  return { ...next, owner: link.to, ownerFingerprint: link.toFingerprint };
}

async function meaningBroken<T>(what: string, check: () => Promise<T>): Promise<T> {
  try {
    return await check();
  } catch (cause) {
    throw new VmferryError('ChainBroken', `${what} of an instance’s chain is refused`, { cause });
  }
}
