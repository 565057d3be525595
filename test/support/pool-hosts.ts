/** Hosts of one pool without libvirt: keys, records, ledgers, folders. For tests of trust and of packages. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import type { HostRecord, SignedText } from '../../workflows/contract.ts';
import { Layout } from '../../activities/records/layout.ts';
import { ensureHostKeys, type HostKeys } from '../../activities/trust/keys.ts';
import { Ledger } from '../../activities/trust/ledger.ts';
import { createPoolKey, type PoolKey } from '../../activities/trust/pool-key.ts';
import { PoolTrust } from '../../activities/trust/pool.ts';

export interface TestHost {
  name: string;
  layout: Layout;
  keys: HostKeys;
  pool: PoolTrust;
  record: HostRecord;
  /** Certified. */
  signedRecord: SignedText;
  ledger: Ledger;
}

export interface TestPool {
  directory: string;
  poolKey: PoolKey;
  trust: PoolTrust;
  host(name: string): Promise<TestHost>;
}

/** A directory that goes away with the test. */
export async function temporary(context: Pick<TestContext, 'after'>): Promise<string> {
  const directory = await mkdtemp(join(tmpdir(), 'vmferry-test-'));
  context.after(() => rm(directory, { recursive: true, force: true }));
  return directory;
}

/** A pool with a key of its own in a temporary directory. */
export async function testPool(context: Pick<TestContext, 'after'>): Promise<TestPool> {
  const directory = await temporary(context);
  const poolKey = await createPoolKey(join(directory, 'pool'));
  const trust = await PoolTrust.load(join(directory, 'pool'));
  if (!trust) throw new Error('the pool key was not written');
  return { directory, poolKey, trust, host: (name) => testHost(join(directory, name), name, poolKey, trust) };
}

async function testHost(directory: string, name: string, poolKey: PoolKey, trust: PoolTrust): Promise<TestHost> {
  const layout = new Layout(directory);
  const keys = await ensureHostKeys(layout.keys, name);
  const record = recordOf(keys);
  const signedRecord = await poolKey.certifyHost(record);
  const ledger = new Ledger({ layout, keys, pool: trust, selfRecord: () => Promise.resolve(signedRecord) });
  return { name, layout, keys, pool: trust, record, signedRecord, ledger };
}

/** What a host says of itself. */
export const recordOf = (keys: HostKeys): HostRecord => ({
  version: 1,
  name: keys.name,
  fingerprint: keys.fingerprint,
  publicKey: keys.armoredPublicKey,
  tlsCertificate: keys.tls.cert,
  addresses: ['192.0.2.1:7443'],
  location: 'test',
  architecture: 'x86_64',
});
