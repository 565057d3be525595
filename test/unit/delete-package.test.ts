/** A package is deleted only where nothing would be continued from it, whatever the catalog believes. */
import assert from 'node:assert/strict';
import { mkdir, readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import test, { type TestContext } from 'node:test';
import { MockActivityEnvironment } from '@temporalio/testing';
import { DefaultLogger } from '@temporalio/worker';
import { createDeletePackage, endPackageDeletion } from '../../activities/delete-package.ts';
import type { HostContext } from '../../activities/host-context.ts';
import { claimFolder, removeFolder } from '../../activities/move-folder.ts';
import { createPullPackage } from '../../activities/pull-package.ts';
import { exists } from '../../activities/records/durable.ts';
import { withPackageLock } from '../../activities/records/lock.ts';
import { markRun } from '../../activities/resume-instance.ts';
import { writeSaveRecord } from '../../activities/save-record.ts';
import { FakeGuestNetwork } from '../fakes/guest-network.ts';
import { FakeHypervisor } from '../fakes/hypervisor.ts';
import { dieAt } from '../support/crash-points.ts';
import { restored, sealed, world, type Move, type World } from '../support/ledger-moves.ts';
import type { TestHost } from '../support/pool-hosts.ts';
import { refused } from '../support/refusals.ts';

const XML = new URL('golden/new-tcg.xml', import.meta.url);

interface Scene extends World {
  instanceId: string;
  move: Move;
  context: (host: TestHost) => HostContext;
  hypervisor: FakeHypervisor;
}

/** alpha owns an instance, defined in its libvirt, and has sealed a package of it that lies on alpha and beta. */
async function scene(t: TestContext): Promise<Scene> {
  const w = await world(t);
  const xml = await readFile(XML, 'utf8');
  const instanceId = /<uuid>([^<]*)</.exec(xml)?.[1] ?? '';
  await w.alpha.ledger.spawn(instanceId);
  const move = await sealed(w.alpha, instanceId);
  for (const host of [w.alpha, w.beta]) {
    await mkdir(host.layout.package(move.packageId), { recursive: true });
    await mkdir(host.layout.instances, { recursive: true });
    await writeFile(join(host.layout.package(move.packageId), 'to-somebody.pgp'), 'sealed');
  }
  const hypervisor = new FakeHypervisor();
  await hypervisor.define(xml);
  const network = new FakeGuestNetwork();
  const context = ({ name, layout, keys, pool, ledger }: TestHost): HostContext => ({
    ...{ name, layout, keys, pool, ledger },
    ...{ hypervisor, network },
  });
  return { ...w, instanceId, move, context, hypervisor };
}

const run = <I, O>(step: (input: I) => Promise<O>, input: I): Promise<O> =>
  new MockActivityEnvironment({}, { logger: new DefaultLogger('ERROR') }).run(step, input);

const remove = ({ context, move }: Scene, host: TestHost): Promise<{ bytes: number }> =>
  run(createDeletePackage(context(host)), { packageId: move.packageId });

const isThere = ({ move }: Scene, host: TestHost): Promise<boolean> => exists(host.layout.package(move.packageId));

/** What saveInstance leaves, once libvirt has ended QEMU. */
const save = ({ alpha, instanceId, move }: Scene): Promise<void> =>
  writeSaveRecord(alpha.layout, instanceId, 1, {
    ...{ moveId: move.moveId, packageId: move.packageId, process: null, autostart: false, disks: [] },
    saved: { bytes: 1, stoppedMillis: 1 },
  });

await test('what nobody needs is deleted, once', async (t) => {
  const s = await scene(t);
  assert.deepEqual(await remove(s, s.beta), { bytes: 6 });
  assert.equal(await isThere(s, s.beta), false);
  assert.deepEqual(await remove(s, s.beta), { bytes: 0 });
  assert.deepEqual(await remove(s, s.alpha), { bytes: 6 }, 'an instance that runs needs no package');
});

await test('an instance that is saved in it keeps it, at its owner alone', async (t) => {
  const s = await scene(t);
  await save(s);
  await refused('InUse', remove(s, s.alpha));
  assert.equal(await isThere(s, s.alpha), true);
  assert.deepEqual(await remove(s, s.beta), { bytes: 6 });
  // Taken back and let run, it is not needed any more.
  await s.alpha.ledger.takeBack(s.move);
  await refused('InUse', remove(s, s.alpha));
  await markRun(s.context(s.alpha), s.instanceId, 2);
  assert.deepEqual(await remove(s, s.alpha), { bytes: 6 });
});

await test('an instance that goes on though a save was begun does not need it', async (t) => {
  const s = await scene(t);
  await save(s);
  await s.hypervisor.start(s.instanceId);
  assert.deepEqual(await remove(s, s.alpha), { bytes: 6 });
});

await test('a host that was given the instance keeps it until the instance has run', async (t) => {
  const s = await scene(t);
  const { alpha, beta, move, instanceId } = s;
  await save(s);
  const receipt = await restored(move, alpha, beta);
  const release = await alpha.ledger.release({ ...move, receipt, destination: beta.signedRecord });
  assert.deepEqual(await remove(s, alpha), { bytes: 6 }, 'alpha has given it away');
  await beta.ledger.takeOver({ ...move, release, source: alpha.signedRecord });
  await refused('InUse', remove(s, beta));
  await markRun(s.context(beta), instanceId, 2);
  assert.deepEqual(await remove(s, beta), { bytes: 6 });
});

await test('a host that has opened it for a move keeps it until the move has settled', async (t) => {
  const s = await scene(t);
  const { beta, move } = s;
  await claimFolder(beta.layout, 'stage', move);
  await refused('InUse', remove(s, beta));
  assert.equal(await isThere(s, beta), true);
  await removeFolder(beta.layout.stage(move.moveId), move);
  assert.deepEqual(await remove(s, beta), { bytes: 6 });
});

await test('an instance that came to need it while it was being deleted gets it back', async (t) => {
  const s = await scene(t);
  const { alpha, move } = s;
  // Dies once the name is gone.
  assert.equal(await dieAt(2, ['rename', 'rm'], () => remove(s, alpha)).then(() => isThere(s, alpha)), false);
  assert.deepEqual(await readdir(alpha.layout.packages), [`.deleting-${move.packageId}`]);
  await save(s);
  await refused('InUse', endPackageDeletion(s.context(alpha), move.packageId));
  assert.equal(await isThere(s, alpha), true);
});

await test('nobody fetches a package that another fetches, or deletes, at the moment', async (t) => {
  const s = await scene(t);
  const { alpha, beta, move } = s;
  const pull = createPullPackage(s.context(beta));
  await withPackageLock(beta.layout, move.packageId, async () => {
    const both = [run(pull, { ...move, source: alpha.signedRecord }), remove(s, beta)];
    for (const one of both) one.catch(() => undefined);
    for (const one of both) await refused('InstanceBusy', one);
  });
});
