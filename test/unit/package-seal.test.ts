import assert from 'node:assert/strict';
import { randomBytes, randomUUID } from 'node:crypto';
import { mkdir, readFile, readdir, rm, stat, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import test, { type TestContext } from 'node:test';
import { newSessionKey } from '../../activities/package/cipher.ts';
import { addressPackage, readEnvelope } from '../../activities/package/envelope.ts';
import { CONFIG_STREAM, diskStream, SNAPSHOT_STREAM } from '../../activities/package/format.ts';
import { sealPackage } from '../../activities/package/seal.ts';
import { verifyFolder } from '../../activities/package/verify-file.ts';
import { exists } from '../../activities/records/durable.ts';
import { dieAt } from '../support/crash-points.ts';
import { testPool, type TestHost } from '../support/pool-hosts.ts';
import { refused } from '../support/refusals.ts';
import {
  IMAGE_ID,
  packMembers,
  REQUIREMENTS,
  sampleMembers,
  samplePackage,
  unwatched,
  writeMembers,
} from '../support/sample-package.ts';

interface Sealing {
  alpha: TestHost;
  beta: TestHost;
  target: string;
  partial: string;
  digests: string[];
  seal: () => ReturnType<typeof sealPackage>;
}

async function sealing(t: TestContext, packed?: string): Promise<Sealing> {
  const pool = await testPool(t);
  const [alpha, beta] = await Promise.all([pool.host('alpha'), pool.host('beta')]);
  const instanceId = randomUUID();
  const packageId = randomUUID();
  const { chain } = await alpha.ledger.spawn(instanceId);
  const from = alpha.layout.move('one');
  const members = sampleMembers();
  if (packed === undefined) await writeMembers(from, members);
  const folder = packed ?? (await packMembers(from, members));
  await mkdir(alpha.layout.packages, { recursive: true });
  const target = alpha.layout.package(packageId);
  const digests: string[] = [];
  const options: Parameters<typeof sealPackage>[0] = {
    packed: folder,
    partial: `${target}.partial`,
    target,
    streams: [CONFIG_STREAM, SNAPSHOT_STREAM, diskStream('vda')],
    origin: {
      packageId,
      instanceId,
      generation: 2,
      disks: [{ target: 'vda', virtualBytes: 1024, imageId: IMAGE_ID }],
      requirements: REQUIREMENTS,
      policy: { placement: null, protection: null },
      chain: { statements: [...chain.statements], hosts: [...chain.hosts] },
      previousOrigin: null,
    },
    sessionKey: newSessionKey(),
    keys: alpha.keys,
    senderRecord: alpha.signedRecord,
    readers: [alpha.record, beta.record],
    onSigned: (digest) => Promise.resolve(void digests.push(digest)),
    work: unwatched(),
  };
  return { alpha, beta, target, partial: options.partial, digests, seal: () => sealPackage(options) };
}

const inode = async (path: string): Promise<number> => (await stat(path)).ino;

await test('a sealed package verifies for each of its readers, and its record’s digest was told before it appeared', async (t) => {
  const { alpha, beta, target, digests, seal } = await sealing(t);
  const { originDigest } = await seal();
  assert.deepEqual(digests, [originDigest]);
  for (const { keys, pool } of [alpha, beta]) {
    assert.equal((await readEnvelope({ folder: target, keys, pool })).originDigest, originDigest);
    const facts = await verifyFolder({ folder: target, keys, pool, work: unwatched() });
    assert.deepEqual(
      facts.streams.map(({ segments }) => segments),
      [1, 2, 1],
    );
  }
});

await test('f32: nothing that was packed can be read in the package', async (t) => {
  const { target, seal } = await sealing(t);
  await seal();
  for (const name of await readdir(target, { recursive: true })) {
    const path = join(target, name);
    if ((await stat(path)).isFile()) assert.equal((await readFile(path)).indexOf('vmferry '), -1, name);
  }
});

await test('whatever instant the sealer dies at, nothing has the package’s name unless it is whole, and good segments are kept', async (t) => {
  const { alpha, beta, target, partial, seal } = await sealing(t);
  const segments = ['config/000000.seg', 'snapshot/000000.seg', 'snapshot/000001.seg', 'disk-vda/000000.seg'];
  for (let count = 1; ; count++) {
    await rm(target, { recursive: true, force: true });
    const died = await dieAt(count, ['rename', 'sync'], seal);
    if (await exists(target)) {
      await verifyFolder({ folder: target, keys: beta.keys, pool: beta.pool, work: unwatched() });
    } else {
      const kept = new Map<string, number>();
      for (const name of segments)
        if (await exists(join(partial, name))) kept.set(name, await inode(join(partial, name)));
      await seal();
      for (const [name, number] of kept)
        assert.equal(await inode(join(target, name)), number, `${name} was sealed again`);
      await verifyFolder({ folder: target, keys: alpha.keys, pool: alpha.pool, work: unwatched() });
    }
    assert.equal(await exists(partial), false);
    if (!died) break;
  }
});

await test('segments that an earlier attempt left damaged, exchanged or under another key are sealed again', async (t) => {
  const { alpha, target, partial, seal } = await sealing(t);
  const [one, two] = [join(partial, 'snapshot', '000000.seg'), join(partial, 'snapshot', '000001.seg')];
  const wrong: Record<string, () => Promise<void>> = {
    damaged: async () => writeFile(one, Buffer.concat([(await readFile(one)).subarray(0, -1), Buffer.of(7)])),
    cut: () => truncate(one, 100),
    exchanged: async () => {
      const [first, second] = [await readFile(one), await readFile(two)];
      await writeFile(one, second);
      await writeFile(two, first);
    },
    'no segment': () => writeFile(one, randomBytes(1000)),
  };
  for (const [name, damage] of Object.entries(wrong)) {
    await t.test(name, async () => {
      await rm(target, { recursive: true, force: true });
      await dieAt(6, ['sync'], seal);
      await damage();
      await seal();
      await verifyFolder({ folder: target, keys: alpha.keys, pool: alpha.pool, work: unwatched() });
    });
  }
});

await test('f33: leftovers of another attempt are not sealed in', async (t) => {
  const { alpha, target, partial, seal } = await sealing(t);
  await mkdir(join(partial, 'disk-vdb'), { recursive: true });
  await mkdir(join(partial, 'snapshot'));
  await writeFile(join(partial, 'snapshot', '000009.seg'), 'old');
  await writeFile(join(partial, `to-${'A'.repeat(64)}.pgp`), 'old');
  await seal();
  const names = await readdir(target);
  assert.equal(names.length, 5);
  await verifyFolder({ folder: target, keys: alpha.keys, pool: alpha.pool, work: unwatched() });
});

await test('what is not packed whole is not sealed', async (t) => {
  const { seal } = await sealing(t, '/nonexistent');
  await refused('Internal', seal());
});

await test('addressing a package to another host leaves its bulk alone', async (t) => {
  const pool = await testPool(t);
  const [alpha, beta, gamma] = await Promise.all([pool.host('alpha'), pool.host('beta'), pool.host('gamma')]);
  const sample = await samplePackage(alpha, [beta]);
  const { folder } = sample;
  await refused('WrongDestination', readEnvelope({ folder, keys: gamma.keys, pool: gamma.pool }));
  const before = await inode(join(folder, 'snapshot', '000000.seg'));
  // Any reader can pass it on, and says so with its own signature; the origin record stays the source's.
  await addressPackage({
    folder,
    keys: beta.keys,
    pool: beta.pool,
    senderRecord: beta.signedRecord,
    destination: gamma.record,
  });
  const opened = await readEnvelope({ folder, keys: gamma.keys, pool: gamma.pool });
  assert.equal(opened.sender.name, 'beta');
  assert.equal(opened.originText, sample.originText);
  assert.equal(await inode(join(folder, 'snapshot', '000000.seg')), before);
  await verifyFolder({ folder, keys: gamma.keys, pool: gamma.pool, work: unwatched() });
});
