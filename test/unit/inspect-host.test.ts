/** A host looks at itself: what it finds in the world that crashes, people and moves leave, and what it does about it. */
import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { mkdir, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import test, { type TestContext } from 'node:test';
import type { HostContext } from '../../activities/host-context.ts';
import { newDomainXml } from '../../activities/hypervisor/domain-xml.ts';
import { inspectHost, type Inspection } from '../../activities/inspect-host.ts';
import { createOverlay } from '../../activities/disk/qemu-img.ts';
import { exists, makeDirectory, temporaryName } from '../../activities/records/durable.ts';
import { withInstanceLock } from '../../activities/records/lock.ts';
import { writeReservation } from '../../activities/reservation.ts';
import { VmferryError } from '../../workflows/failures.ts';
import type { Finding, HostReport } from '../../workflows/findings.ts';
import { FakeGuestNetwork } from '../fakes/guest-network.ts';
import { FakeHypervisor } from '../fakes/hypervisor.ts';
import { testPool, type TestHost } from '../support/pool-hosts.ts';

interface World {
  alpha: TestHost;
  beta: TestHost;
  host: HostContext;
  hypervisor: FakeHypervisor;
  network: FakeGuestNetwork;
  inspect: (how?: Partial<Inspection>) => Promise<HostReport>;
}

async function world(t: TestContext): Promise<World> {
  const pool = await testPool(t);
  const [alpha, beta] = await Promise.all([pool.host('alpha'), pool.host('beta')]);
  const { name, layout, keys, pool: trust, ledger } = alpha;
  const [hypervisor, network] = [new FakeHypervisor(), new FakeGuestNetwork()];
  const host = { name, layout, keys, pool: trust, ledger, hypervisor, network };
  for (const folder of [layout.images, layout.moves, layout.packages, layout.staging]) await makeDirectory(folder);
  return {
    ...{ alpha, beta, host, hypervisor, network },
    inspect: (how) => inspectHost(host, { instanceId: null, mend: true, alone: true, ...how }),
  };
}

/** An instance that runs on alpha, on a disk whose base is there. */
async function spawned({ host, hypervisor, network }: World, name = 'counter'): Promise<string> {
  const instanceId = randomUUID();
  await host.ledger.spawn(instanceId);
  const folder = host.layout.generation(instanceId, 1);
  await makeDirectory(folder);
  const base = join(host.layout.root, 'base.raw');
  await writeFile(base, Buffer.alloc(1024 * 1024));
  await createOverlay({ path: join(folder, 'vda.qcow2'), base, baseFormat: 'raw' });
  const octet = Math.floor(Math.random() * 250) + 2;
  const mac = `52:54:00:77:00:${octet.toString(16).padStart(2, '0')}`;
  await network.admit(instanceId, name, { ip: `10.77.0.${octet}`, mac });
  await hypervisor.define(
    newDomainXml({
      ...{ instanceId, name, memoryBytes: 2 ** 28, vcpus: 1, architecture: 'x86_64', domainType: 'qemu', mac },
      ...{ machines: ['pc-q35-7.2'], emulator: '/usr/bin/qemu-system-x86_64', tap: 'vf0123456789ab' },
      disk: join(folder, 'vda.qcow2'),
      serialLog: join(folder, 'serial.log'),
    }),
  );
  await hypervisor.start(instanceId);
  return instanceId;
}

async function releasedToBeta({ alpha, beta }: World, instanceId: string): Promise<void> {
  const owned = await alpha.ledger.owned(instanceId);
  assert.ok(owned);
  const move = {
    instanceId,
    generation: 2,
    packageId: randomUUID(),
    moveId: randomUUID(),
    originDigest: 'a1'.repeat(32),
  };
  await alpha.ledger.recordSealed(move);
  await beta.ledger.accept({ ...move, sourceFingerprint: alpha.keys.fingerprint, chain: owned.chain });
  const receipt = await beta.ledger.giveReceipt(move);
  await alpha.ledger.release({ ...move, receipt, destination: beta.signedRecord });
}

const told = (findings: Finding[]): [string, boolean | undefined][] =>
  findings.map(({ type, mended }) => [type, mended]);

await test('a host as it should be has nothing to say', async (t) => {
  const here = await world(t);
  const instanceId = await spawned(here);
  const report = await here.inspect();
  assert.deepEqual(report.findings, []);
  assert.deepEqual(report.instances, [
    {
      instanceId,
      name: 'counter',
      state: 'running',
      owned: { generation: 1, by: 'spawn' },
      decided: null,
      stopped: null,
      hasRun: false,
      reserved: null,
    },
  ]);
});

await test('f1: what runs on after its release is suspended, not destroyed, and told until a person has seen to it', async (t) => {
  const here = await world(t);
  const instanceId = await spawned(here);
  await releasedToBeta(here, instanceId);
  const looked = await here.inspect({ mend: false });
  assert.deepEqual(told(looked.findings), [['runsWithoutRight', undefined]]);
  assert.equal((await here.hypervisor.find(instanceId))?.state, 'running', 'to look is to touch nothing');
  const { findings } = await here.inspect();
  assert.deepEqual(told(findings), [['runsWithoutRight', true]]);
  assert.equal(findings[0]?.severity, 'critical');
  assert.match(findings[0]?.found ?? '', /released generation 1 to beta/);
  assert.equal((await here.hypervisor.find(instanceId))?.state, 'paused');
  assert.deepEqual(told((await here.inspect()).findings), [['pausedWithoutRight', undefined]]);
  assert.equal((await here.hypervisor.find(instanceId))?.state, 'paused');
});

await test('f3: a released domain that libvirt still knows is forgotten, so that nothing can start it', async (t) => {
  const here = await world(t);
  const instanceId = await spawned(here);
  await here.hypervisor.destroy(instanceId);
  await releasedToBeta(here, instanceId);
  assert.deepEqual(told((await here.inspect()).findings), [['stillDefined', true]]);
  assert.equal(await here.hypervisor.find(instanceId), null);
  assert.deepEqual(told((await here.inspect()).findings), [
    ['strayAddress', true],
    ['workingCopyLeft', undefined],
  ]);
  assert.deepEqual(await here.network.admitted(), []);
  assert.ok(await exists(here.host.layout.generation(instanceId, 1)), 'whether its disk is needed only the pool knows');
});

await test('an instance that is down is told, and nothing of it is touched', async (t) => {
  const here = await world(t);
  const instanceId = await spawned(here);
  here.hypervisor.powerLoss();
  const { findings } = await here.inspect();
  assert.deepEqual(told(findings), [['down', undefined]]);
  assert.match(findings[0]?.advice ?? '', new RegExp(`vmferry instances start ${instanceId}`));
  assert.equal((await here.hypervisor.find(instanceId))?.state, 'shut off');
});

await test('the second record of a return is written where a crash left only the first', async (t) => {
  const here = await world(t);
  const instanceId = await spawned(here);
  await here.alpha.ledger.takeBack({ instanceId, generation: 2, packageId: randomUUID() });
  const second = join(here.host.layout.ledger(instanceId), 'owned-2.json');
  const { generation, chain } = JSON.parse(await readFile(second, 'utf8')) as { generation: number; chain: unknown };
  await rm(second);
  assert.deepEqual(told((await here.inspect()).findings), [['takeBackUnfinished', true]]);
  const again = JSON.parse(await readFile(second, 'utf8')) as object;
  assert.deepEqual({ generation, chain }, { generation: 2, chain: (again as { chain: unknown }).chain });
  assert.deepEqual((await here.inspect()).findings, []);
});

await test('an address without an instance goes, one that a move has asked for stays', async (t) => {
  const here = await world(t);
  const [gone, expected] = [randomUUID(), randomUUID()];
  await here.network.admit(gone, 'gone', { ip: '10.77.1.1', mac: '52:54:00:4d:01:01' });
  const address = { ip: '10.77.1.2', mac: '52:54:00:4d:01:02' };
  await writeReservation(here.host.layout, {
    ...{ instanceId: expected, generation: 2, moveId: 'move-9', packageId: randomUUID(), name: 'coming', address },
  });
  await here.network.admit(expected, 'coming', address);
  here.network.strangeEntries = [{ mac: '52:54:00:99:99:99', ip: '10.77.9.9' }];
  const { findings } = await here.inspect();
  assert.deepEqual(told(findings).sort(), [
    ['expectedHere', undefined],
    ['strangeDhcpEntry', undefined],
    ['strayAddress', true],
  ]);
  assert.equal(findings.find(({ type }) => type === 'expectedHere')?.moveId, 'move-9');
  assert.deepEqual(
    (await here.network.admitted()).map(({ name }) => name),
    ['coming'],
  );
});

await test('an instance that a step is at work on is left out', async (t) => {
  const here = await world(t);
  const instanceId = await spawned(here);
  await releasedToBeta(here, instanceId);
  await withInstanceLock(here.host.layout, instanceId, async () => {
    const report = await here.inspect();
    assert.deepEqual(report.busy, [instanceId]);
    assert.deepEqual(report.findings, []);
    assert.deepEqual(report.instances, []);
  });
  assert.equal((await here.hypervisor.find(instanceId))?.state, 'running');
});

await test('a record that somebody altered is told by its name, and the others are looked at all the same', async (t) => {
  const here = await world(t);
  const [altered, sound] = [await spawned(here, 'altered'), await spawned(here, 'sound')];
  const path = join(here.host.layout.ledger(altered), 'owned-1.json');
  await writeFile(path, (await readFile(path, 'utf8')).replace('"generation": 1', '"generation": "one"'));
  const report = await here.inspect();
  assert.deepEqual(told(report.findings), [['recordUnreadable', undefined]]);
  assert.match(report.findings[0]?.found ?? '', /owned-1\.json/);
  assert.deepEqual(
    report.instances.map(({ instanceId }) => instanceId),
    [sound],
  );
});

await test('f20: a disk whose base image is gone is told, with the file that it lacks', async (t) => {
  const here = await world(t);
  await spawned(here);
  await rm(join(here.host.layout.root, 'base.raw'));
  const { findings } = await here.inspect();
  assert.deepEqual(told(findings), [['baseMissing', undefined]]);
  assert.equal(findings[0]?.path, join(here.host.layout.root, 'base.raw'));
});

await test('half-written files of dead processes go, wherever they lie; those of the living, and of nobody knows whom, stay', async (t) => {
  const here = await world(t);
  const { layout } = here.host;
  const instanceId = await spawned(here);
  const dead = temporaryName('tmp').replace(/-[0-9]+\./, '-4194303.');
  const sealed = join(layout.package(randomUUID()));
  await mkdir(sealed);
  const places = [layout.ledger(instanceId), layout.keys, sealed, layout.root];
  for (const folder of places) await writeFile(join(folder, `${dead}-record.json`), '{');
  const adding = join(layout.images, dead.replace('.tmp', '.adding'));
  await mkdir(adding);
  await writeFile(join(adding, `${dead}-image.json`), '{');
  const deleting = join(layout.packages, `.deleting-${randomUUID()}`);
  await mkdir(deleting);
  const [living, nobody] = [`${temporaryName('tmp')}-x`, `.tmp-${randomUUID()}-x`];
  for (const name of [living, nobody]) await writeFile(join(layout.root, name), '');

  const { findings } = await here.inspect();
  assert.deepEqual(told(findings).sort(), [
    ...Array.from({ length: 6 }, () => ['halfWritten', true]),
    ['unknownLeftover', undefined],
  ]);
  for (const folder of places) assert.ok(!(await readdir(folder)).includes(`${dead}-record.json`));
  assert.deepEqual(await readdir(layout.images), []);
  assert.ok(!(await exists(deleting)));
  assert.ok(await exists(join(layout.root, living)));
  assert.ok(await exists(join(layout.root, nobody)));
});

await test('while steps run a deletion that has just begun is not taken for a leftover', async (t) => {
  const here = await world(t);
  const deleting = join(here.host.layout.images, `.deleting-${'ab'.repeat(32)}`);
  await mkdir(deleting);
  assert.deepEqual((await here.inspect({ alone: false })).findings, []);
  assert.ok(await exists(deleting));
});

await test('the folders of moves and packages under way are told with their size, and never removed by the host alone', async (t) => {
  const here = await world(t);
  const { layout } = here.host;
  const [move, coming, sealing] = [randomUUID(), randomUUID(), randomUUID()];
  const folders = [
    layout.move(move),
    layout.stage(move),
    layout.incoming(coming),
    `${layout.package(sealing)}.partial`,
    `${layout.image('cd'.repeat(32))}.incoming`,
  ];
  for (const folder of folders) {
    await makeDirectory(join(folder, 'snapshot'));
    await writeFile(join(folder, 'snapshot', '000000.seg'), Buffer.alloc(1000));
  }
  await makeDirectory(layout.stage('not a move'));
  const { findings } = await here.inspect();
  const left = findings.filter(({ type }) => type === 'moveFolderLeft');
  assert.deepEqual(left.map(({ path }) => path).sort(), folders.sort());
  for (const { bytes, mend } of left) assert.deepEqual([bytes, mend], [1000, null]);
  assert.deepEqual(
    left.map(({ moveId, packageId }) => moveId ?? packageId ?? 'image').sort(),
    [move, move, coming, sealing, 'image'].sort(),
  );
  assert.equal(findings.filter(({ type }) => type === 'unknownLeftover').length, 1);
  for (const folder of folders) assert.ok(await exists(folder));
});

await test('domains of which there is no record are named and left alone', async (t) => {
  const here = await world(t);
  const instanceId = await spawned(here, 'stranger');
  await here.network.expel(instanceId);
  await rm(here.host.layout.instance(instanceId), { recursive: true });
  const report = await here.inspect();
  assert.deepEqual(report.findings, []);
  assert.deepEqual(report.others, [{ instanceId, name: 'stranger', state: 'running' }]);
  assert.equal((await here.hypervisor.find(instanceId))?.state, 'running');
});

await test('a mend that fails says why, and the others are done', async (t) => {
  const here = await world(t);
  const instanceId = await spawned(here);
  await releasedToBeta(here, instanceId);
  await here.network.admit(randomUUID(), 'gone', { ip: '10.77.1.1', mac: '52:54:00:4d:01:01' });
  here.hypervisor.failNext('suspend', new VmferryError('LibvirtFailed', 'the monitor does not answer'));
  const { findings } = await here.inspect();
  assert.deepEqual(told(findings).sort(), [
    ['runsWithoutRight', false],
    ['strayAddress', true],
  ]);
  assert.match(findings.find(({ mended }) => mended === false)?.mendFailure ?? '', /monitor/);
});
