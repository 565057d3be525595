/** A copy of a package that is not as it was sealed is pulled again: from a host's real package server, over pinned TLS. */
import assert from 'node:assert/strict';
import { createHash, randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { cp, readdir, readFile, rename, rm, stat, symlink, writeFile } from 'node:fs/promises';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import test, { type TestContext } from 'node:test';
import { MockActivityEnvironment } from '@temporalio/testing';
import { DefaultLogger } from '@temporalio/worker';
import type { HostContext } from '../../activities/host-context.ts';
import { envelopeName } from '../../activities/package/format.ts';
import { segmentPath, segmentsOf } from '../../activities/package/verify.ts';
import { createPullPackage } from '../../activities/pull-package.ts';
import { exists } from '../../activities/records/durable.ts';
import { createPackageServer } from '../../activities/transfer/package-server.ts';
import { createTransferPackage } from '../../activities/transfer-package.ts';
import { createVerifyPackage } from '../../activities/verify-package.ts';
import { addressPackage } from '../../activities/package/envelope.ts';
import type { SignedText } from '../../workflows/contract.ts';
import { FakeGuestNetwork } from '../fakes/guest-network.ts';
import { FakeHypervisor } from '../fakes/hypervisor.ts';
import { dieAt } from '../support/crash-points.ts';
import { testPool, type TestHost } from '../support/pool-hosts.ts';
import { refused } from '../support/refusals.ts';
import { reissue, samplePackage, type SamplePackage } from '../support/sample-package.ts';

const contextOf = ({ name, layout, keys, pool, ledger }: TestHost): HostContext => ({
  ...{ name, layout, keys, pool, ledger },
  hypervisor: new FakeHypervisor(),
  network: new FakeGuestNetwork(),
});

const run = <I, O>(step: (input: I) => Promise<O>, input: I): Promise<O> =>
  new MockActivityEnvironment({}, { logger: new DefaultLogger('ERROR') }).run(step, input);

interface World {
  sample: SamplePackage;
  alpha: TestHost;
  beta: TestHost;
  gamma: TestHost;
  /** Certified, with the address at which each hands packages out. */
  records: ReadonlyMap<TestHost, SignedText>;
  /** Folders of the two copies. */
  copies: { alpha: string; beta: string };
  pull: (to: TestHost, from: TestHost, generation?: number) => Promise<{ bytes: number }>;
  verify: (host: TestHost) => Promise<unknown>;
}

/** Alpha has sealed a package, and beta has a copy of it. */
async function world(t: TestContext): Promise<World> {
  const pool = await testPool(t);
  const [alpha, beta, gamma] = await Promise.all([pool.host('alpha'), pool.host('beta'), pool.host('gamma')]);
  const sample = await samplePackage(alpha, [beta]);
  const { packageId, instanceId } = sample;
  const records = new Map<TestHost, SignedText>();
  for (const host of [alpha, beta, gamma]) {
    const server = createPackageServer({ ...host, onError: () => undefined }).listen(0, '127.0.0.1');
    t.after(() => {
      server.closeAllConnections();
      server.close();
    });
    await once(server, 'listening');
    const address = `127.0.0.1:${(server.address() as AddressInfo).port}`;
    records.set(host, await pool.poolKey.certifyHost({ ...host.record, addresses: [address] }));
  }
  const copies = { alpha: alpha.layout.package(packageId), beta: beta.layout.package(packageId) };
  await cp(copies.alpha, copies.beta, { recursive: true });
  return {
    ...{ sample, alpha, beta, gamma, copies, records },
    pull: async (to, from, generation = sample.generation) => {
      const folder = from.layout.package(packageId);
      const senderRecord = from.signedRecord;
      await addressPackage({ folder, keys: from.keys, pool: from.pool, senderRecord, destination: to.record });
      const source = records.get(from) ?? '';
      return run(createPullPackage(contextOf(to)), { packageId, instanceId, generation, source });
    },
    verify: (host) => run(createVerifyPackage(contextOf(host)), { packageId }),
  };
}

async function flip(path: string): Promise<void> {
  const data = await readFile(path);
  const middle = data.length >> 1;
  data[middle] = (data[middle] ?? 0) ^ 1;
  await writeFile(path, data);
}

/** Every file, by its path: digest and inode. */
async function filesOf(folder: string): Promise<Map<string, { sha256: string; inode: number }>> {
  const files = new Map<string, { sha256: string; inode: number }>();
  for (const entry of await readdir(folder, { recursive: true, withFileTypes: true })) {
    if (!entry.isFile()) continue;
    const path = join(entry.parentPath, entry.name);
    const sha256 = createHash('sha256')
      .update(await readFile(path))
      .digest('hex');
    files.set(path.slice(folder.length + 1), { sha256, inode: (await stat(path)).ino });
  }
  return files;
}

/** What may happen to a copy; none of it may stay. */
const DAMAGE: Record<string, (folder: string, host: TestHost) => Promise<unknown>> = {
  'a flipped bit': (folder) => flip(join(folder, 'snapshot', '000001.seg')),
  'a missing segment': (folder) => rm(join(folder, 'disk-vda', '000000.seg')),
  'a segment that is cut': (folder) => writeFile(join(folder, 'config', '000000.seg'), 'short'),
  'two segments that were exchanged': async (folder) => {
    const [one, two] = ['000000.seg', '000001.seg'].map((name) => join(folder, 'snapshot', name)) as [string, string];
    await rename(one, `${folder}-one`);
    await rename(two, one);
    await rename(`${folder}-one`, two);
  },
  'a missing stream': (folder) => rm(join(folder, 'snapshot'), { recursive: true }),
  'a missing envelope': (folder, host) => rm(join(folder, envelopeName(host.keys.fingerprint))),
  'a damaged envelope': (folder, host) => flip(join(folder, envelopeName(host.keys.fingerprint))),
};

for (const [name, harm] of Object.entries(DAMAGE)) {
  await test(`f9: ${name} is found and repaired by a pull, and whole files stay as they are`, async (t) => {
    const w = await world(t);
    const { beta, copies } = w;
    const before = await filesOf(copies.beta);
    await harm(copies.beta, beta);
    const harmed = await filesOf(copies.beta);
    await assert.rejects(w.verify(beta));
    const { bytes } = await w.pull(beta, w.alpha);
    const { bytes: verified } = (await w.verify(beta)) as { bytes: number };
    assert.equal(bytes, verified);
    assert.equal(await exists(beta.layout.incoming(w.sample.packageId)), false);
    for (const [path, { sha256, inode }] of await filesOf(copies.beta)) {
      if (!path.endsWith('.pgp')) assert.equal(sha256, before.get(path)?.sha256, path);
      const kept = harmed.get(path);
      if (kept?.sha256 === before.get(path)?.sha256) assert.equal(inode, kept?.inode, `${path} was written again`);
    }
  });
}

await test('a copy that is whole is left alone, and one that is not there is fetched', async (t) => {
  const w = await world(t);
  const before = await filesOf(w.copies.beta);
  await w.pull(w.beta, w.alpha);
  assert.deepEqual(await filesOf(w.copies.beta), before);
  await rm(w.copies.beta, { recursive: true });
  await w.pull(w.beta, w.alpha);
  await w.verify(w.beta);
});

await test('two copies that are damaged in different places mend each other', async (t) => {
  const w = await world(t);
  await flip(join(w.copies.alpha, 'snapshot', '000000.seg'));
  await flip(join(w.copies.beta, 'snapshot', '000001.seg'));
  await w.pull(w.beta, w.alpha);
  await w.verify(w.beta);
  await w.pull(w.alpha, w.beta);
  await w.verify(w.alpha);
});

await test('what the source itself has only damaged replaces nothing', async (t) => {
  const w = await world(t);
  await flip(join(w.copies.alpha, 'snapshot', '000000.seg'));
  await rm(join(w.copies.beta, 'snapshot', '000000.seg'));
  const harmed = await filesOf(w.copies.beta);
  await refused('SegmentDamaged', w.pull(w.beta, w.alpha));
  assert.deepEqual(await filesOf(w.copies.beta), harmed);
});

await test('f7: something that is not the package’s is neither removed nor replaced', async (t) => {
  const w = await world(t);
  await flip(join(w.copies.beta, 'snapshot', '000000.seg'));
  await symlink('/etc/hostname', join(w.copies.beta, 'notes'));
  const harmed = await filesOf(w.copies.beta);
  await refused('ForbiddenMember', w.pull(w.beta, w.alpha));
  assert.deepEqual(await filesOf(w.copies.beta), harmed);
  assert.equal(await exists(join(w.copies.beta, 'notes')), true);
});

await test('an envelope with the record of something else makes no other package of it', async (t) => {
  const w = await world(t);
  const { alpha, beta, gamma, sample, copies } = w;
  await rm(join(copies.beta, envelopeName(beta.keys.fingerprint)));
  const harmed = await filesOf(copies.beta);
  await refused('PackageMalformed', w.pull(beta, alpha, sample.generation + 1));
  // Gamma is certified and never owned the instance.
  const folder = gamma.layout.package(sample.packageId);
  await cp(copies.alpha, folder, { recursive: true });
  const chain = { ...sample.origin.chain, hosts: [...sample.origin.chain.hosts, gamma.signedRecord] };
  const changes = { source: 'gamma', sourceFingerprint: gamma.keys.fingerprint, chain };
  await rm(join(folder, envelopeName(beta.keys.fingerprint)));
  await reissue({ ...sample, folder }, gamma, [beta, gamma], changes);
  await assert.rejects(w.pull(beta, gamma), { type: /^(NotOwner|ChainBroken)$/ });
  assert.deepEqual(await filesOf(copies.beta), harmed);
});

await test('what is fetched for another generation than its own is refused, and nothing of it stays', async (t) => {
  const w = await world(t);
  const { alpha, gamma, sample } = w;
  await refused('PackageMalformed', w.pull(gamma, alpha, sample.generation + 1));
  assert.equal(await exists(gamma.layout.package(sample.packageId)), false);
  assert.equal(await exists(gamma.layout.incoming(sample.packageId)), false);
  await w.pull(gamma, alpha);
  await w.verify(gamma);
});

await test('the envelope of a package that is here stays when it is to be fetched from another than it came from', async (t) => {
  const w = await world(t);
  const { beta, copies, sample, records } = w;
  const before = await filesOf(copies.beta);
  const { packageId, instanceId, generation } = sample;
  const move = { moveId: randomUUID(), packageId, instanceId, generation };
  const fetch = (source: SignedText): Promise<unknown> =>
    run(createTransferPackage(contextOf(beta)), { ...move, source });
  await refused('PackageNotFound', fetch(records.get(w.gamma) ?? ''));
  assert.deepEqual(await filesOf(copies.beta), before);
  // One that does not open it is exchanged.
  await flip(join(copies.beta, envelopeName(beta.keys.fingerprint)));
  await fetch(records.get(w.alpha) ?? '');
  assert.deepEqual(new Set((await filesOf(copies.beta)).keys()), new Set(before.keys()));
  await w.verify(beta);
});

await test('f11: f33: whatever instant a repair dies at, each file is the old one or the right one, and the next ends it', async (t) => {
  const w = await world(t);
  const { beta, copies, sample } = w;
  const right = await filesOf(copies.alpha);
  const kept = join(beta.layout.root, randomUUID());
  const harm = async (): Promise<void> => {
    await rm(copies.beta, { recursive: true });
    await cp(kept, copies.beta, { recursive: true });
  };
  await flip(join(copies.beta, 'snapshot', '000000.seg'));
  await flip(join(copies.beta, 'config', '000000.seg'));
  await rm(join(copies.beta, 'disk-vda'), { recursive: true });
  await flip(join(copies.beta, envelopeName(beta.keys.fingerprint)));
  await cp(copies.beta, kept, { recursive: true });
  const old = await filesOf(copies.beta);

  const points = ['rename', 'rm', 'mkdir', 'sync', 'writeFile'] as const;
  let deaths = 0;
  for (let count = 1; await dieAt(count, points, () => w.pull(beta, w.alpha)); count++) {
    deaths = count;
    const now = await filesOf(copies.beta);
    for (const path of old.keys()) assert.ok(now.has(path), `${path} is gone after death ${count}`);
    for (const { place } of segmentsOf(sample.origin)) {
      const path = segmentPath(copies.beta, place).slice(copies.beta.length + 1);
      const found = now.get(path)?.sha256;
      assert.ok([old.get(path)?.sha256, right.get(path)?.sha256].includes(found), `${path} after death ${count}`);
    }
    await w.pull(beta, w.alpha);
    await w.verify(beta);
    await harm();
  }
  assert.ok(deaths > 10, `${deaths} instants`);
});
