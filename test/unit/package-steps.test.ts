/** The steps that make, address, open and verify packages, on hosts whose libvirt must not be touched. */
import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { cp, readdir, readFile, rename, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { buffer } from 'node:stream/consumers';
import test, { type TestContext } from 'node:test';
import { MockActivityEnvironment } from '@temporalio/testing';
import { DefaultLogger } from '@temporalio/worker';
import { pack } from 'tar-stream';
import { createBuildPackage } from '../../activities/build-package.ts';
import { createEncryptPackage } from '../../activities/encrypt-package.ts';
import type { HostContext } from '../../activities/host-context.ts';
import type { Hypervisor } from '../../activities/hypervisor/hypervisor.ts';
import type { GuestNetwork } from '../../activities/network/guest-network.ts';
import { claimFolder } from '../../activities/move-folder.ts';
import { createOpenPackage } from '../../activities/open-package.ts';
import { envelopeName } from '../../activities/package/format.ts';
import type { Members as MembersFile } from '../../activities/package/members.ts';
import { createReaddressPackage } from '../../activities/readdress-package.ts';
import { exists } from '../../activities/records/durable.ts';
import { MEMBER } from '../../activities/records/layout.ts';
import { createSettleMove } from '../../activities/settle-move.ts';
import { createVerifyPackage } from '../../activities/verify-package.ts';
import type { FailureType } from '../../workflows/failures.ts';
import type { MoveRef } from '../../workflows/contract.ts';
import { dieAt } from '../support/crash-points.ts';
import { testPool, type TestHost, type TestPool } from '../support/pool-hosts.ts';
import { refused } from '../support/refusals.ts';
import {
  IMAGE_ID,
  reissue,
  REQUIREMENTS,
  sampleMembers,
  samplePackage,
  writeMembers,
  type Members,
  type SamplePackage,
} from '../support/sample-package.ts';
import { addressPackage } from '../../activities/package/envelope.ts';

/** Fails whoever looks at it. */
const untouchable = <T extends object>(name: string): T =>
  new Proxy({} as T, {
    get: (_target, property) => {
      throw new Error(`${name}.${String(property)} was touched`);
    },
  });

const contextOf = ({ name, layout, keys, pool, ledger }: TestHost): HostContext => ({
  ...{ name, layout, keys, pool, ledger },
  hypervisor: untouchable<Hypervisor>('hypervisor'),
  network: untouchable<GuestNetwork>('network'),
});

/** Runs a step as Temporal would. */
const run = <I, O>(step: (input: I) => Promise<O>, input: I): Promise<O> =>
  new MockActivityEnvironment({}, { logger: new DefaultLogger('ERROR') }).run(step, input);

interface World {
  pool: TestPool;
  alpha: TestHost;
  beta: TestHost;
  gamma: TestHost;
}

async function world(t: TestContext): Promise<World> {
  const pool = await testPool(t);
  const [alpha, beta, gamma] = await Promise.all([pool.host('alpha'), pool.host('beta'), pool.host('gamma')]);
  return { pool, alpha, beta, gamma };
}

/** An instance that saveInstance and rebaseOverlay have been at. */
async function saved(host: TestHost): Promise<{ move: MoveRef; members: Members }> {
  const instanceId = randomUUID();
  await host.ledger.spawn(instanceId);
  const move = { moveId: randomUUID(), instanceId, packageId: randomUUID(), generation: 2 };
  const members = sampleMembers();
  await claimFolder(host.layout, 'move', move);
  await writeMembers(host.layout.move(move.moveId), members);
  const list: MembersFile = {
    disks: [{ target: 'vda', virtualBytes: 1024 * 1024 * 1024, imageId: IMAGE_ID }],
    members: [MEMBER.domainXml, MEMBER.kernel, MEMBER.initrd],
    requirements: REQUIREMENTS,
  };
  await writeFile(join(host.layout.move(move.moveId), 'members.json'), JSON.stringify(list));
  return { move, members };
}

const carried = (packageId: string, from: TestHost, to: TestHost): Promise<void> =>
  cp(from.layout.package(packageId), to.layout.package(packageId), { recursive: true });

const inode = async (path: string): Promise<number> => (await stat(path)).ino;

await test('an instance is built, encrypted, opened at its destination, and every step can be repeated', async (t) => {
  const { alpha, beta } = await world(t);
  const { members, move } = await saved(alpha);
  const build = createBuildPackage(contextOf(alpha));
  const built = await run(build, { ...move, compressionLevel: 1 });
  assert.ok(built.packedBytes < built.plainBytes);
  assert.deepEqual(await run(build, { ...move, compressionLevel: 1 }), built);

  const encrypt = createEncryptPackage(contextOf(alpha));
  const input = { ...move, destination: beta.signedRecord };
  const facts = await run(encrypt, input);
  const segment = join(alpha.layout.package(move.packageId), 'snapshot', '000000.seg');
  const before = await inode(segment);
  assert.deepEqual(await run(encrypt, input), facts);
  assert.equal(await inode(segment), before);
  assert.equal(facts.source, 'alpha');
  assert.equal(facts.generation, 2);
  assert.equal((await stat(join(alpha.layout.move(move.moveId), 'session.key'))).mode & 0o777, 0o600);

  await carried(move.packageId, alpha, beta);
  assert.deepEqual(await run(createVerifyPackage(contextOf(beta)), { packageId: move.packageId }), facts);
  const open = createOpenPackage(contextOf(beta));
  const { bytes } = await run(open, { ...move, source: alpha.signedRecord });
  assert.equal(bytes, built.plainBytes);
  assert.deepEqual(await run(open, { ...move, source: alpha.signedRecord }), { bytes });
  const staging = beta.layout.stage(move.moveId);
  assert.equal(Buffer.compare(await readFile(join(staging, MEMBER.snapshot)), members.snapshot), 0);
  assert.equal(Buffer.compare(await readFile(join(staging, MEMBER.disk('vda'))), members.disk), 0);
});

await test('a worker that dies while it encrypts goes on under the same session key', async (t) => {
  const { alpha, beta } = await world(t);
  const { move } = await saved(alpha);
  await run(createBuildPackage(contextOf(alpha)), { ...move, compressionLevel: 1 });
  const encrypt = createEncryptPackage(contextOf(alpha));
  const input = { ...move, destination: beta.signedRecord };
  const partial = `${alpha.layout.package(move.packageId)}.partial`;
  // The renames of the first two segments are done.
  await dieAt(3, ['rename'], () => run(encrypt, input));
  const kept = await inode(join(partial, 'config', '000000.seg'));
  await run(encrypt, input);
  assert.equal(await inode(join(alpha.layout.package(move.packageId), 'config', '000000.seg')), kept);
  assert.ok(!(await readdir(alpha.layout.packages)).includes(`${move.packageId}.partial`));
});

await test('half a package is cleared away by the move that sealed it, and by no other', async (t) => {
  const { alpha, beta } = await world(t);
  const { move } = await saved(alpha);
  await run(createBuildPackage(contextOf(alpha)), { ...move, compressionLevel: 1 });
  await dieAt(3, ['rename'], () =>
    run(createEncryptPackage(contextOf(alpha)), { ...move, destination: beta.signedRecord }),
  );
  const settle = createSettleMove(contextOf(alpha));
  const partial = `${alpha.layout.package(move.packageId)}.partial`;
  const ended = { role: 'source', outcome: 'saved' } as const;
  const other = { ...move, moveId: randomUUID(), instanceId: randomUUID() };
  await claimFolder(alpha.layout, 'move', { ...other, packageId: randomUUID() });
  await run(settle, { ...other, ...ended });
  assert.ok(await exists(partial));
  await run(settle, { ...move, ...ended });
  assert.ok(!(await exists(partial)));
});

await test('a package that was sealed for nobody else is addressed when a destination is named later', async (t) => {
  const { alpha, beta, gamma } = await world(t);
  const { move } = await saved(alpha);
  await run(createBuildPackage(contextOf(alpha)), { ...move, compressionLevel: 1 });
  const encrypt = createEncryptPackage(contextOf(alpha));
  await run(encrypt, { ...move, destination: null });
  const folder = alpha.layout.package(move.packageId);
  const envelopes = async (): Promise<string[]> => (await readdir(folder)).filter((name) => name.startsWith('to-'));
  assert.deepEqual(await envelopes(), [envelopeName(alpha.keys.fingerprint)]);
  await run(encrypt, { ...move, destination: beta.signedRecord });
  assert.equal((await envelopes()).length, 2);
  const { packageId, instanceId } = move;
  const readdress = { packageId, instanceId, destination: gamma.signedRecord };
  await run(createReaddressPackage(contextOf(alpha)), readdress);
  const envelope = await readFile(join(folder, envelopeName(gamma.keys.fingerprint)));
  await run(createReaddressPackage(contextOf(alpha)), readdress);
  assert.deepEqual(await readFile(join(folder, envelopeName(gamma.keys.fingerprint))), envelope, 'never written again');
  await carried(packageId, alpha, gamma);
  await run(createOpenPackage(contextOf(gamma)), { ...move, source: alpha.signedRecord });
});

await test('only the owner packs and seals, and only what it saved', async (t) => {
  const { alpha, beta } = await world(t);
  const { move } = await saved(alpha);
  const destination = alpha.signedRecord;
  await refused('NotOwner', run(createBuildPackage(contextOf(beta)), { ...move, compressionLevel: 1 }));
  await refused('NotOwner', run(createEncryptPackage(contextOf(beta)), { ...move, destination }));
  await refused('NotOwner', run(createBuildPackage(contextOf(alpha)), { ...move, generation: 3, compressionLevel: 1 }));
  await refused(
    'InstanceNotRunning',
    run(createBuildPackage(contextOf(alpha)), { ...move, moveId: 'other', compressionLevel: 1 }),
  );
  await alpha.ledger.takeBack(move);
  await refused('NotOwner', run(createEncryptPackage(contextOf(alpha)), { ...move, destination }));
});

await test('nothing is addressed to a host that is not certified, nor what is not here or another’s', async (t) => {
  const { alpha, beta } = await world(t);
  const stranger = await (await testPool(t)).host('beta');
  const { packageId, instanceId, folder } = await samplePackage(alpha, []);
  const readdress = createReaddressPackage(contextOf(alpha));
  await refused('HostNotCertified', run(readdress, { packageId, instanceId, destination: stranger.signedRecord }));
  const input = { packageId: randomUUID(), instanceId, destination: beta.signedRecord };
  await refused('PackageNotFound', run(readdress, input));
  await refused('PackageMalformed', run(readdress, { ...input, packageId, instanceId: randomUUID() }));
  assert.equal(await exists(join(folder, envelopeName(beta.keys.fingerprint))), false);
  await refused('PackageNotFound', run(createVerifyPackage(contextOf(alpha)), { packageId: randomUUID() }));
});

interface Attack extends World {
  t: TestContext;
  sample: SamplePackage;
  /** Its folder at beta. */
  folder: string;
}

/** What is done to a package on its way to beta, or by its source, and how beta answers. */
const ATTACKS: Record<string, { type: FailureType; attack: (scene: Attack) => Promise<void> }> = {
  'a flipped bit': {
    type: 'SegmentDamaged',
    attack: async ({ folder }) => {
      const path = join(folder, 'snapshot', '000000.seg');
      const data = await readFile(path);
      data[1000] = (data[1000] ?? 0) ^ 1;
      await writeFile(path, data);
    },
  },
  'swapped segments': {
    type: 'SegmentMisplaced',
    attack: async ({ folder }) => {
      const [one, two] = ['000000.seg', '000001.seg'].map((name) => join(folder, 'snapshot', name)) as [string, string];
      await rename(one, `${folder}-one`);
      await rename(two, one);
      await rename(`${folder}-one`, two);
    },
  },
  'a record signed by an uncertified key': {
    type: 'HostNotCertified',
    attack: async ({ t, sample, beta, folder }) => {
      const stranger = await (await testPool(t)).host('alpha');
      const chain = { ...sample.origin.chain, hosts: [stranger.signedRecord] };
      await reissue({ ...sample, folder }, stranger, [beta], { sourceFingerprint: stranger.keys.fingerprint, chain });
    },
  },
  'an envelope for another host': {
    type: 'WrongDestination',
    attack: async ({ sample, gamma, alpha, beta, folder }) => {
      const options = { folder: sample.folder, keys: alpha.keys, pool: alpha.pool, senderRecord: alpha.signedRecord };
      await addressPackage({ ...options, destination: gamma.record });
      await cp(
        join(sample.folder, envelopeName(gamma.keys.fingerprint)),
        join(folder, envelopeName(beta.keys.fingerprint)),
      );
    },
  },
  'no envelope': {
    type: 'WrongDestination',
    attack: ({ folder, beta }) => rename(join(folder, envelopeName(beta.keys.fingerprint)), `${folder}-envelope`),
  },
  'an older generation': {
    type: 'StaleGeneration',
    attack: async ({ sample, alpha, beta }) => {
      await alpha.ledger.takeBack(sample);
      const newer = await samplePackage(alpha, [beta], { instanceId: sample.instanceId });
      await beta.ledger.accept(newer.origin);
    },
  },
  'another package for the same generation': {
    type: 'StaleGeneration',
    attack: ({ sample, beta }) => beta.ledger.accept({ ...sample.origin, packageId: randomUUID() }),
  },
  'a broken chain': {
    type: 'ChainBroken',
    attack: async ({ sample, alpha, beta, gamma, folder }) => {
      const other = await gamma.ledger.spawn(sample.instanceId);
      const chain = { statements: other.chain.statements, hosts: [...other.chain.hosts, alpha.signedRecord] };
      await reissue({ ...sample, folder }, alpha, [beta], { chain });
    },
  },
  'another instance': {
    type: 'PackageMalformed',
    attack: ({ sample, alpha, beta, folder }) =>
      reissue({ ...sample, folder }, alpha, [beta], { instanceId: randomUUID() }),
  },
  'another generation': {
    type: 'PackageMalformed',
    attack: ({ sample, alpha, beta, folder }) => reissue({ ...sample, folder }, alpha, [beta], { generation: 7 }),
  },
};
for (const [name, { type, attack }] of Object.entries(ATTACKS)) {
  await test(`f32: ${name}: refused as ${type} before anything of libvirt is touched`, async (t) => {
    const scene = await world(t);
    const sample = await samplePackage(scene.alpha, [scene.beta]);
    await carried(sample.packageId, scene.alpha, scene.beta);
    await attack({ ...scene, t, sample, folder: scene.beta.layout.package(sample.packageId) });
    const { instanceId, packageId, generation } = sample;
    const move = { moveId: randomUUID(), instanceId, packageId, generation };
    const opening = run(createOpenPackage(contextOf(scene.beta)), { ...move, source: scene.alpha.signedRecord });
    await refused(type, opening);
    assert.equal(await exists(join(scene.beta.layout.stage(move.moveId), MEMBER.snapshot)), false);
  });
}

for (const name of ['../libvirt.xml', '/etc/cron.d/vmferry']) {
  await test(`f30: an archive with a member ${name}: refused as ForbiddenMember, and nothing is written anywhere`, async (t) => {
    const { alpha, beta } = await world(t);
    const archive = pack();
    archive.entry({ name }, '<domain/>');
    archive.finalize();
    const sample = await samplePackage(alpha, [beta], { configArchive: await buffer(archive) });
    await carried(sample.packageId, alpha, beta);
    const { instanceId, packageId, generation } = sample;
    const move = { moveId: randomUUID(), instanceId, packageId, generation };
    const opening = run(createOpenPackage(contextOf(beta)), { ...move, source: alpha.signedRecord });
    await refused('ForbiddenMember', opening);
    assert.deepEqual(await readdir(beta.layout.stage(move.moveId)), ['whose.json']);
    assert.deepEqual(await readdir(beta.layout.staging), [move.moveId]);
  });
}

await test('an instance that never ran here is opened twice at the same time without harm', async (t) => {
  const { alpha, beta } = await world(t);
  const sample = await samplePackage(alpha, [beta]);
  await carried(sample.packageId, alpha, beta);
  const { instanceId, packageId, generation } = sample;
  const input = { moveId: randomUUID(), instanceId, packageId, generation, source: alpha.signedRecord };
  const open = createOpenPackage(contextOf(beta));
  const [one, two] = await Promise.all([run(open, input), run(open, input)]);
  assert.deepEqual(one, two);
});
