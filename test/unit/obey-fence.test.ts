/** A host is asked about a fence, or told of it, in whatever state it is: with a hypervisor in memory and real records. */
import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { mkdir, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import test, { type TestContext } from 'node:test';
import { MockActivityEnvironment } from '@temporalio/testing';
import { DefaultLogger } from '@temporalio/worker';
import type { FenceObeyed, MoveRef, SignedText } from '../../workflows/contract.ts';
import { VmferryError } from '../../workflows/failures.ts';
import { createDiscardCopy } from '../../activities/discard-copy.ts';
import { withHeartbeat } from '../../activities/heartbeat.ts';
import type { HostContext } from '../../activities/host-context.ts';
import { claimFolder } from '../../activities/move-folder.ts';
import { createObeyFence } from '../../activities/obey-fence.ts';
import { createReserve } from '../../activities/reserve.ts';
import { exists } from '../../activities/records/durable.ts';
import { fileStamp, writeSaveRecord } from '../../activities/save-record.ts';
import { digestOf } from '../../activities/trust/signed-text.ts';
import { FakeGuestNetwork } from '../fakes/guest-network.ts';
import { FakeHypervisor } from '../fakes/hypervisor.ts';
import { dieAt } from '../support/crash-points.ts';
import { restored, sealed, world, type Move, type World } from '../support/ledger-moves.ts';
import type { TestHost } from '../support/pool-hosts.ts';
import { refused } from '../support/refusals.ts';

interface Host extends TestHost {
  hypervisor: FakeHypervisor;
  network: FakeGuestNetwork;
  context: HostContext;
}

function withHypervisor(host: TestHost): Host {
  const hypervisor = new FakeHypervisor();
  const network = new FakeGuestNetwork();
  const { name, layout, keys, pool, ledger } = host;
  return { ...host, hypervisor, network, context: { name, layout, keys, pool, ledger, hypervisor, network } };
}

interface Scene extends World {
  alpha: Host;
  beta: Host;
  instanceId: string;
  move: Move;
  release: SignedText;
  /** The move's names once it goes on at gamma. */
  ref: MoveRef & { fence: SignedText[] };
}

const ADDRESS = { ip: '10.77.0.2', mac: '52:54:00:4d:00:02' };

/** alpha has released generation 2 to beta, which has its paused copy; a fence lets gamma go on as generation 3. */
async function scene(t: TestContext): Promise<Scene> {
  const w = await world(t);
  const [alpha, beta] = [withHypervisor(w.alpha), withHypervisor(w.beta)];
  const instanceId = randomUUID();
  await alpha.ledger.spawn(instanceId);
  const move = await sealed(alpha, instanceId);
  const receipt = await restored(move, alpha, beta);
  await run(createReserve(beta.context), { ...refOf(move), name: 'web', address: ADDRESS });
  await copyOn(beta, instanceId, 2);
  await claimFolder(beta.layout, 'stage', { ...move, instanceId });
  await mkdir(beta.layout.incoming(move.packageId), { recursive: true });
  for (const folder of [beta.layout.stage(move.moveId), beta.layout.incoming(move.packageId)])
    await writeFile(join(folder, 'member'), 'in clear');
  const release = await alpha.ledger.release({ ...move, receipt, destination: beta.signedRecord });
  const fence = await w.pool.poolKey.signFence({
    ...{ instanceId, packageId: move.packageId, generation: 3 },
    ...{ to: 'gamma', toFingerprint: w.gamma.keys.fingerprint, previous: await digestOf(release) },
  });
  const ref = { ...refOf(move), generation: 3, fence: [release, fence] };
  return { ...w, alpha, beta, instanceId, move, release, ref };
}

const refOf = ({ moveId, instanceId, packageId, generation }: Move): MoveRef => ({
  moveId,
  instanceId,
  packageId,
  generation,
});

/** A domain with its disk, as vmferry keeps them. */
async function copyOn(host: Host, instanceId: string, generation: number): Promise<string> {
  const folder = host.layout.generation(instanceId, generation);
  await mkdir(folder, { recursive: true });
  const disk = join(folder, 'vda.qcow2');
  await writeFile(disk, `disk of generation ${generation}`);
  const xml = await readFile(new URL('golden/new-tcg.xml', import.meta.url), 'utf8');
  await host.hypervisor.define(xml.replace(/<uuid>[^<]*</, `<uuid>${instanceId}<`));
  await host.hypervisor.start(instanceId);
  await host.hypervisor.suspend(instanceId);
  return disk;
}

const run = <I, O>(step: (input: I) => Promise<O>, input: I): Promise<O> =>
  new MockActivityEnvironment({}, { logger: new DefaultLogger('ERROR') }).run(step, input);

const obey = (host: Host, ref: MoveRef, final: boolean): Promise<FenceObeyed> =>
  run(createObeyFence(host.context), { ...ref, final });

/** What is left of an instance at a host, but for what it remembers. */
async function left(host: Host, { instanceId, moveId, packageId }: MoveRef): Promise<string[]> {
  const found = (await exists(host.layout.instance(instanceId)))
    ? (await readdir(host.layout.instance(instanceId))).filter((name) => /^(g|fenced-)\d+$/.test(name))
    : [];
  if (await host.hypervisor.find(instanceId)) found.push('domain');
  if ((await host.network.admitted()).length > 0) found.push('address');
  for (const [name, path] of [
    ['stage', host.layout.stage(moveId)],
    ['incoming', host.layout.incoming(packageId)],
    ['move', host.layout.move(moveId)],
  ] as const) {
    if (await exists(path)) found.push(name);
  }
  return found;
}

for (const final of [false, true]) {
  await test(`a paused copy is given up, ${final ? 'told' : 'asked'}, and nothing is left`, async (t) => {
    const { beta, alpha, ref, move, release } = await scene(t);
    assert.deepEqual(await obey(beta, ref, final), { found: 'a paused copy', kept: null });
    assert.deepEqual(await left(beta, ref), []);
    const takeOver = { ...move, release, source: alpha.signedRecord };
    await refused('StaleGeneration', beta.ledger.takeOver(takeOver));
    assert.deepEqual(await obey(beta, ref, true), { found: 'nothing', kept: null });

    // A step of the move that the workflow had asked for before, in 1970, and the worker takes now.
    const reserve = createReserve(beta.context);
    const late = run((input: Parameters<typeof reserve>[0]) => withHeartbeat('reserve', () => reserve(input)), {
      ...refOf(move),
      name: 'web',
      address: ADDRESS,
    });
    await refused('StepTooLate', late);
    assert.deepEqual(await left(beta, ref), []);
  });
}

await test('a copy that was taken over and never ran is as old as the package', async (t) => {
  const { beta, alpha, ref, move, release, instanceId } = await scene(t);
  await beta.ledger.takeOver({ ...move, release, source: alpha.signedRecord });
  assert.deepEqual(await obey(beta, ref, false), { found: 'a paused copy', kept: null });
  assert.deepEqual(await left(beta, ref), []);
  assert.equal(await beta.ledger.owned(instanceId), null);
});

/** beta has let it run. */
async function running(t: TestContext): Promise<Scene> {
  const s = await scene(t);
  const { beta, alpha, move, release, instanceId } = s;
  await beta.ledger.takeOver({ ...move, release, source: alpha.signedRecord });
  await writeFile(join(beta.layout.instance(instanceId), 'resumed-2.json'), '{}');
  await beta.hypervisor.resume(instanceId);
  return s;
}

await test('a host that runs the instance refuses, and goes on with it', async (t) => {
  const { beta, ref, instanceId } = await running(t);
  await refused('FenceRefused', obey(beta, ref, false));
  assert.equal((await beta.hypervisor.find(instanceId))?.state, 'running');
  assert.equal((await beta.ledger.owned(instanceId))?.generation, 2);
  assert.equal(await beta.ledger.decision(instanceId, 2), null);
});

await test('a host that has run it refuses though it stands still now: its disk is newer', async (t) => {
  const { beta, ref, instanceId } = await running(t);
  beta.hypervisor.powerLoss();
  await refused('FenceRefused', obey(beta, ref, false));
  assert.equal((await beta.ledger.owned(instanceId))?.generation, 2);
  assert.ok(await exists(join(beta.layout.generation(instanceId, 2), 'vda.qcow2')));
});

await test('a host that cannot look refuses', async (t) => {
  const { beta, ref, instanceId } = await scene(t);
  beta.hypervisor.killLibvirtd();
  await refused('LibvirtFailed', obey(beta, ref, false));
  assert.equal(await beta.ledger.decision(instanceId, 2), null);
});

for (const [state, found] of [
  ['stands still', 'a stopped instance'],
  ['runs', 'a running instance'],
] as const) {
  await test(`a host that comes back after all, and ${state}, ends it and puts its disks aside`, async (t) => {
    const { beta, ref, instanceId } = await running(t);
    if (state === 'stands still') beta.hypervisor.powerLoss();
    const kept = join(beta.layout.instance(instanceId), 'fenced-3');
    assert.deepEqual(await obey(beta, ref, true), { found, kept });
    assert.deepEqual(await left(beta, ref), ['fenced-3']);
    assert.equal(await readFile(join(kept, 'g2', 'vda.qcow2'), 'utf8'), 'disk of generation 2');
    assert.equal(await beta.ledger.owned(instanceId), null);
    // Nobody clears it away later, whatever else the host is told.
    await obey(beta, ref, true);
    await run(createDiscardCopy(beta.context), { ...ref, generation: 2 });
    assert.deepEqual(await left(beta, ref), ['fenced-3']);
  });
}

await test('whenever a host dies while it gives up, the next attempt comes to the same end', async (t) => {
  for (const ran of [false, true]) {
    const s = ran ? await running(t) : await scene(t);
    const { beta, ref } = s;
    let count = 1;
    while (await dieAt(count, ['rename', 'rm', 'mkdir', 'link', 'sync'], () => obey(beta, ref, true))) count++;
    assert.ok(count > 5);
    assert.deepEqual(await left(beta, ref), ran ? ['fenced-3'] : []);
    if (ran) assert.ok(await exists(join(beta.layout.instance(ref.instanceId), 'fenced-3', 'g2', 'vda.qcow2')));
  }
});

await test('a later copy of the same instance is left alone', async (t) => {
  const { beta, ref, instanceId } = await scene(t);
  await run(createReserve(beta.context), { ...ref, generation: 4, name: 'web', address: ADDRESS });
  await copyOn(beta, instanceId, 4);
  assert.deepEqual(await obey(beta, ref, true), { found: 'nothing', kept: null });
  assert.ok((await left(beta, ref)).includes('domain'));
  assert.ok((await left(beta, ref)).includes('stage'));
  assert.equal((await beta.ledger.decision(instanceId, 2))?.kind, 'fence');
});

await test('the host that goes on by the fence gives nothing up', async (t) => {
  const s = await scene(t);
  const gamma = withHypervisor(s.gamma);
  await copyOn(gamma, s.instanceId, 3);
  assert.deepEqual(await obey(gamma, s.ref, true), { found: 'nothing', kept: null });
  assert.ok((await left(gamma, s.ref)).includes('domain'));
});

await test('what a fence is about is read from it, not believed of whoever carries it', async (t) => {
  const { beta, ref } = await scene(t);
  for (const changes of [{ instanceId: randomUUID() }, { packageId: randomUUID() }, { generation: 4 }]) {
    await refused('FenceInvalid', obey(beta, { ...ref, ...changes }, true));
  }
  const { fence, ...without } = ref;
  await refused('FenceMissing', obey(beta, without, true));
  await refused('FenceInvalid', obey(beta, { ...ref, fence: fence.slice(0, 1) }, true));
});

interface Source extends Scene {
  disk: string;
}

/** alpha saved the instance and died before it released it; gamma goes on as generation 2. */
async function source(t: TestContext): Promise<Source> {
  const s = await scene(t);
  const { alpha, pool, gamma } = s;
  const instanceId = randomUUID();
  const { chain } = await alpha.ledger.spawn(instanceId);
  const move = await sealed(alpha, instanceId);
  const disk = await copyOn(alpha, instanceId, 1);
  await alpha.network.admit(instanceId, 'web', ADDRESS);
  const process = (await alpha.hypervisor.find(instanceId))?.process ?? null;
  await alpha.hypervisor.destroy(instanceId);
  await writeSaveRecord(alpha.layout, instanceId, 1, {
    ...{ moveId: move.moveId, packageId: move.packageId, process, autostart: false },
    disks: [{ target: 'vda', path: disk, stamp: await fileStamp(disk) }],
    saved: { bytes: 1, stoppedMillis: 1 },
  });
  const fence = await pool.poolKey.signFence({
    ...{ instanceId, packageId: move.packageId, generation: 2 },
    ...{ to: 'gamma', toFingerprint: gamma.keys.fingerprint, previous: await digestOf(chain.statements[0] ?? '') },
  });
  return { ...s, instanceId, move, disk, ref: { ...refOf(move), fence: [fence] } };
}

for (const final of [false, true]) {
  await test(`a source at rest gives up what it saved, ${final ? 'told' : 'asked'}`, async (t) => {
    const { alpha, ref, move, instanceId } = await source(t);
    assert.deepEqual(await obey(alpha, ref, final), { found: 'a paused copy', kept: null });
    assert.deepEqual(await left(alpha, ref), []);
    await refused('OwnershipDecided', alpha.ledger.takeBack(move));
    assert.equal(await alpha.ledger.owned(instanceId), null);
  });
}

await test('a source that ran on after its save refuses, and once told puts its disks aside', async (t) => {
  const { alpha, ref, disk, instanceId } = await source(t);
  await writeFile(disk, 'written since');
  await refused('FenceRefused', obey(alpha, ref, false));
  assert.equal((await alpha.ledger.owned(instanceId))?.generation, 1);
  const { kept } = await obey(alpha, ref, true);
  assert.equal(await readFile(join(kept ?? '', 'g1', 'vda.qcow2'), 'utf8'), 'written since');
});

await test('a source that took the instance back and runs it refuses, and once told ends it', async (t) => {
  const { alpha, ref, move, instanceId } = await source(t);
  await alpha.ledger.takeBack(move);
  await alpha.hypervisor.start(instanceId);
  await refused('FenceRefused', obey(alpha, ref, false));
  const obeyed = await obey(alpha, ref, true);
  assert.equal(obeyed.found, 'a running instance');
  assert.ok(obeyed.kept);
  assert.equal(await alpha.ledger.owned(instanceId), null);
  assert.equal(await alpha.hypervisor.find(instanceId), null);
});

await test('a source that took it back and stands still has what is newer', async (t) => {
  const { alpha, ref, move } = await source(t);
  await alpha.ledger.takeBack(move);
  await rm(alpha.layout.move(move.moveId), { recursive: true, force: true });
  await refused('FenceRefused', obey(alpha, ref, false));
  assert.equal((await obey(alpha, ref, true)).found, 'a stopped instance');
});

await test('a source that released it before it died says so', async (t) => {
  const { alpha, beta, ref, move } = await source(t);
  const receipt = await restored(move, alpha, beta);
  await alpha.ledger.release({ ...move, receipt, destination: beta.signedRecord });
  await assert.rejects(obey(alpha, ref, false), (error) => {
    assert.ok(error instanceof VmferryError && error.type === 'OwnershipDecided', String(error));
    return true;
  });
  assert.deepEqual(await obey(alpha, ref, true), { found: 'a paused copy', kept: null });
});
