import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import test, { type TestContext } from 'node:test';
import fc from 'fast-check';
import { readPrivateKey } from 'openpgp';
import type { SignedText } from '../../workflows/contract.ts';
import { verifyChain, verifyClaim } from '../../activities/trust/chain.ts';
import { PoolTrust } from '../../activities/trust/pool.ts';
import { digestOf, signText } from '../../activities/trust/signed-text.ts';
import { testPool, type TestHost, type TestPool } from '../support/pool-hosts.ts';
import { refused } from '../support/refusals.ts';

const instanceId = randomUUID();
const packageId = randomUUID();
const time = new Date().toISOString();

interface World {
  pool: TestPool;
  alpha: TestHost;
  beta: TestHost;
  gamma: TestHost;
  hosts: SignedText[];
}

async function world(t: TestContext): Promise<World> {
  const pool = await testPool(t);
  const [alpha, beta, gamma] = await Promise.all([pool.host('alpha'), pool.host('beta'), pool.host('gamma')]);
  return { pool, alpha, beta, gamma, hosts: [alpha, beta, gamma].map(({ signedRecord }) => signedRecord) };
}

const signer = ({ keys }: TestHost): object => ({ signer: keys.name, signerFingerprint: keys.fingerprint });
const to = ({ keys }: TestHost): object => ({ to: keys.name, toFingerprint: keys.fingerprint });

const spawn = (host: TestHost, changes: object = {}): Promise<SignedText> =>
  signText(
    { type: 'spawn', version: 1, instanceId, generation: 1, ...signer(host), time, ...changes },
    host.keys.privateKey,
  );

/** Signs one more link and gives the longer chain. */
async function extended(chain: SignedText[], host: TestHost, link: object): Promise<SignedText[]> {
  const previous = await digestOf(chain.at(-1) ?? '');
  const statement = { version: 1, instanceId, ...signer(host), time, previous, ...link };
  return [...chain, await signText(statement, host.keys.privateKey)];
}

const release = (
  chain: SignedText[],
  from: TestHost,
  host: TestHost,
  generation: number,
  changes: object = {},
): Promise<SignedText[]> =>
  extended(chain, from, {
    type: 'release',
    packageId,
    generation,
    ...to(host),
    receiptDigest: '0'.repeat(64),
    ...changes,
  });

/** alpha spawns, releases to beta; beta takes back once, releases to gamma. */
async function history({ alpha, beta, gamma }: World): Promise<SignedText[]> {
  const spawned = await release([await spawn(alpha)], alpha, beta, 2);
  const returned = await extended(spawned, beta, { type: 'return', packageId, generation: 3 });
  return release(returned, beta, gamma, 4);
}

await test('a chain of spawn, release, return and release ends with its last owner', async (t) => {
  const w = await world(t);
  const end = await verifyChain({ statements: await history(w), hosts: w.hosts }, w.pool.trust);
  assert.equal(end.owner, 'gamma');
  assert.equal(end.ownerFingerprint, w.gamma.keys.fingerprint);
  assert.equal(end.generation, 4);
  assert.equal(end.instanceId, instanceId);
  assert.equal(end.ended, false);
  assert.deepEqual([...end.madeBy.keys()], [1, 2, 3, 4]);
});

await test('no statement of a chain can be left out, repeated or exchanged', async (t) => {
  const w = await world(t);
  const chain = await history(w);
  const order = fc.array(fc.nat(chain.length - 1), { maxLength: 5 });
  await fc.assert(
    fc.asyncProperty(order, async (indices) => {
      // Every beginning of the chain was the whole chain once.
      fc.pre(indices.length === 0 || indices.some((value, position) => value !== position));
      const statements = indices.map((index) => chain[index] ?? '');
      await refused('ChainBroken', verifyChain({ statements, hosts: w.hosts }, w.pool.trust));
    }),
    { numRuns: 60 },
  );
});

await test('only the owner continues a chain', async (t) => {
  const w = await world(t);
  const chain = await history(w);
  const check = (statements: SignedText[]): Promise<unknown> =>
    verifyChain({ statements, hosts: w.hosts }, w.pool.trust);
  await check(await release(chain, w.gamma, w.alpha, 5));
  await refused('ChainBroken', check(await release(chain, w.beta, w.alpha, 5)));
  await refused('ChainBroken', check(await extended(chain, w.alpha, { type: 'return', packageId, generation: 5 })));
  await refused('ChainBroken', check(await extended(chain, w.beta, { type: 'end', generation: 4 })));
  // Signed by beta, but saying that gamma signed it.
  await refused('ChainBroken', check(await release(chain, w.beta, w.alpha, 5, signer(w.gamma))));
});

await test('generations follow one another and statements name the one before', async (t) => {
  const w = await world(t);
  const chain = await history(w);
  const check = (statements: SignedText[]): Promise<unknown> =>
    verifyChain({ statements, hosts: w.hosts }, w.pool.trust);
  await refused('ChainBroken', check(await release(chain, w.gamma, w.alpha, 4)));
  await refused('ChainBroken', check(await release(chain, w.gamma, w.alpha, 6)));
  await refused('ChainBroken', check(await release(chain, w.gamma, w.alpha, 5, { previous: '0'.repeat(64) })));
  await refused('ChainBroken', check(await release(chain, w.gamma, w.alpha, 5, { instanceId: randomUUID() })));
  await refused(
    'ChainBroken',
    check(await release(chain, w.gamma, w.alpha, 5, { instanceId: instanceId.toUpperCase() })),
  );
  await refused('ChainBroken', check(await release(chain, w.gamma, w.alpha, 5, { version: 2 })));
  await refused('ChainBroken', check(await release(chain, w.gamma, w.alpha, 5, { more: 1 })));
  await refused('ChainBroken', check([...chain, await spawn(w.gamma)]));
});

await test('nothing follows the end of an instance', async (t) => {
  const w = await world(t);
  const ended = await extended(await history(w), w.gamma, { type: 'end', generation: 4 });
  const hosts = w.hosts;
  assert.equal((await verifyChain({ statements: ended, hosts }, w.pool.trust)).ended, true);
  const after = await release(ended, w.gamma, w.alpha, 5);
  await refused('ChainBroken', verifyChain({ statements: after, hosts }, w.pool.trust));
});

await test('every signer, and the owner, must be certified by this pool', async (t) => {
  const w = await world(t);
  const statements = await history(w);
  const stranger = await (await testPool(t)).host('alpha');
  const [, beta, gamma] = w.hosts as [string, string, string];
  await refused('ChainBroken', verifyChain({ statements, hosts: [beta, gamma] }, w.pool.trust));
  await refused('ChainBroken', verifyChain({ statements, hosts: w.hosts.slice(0, 2) }, w.pool.trust));
  await refused('ChainBroken', verifyChain({ statements, hosts: [stranger.signedRecord, beta, gamma] }, w.pool.trust));
  await refused(
    'ChainBroken',
    verifyChain({ statements: [await spawn(stranger)], hosts: [stranger.signedRecord] }, w.pool.trust),
  );
});

await test('a host that was revoked later does not break the chains that it once continued', async (t) => {
  const w = await world(t);
  const trust = new PoolTrust(w.pool.trust.publicKey, [w.beta.keys.fingerprint]);
  const end = await verifyChain({ statements: await history(w), hosts: w.hosts }, trust);
  assert.equal(end.owner, 'gamma');
});

await test('a fence by the pool key replaces the release of an owner that died, and by no other key', async (t) => {
  const w = await world(t);
  const chain = await history(w);
  const previous = await digestOf(chain.at(-1) ?? '');
  const fence = { type: 'fence', version: 1, instanceId, packageId, generation: 5, ...to(w.alpha), previous, time };
  const hosts = w.hosts;
  const poolKey = await readPrivateKey({
    armoredKey: await readFile(join(w.pool.directory, 'pool', 'pool.key'), 'utf8'),
  });
  const end = await verifyChain({ statements: [...chain, await signText(fence, poolKey)], hosts }, w.pool.trust);
  assert.equal(end.owner, 'alpha');
  assert.equal(end.generation, 5);
  const forged = [...chain, await signText(fence, w.gamma.keys.privateKey)];
  await refused('ChainBroken', verifyChain({ statements: forged, hosts }, w.pool.trust));
});

await test('a package’s claim is the chain’s end and nothing else', async (t) => {
  const w = await world(t);
  const claim = {
    packageId,
    instanceId,
    generation: 5,
    sourceFingerprint: w.gamma.keys.fingerprint,
    chain: { statements: await history(w), hosts: w.hosts },
  };
  await verifyClaim(claim, w.pool.trust);
  await refused('ChainBroken', verifyClaim({ ...claim, generation: 4 }, w.pool.trust));
  await refused('ChainBroken', verifyClaim({ ...claim, generation: 6 }, w.pool.trust));
  await refused('ChainBroken', verifyClaim({ ...claim, instanceId: randomUUID() }, w.pool.trust));
  await refused('ChainBroken', verifyClaim({ ...claim, sourceFingerprint: w.beta.keys.fingerprint }, w.pool.trust));
  const ended = await extended(claim.chain.statements, w.gamma, { type: 'end', generation: 4 });
  await refused('ChainBroken', verifyClaim({ ...claim, chain: { statements: ended, hosts: w.hosts } }, w.pool.trust));
});
