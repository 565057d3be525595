/** A package in any folder, checked with nothing but a reader's keys and its pool's public key: no network, no catalog. */
import type { PackageFacts } from '../../workflows/contract.ts';
import type { Work } from '../heartbeat.ts';
import { verifyClaim } from '../trust/chain.ts';
import type { HostKeys } from '../trust/keys.ts';
import type { PoolTrust } from '../trust/pool.ts';
import { readEnvelope } from './envelope.ts';
import { verifyPackage } from './verify.ts';

/**
 * Envelope, origin record, chain of releases, layout, every segment. Whether the package is the newest of its instance no
 * folder can tell: that is for the ledger of the host that would run it.
 *
 * @throws what readEnvelope, verifyClaim and verifyPackage throw
 */
export async function verifyFolder(options: {
  folder: string;
  keys: HostKeys;
  pool: PoolTrust;
  work: Work;
  gently?: boolean;
}): Promise<PackageFacts> {
  const { folder, keys, pool, work, gently } = options;
  const { origin } = await readEnvelope({ folder, keys, pool });
  await verifyClaim(origin, pool);
  return verifyPackage({ folder, origin, work, ...(gently !== undefined && { gently }) });
}
