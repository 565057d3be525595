/** The save is interrupted in every way, and the next attempt takes up what it finds: nothing is stopped or resumed for nothing. */
import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { readFile, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import test, { type TestContext } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { ActivityCancellationDetails, CancelledFailure } from '@temporalio/common';
import { MockActivityEnvironment } from '@temporalio/testing';
import { DefaultLogger } from '@temporalio/worker';
import type { HostContext } from '../../activities/host-context.ts';
import { newDomainXml } from '../../activities/hypervisor/domain-xml.ts';
import { readSaveHeader, saveFileState } from '../../activities/hypervisor/save-file.ts';
import { createSaveInstance } from '../../activities/save-instance.ts';
import { readSaveRecord, writeSaveRecord } from '../../activities/save-record.ts';
import { makeDirectory } from '../../activities/records/durable.ts';
import { MEMBER } from '../../activities/records/layout.ts';
import { VmferryError } from '../../workflows/failures.ts';
import type { MoveRef, SaveFacts } from '../../workflows/contract.ts';
import { FakeGuestNetwork } from '../fakes/guest-network.ts';
import { FakeHypervisor, type FakeOptions } from '../fakes/hypervisor.ts';
import { testPool } from '../support/pool-hosts.ts';
import { refused } from '../support/refusals.ts';

interface World {
  hypervisor: FakeHypervisor;
  move: MoveRef;
  snapshot: string;
  host: HostContext;
  /** One attempt; `interrupt` ends it as Temporal would. */
  attempt: () => { result: Promise<SaveFacts>; interrupt: (how: 'cancelled' | 'worker stops') => void };
  /** What changed the guest so far. */
  touched: () => string[];
}

async function world(t: TestContext, options: FakeOptions = {}): Promise<World> {
  const { name, layout, keys, pool, ledger } = await (await testPool(t)).host('alpha');
  const hypervisor = new FakeHypervisor(options);
  // Ends what it would still wait for.
  t.after(() => hypervisor.killLibvirtd());
  const host = { name, layout, keys, pool, ledger, hypervisor, network: new FakeGuestNetwork() };
  const instanceId = randomUUID();
  const move = { instanceId, moveId: randomUUID(), packageId: randomUUID(), generation: 2 };
  await ledger.spawn(instanceId);
  const folder = layout.generation(instanceId, 1);
  await makeDirectory(folder);
  await writeFile(join(folder, 'vda.qcow2'), 'disk');
  await hypervisor.define(
    newDomainXml({
      ...{ instanceId, name: 'web', memoryBytes: 2 ** 28, vcpus: 1, architecture: 'x86_64', domainType: 'qemu' },
      ...{ machines: ['pc-q35-7.2'], emulator: '/usr/bin/qemu-system-x86_64', mac: '52:54:00:77:00:05' },
      ...{ tap: 'vf0123456789ab', disk: join(folder, 'vda.qcow2'), serialLog: join(folder, 'serial.log') },
    }),
  );
  await hypervisor.start(instanceId);
  hypervisor.setRam(instanceId, 'first');
  const save = createSaveInstance(host);
  const attempt = (): ReturnType<World['attempt']> => {
    const environment = new MockActivityEnvironment({}, { logger: new DefaultLogger('ERROR') });
    const result = environment.run<[MoveRef], SaveFacts, typeof save>(save, move);
    return {
      result,
      interrupt: (how) => {
        const details = new ActivityCancellationDetails(
          how === 'cancelled' ? { cancelRequested: true } : { workerShutdown: true },
        );
        environment.cancel(how === 'cancelled' ? 'CANCELLED' : 'WORKER_SHUTDOWN', details);
      },
    };
  };
  const snapshot = join(layout.move(move.moveId), MEMBER.snapshot);
  const touching = ['suspend', 'resume', 'save', 'abortJob'];
  return {
    ...{ hypervisor, move, snapshot, host, attempt },
    touched: () => hypervisor.calls.filter((call) => touching.includes(call)),
  };
}

async function restartLibvirtd(hypervisor: FakeHypervisor): Promise<void> {
  hypervisor.killLibvirtd();
  // Long enough for its callers to notice.
  await sleep(20);
  hypervisor.startLibvirtd();
}

const ramIn = async (path: string): Promise<string> => {
  const { streamOffset } = await readSaveHeader(path);
  return (await readFile(path)).toString('utf8', streamOffset + 8);
};

const begun = async (snapshot: string): Promise<void> => {
  while ((await saveFileState(snapshot)) === 'absent') await sleep(2);
};

await test('one attempt suspends once and saves once, and is answered the same again', async (t) => {
  const { attempt, touched, snapshot } = await world(t);
  const facts = await attempt().result;
  assert.equal(facts.saveBytes, (await stat(snapshot)).size);
  assert.deepEqual(await attempt().result, facts);
  assert.deepEqual(touched(), ['suspend', 'save']);
});

await test('a worker that stops leaves libvirt going, and the next attempt takes what it made', async (t) => {
  const { attempt, touched, snapshot, hypervisor } = await world(t, { saveMillis: 300 });
  const first = attempt();
  await begun(snapshot);
  first.interrupt('worker stops');
  await assert.rejects(first.result, CancelledFailure);
  assert.deepEqual(touched(), ['suspend', 'save']);
  const second = attempt();
  await sleep(50);
  second.interrupt('worker stops');
  await assert.rejects(second.result, CancelledFailure);
  await attempt().result;
  assert.deepEqual(touched(), ['suspend', 'save']);
  assert.equal(await ramIn(snapshot), 'first');
  assert.ok(!hypervisor.calls.includes('abortJob'));
});

await test('a move that is called off ends libvirt’s job, in the attempt that began it or a later one', async (t) => {
  const { attempt, touched, snapshot, hypervisor, move } = await world(t, { saveMillis: 60_000 });
  const first = attempt();
  await begun(snapshot);
  first.interrupt('worker stops');
  await assert.rejects(first.result, CancelledFailure);
  const second = attempt();
  await sleep(50);
  second.interrupt('cancelled');
  await assert.rejects(second.result, CancelledFailure);
  assert.deepEqual(touched(), ['suspend', 'save', 'abortJob']);
  while ((await hypervisor.saveProgress(move.instanceId)) !== null) await sleep(2);
  assert.equal((await hypervisor.find(move.instanceId))?.state, 'paused');

  const once = await world(t, { saveMillis: 60_000 });
  const only = once.attempt();
  await begun(once.snapshot);
  only.interrupt('cancelled');
  await assert.rejects(only.result, CancelledFailure);
  assert.deepEqual(once.touched(), ['suspend', 'save', 'abortJob']);
});

await test('a guest that was suspended and not yet saved is not resumed for it', async (t) => {
  const { attempt, touched, hypervisor } = await world(t);
  hypervisor.failNext('save', new VmferryError('LibvirtFailed', 'libvirtd is restarted'));
  await refused('LibvirtFailed', attempt().result);
  await attempt().result;
  assert.deepEqual(touched(), ['suspend', 'save', 'suspend', 'save']);
});

/** The worker died when libvirt’s file was complete, and before it could say so. */
async function diedAtTheMagic(t: TestContext): Promise<World> {
  const here = await world(t, { killMillis: 60_000, saveMillis: 1 });
  await here.attempt().result;
  const { layout } = here.host;
  const record = await readSaveRecord(layout, here.move.instanceId, 1);
  assert.ok(record);
  await writeSaveRecord(layout, here.move.instanceId, 1, { ...record, saved: null });
  here.hypervisor.calls.length = 0;
  return here;
}

await test('what a libvirtd that died has left is not believed, and thrown away before the guest runs for an instant', async (t) => {
  const { attempt, touched, snapshot, hypervisor, move } = await diedAtTheMagic(t);
  await restartLibvirtd(hypervisor);
  assert.equal((await hypervisor.find(move.instanceId))?.state, 'paused');
  assert.equal(await saveFileState(snapshot), 'complete');
  hypervisor.failNext('resume', new VmferryError('LibvirtFailed', 'libvirtd is restarted'));
  await refused('LibvirtFailed', attempt().result);
  assert.notEqual(await saveFileState(snapshot), 'complete', 'nobody may take it once the guest may have run');
  hypervisor.setRam(move.instanceId, 'second');
  await attempt().result;
  assert.deepEqual(touched(), ['resume', 'resume', 'suspend', 'save']);
  assert.equal(await ramIn(snapshot), 'second');
});

await test('nor is it believed when the host loses its power then', async (t) => {
  const { attempt, hypervisor } = await diedAtTheMagic(t);
  await restartLibvirtd(hypervisor);
  hypervisor.failNext('resume', new VmferryError('LibvirtFailed', 'libvirtd is restarted'));
  await refused('LibvirtFailed', attempt().result);
  hypervisor.powerLoss();
  await refused('InstanceNotRunning', attempt().result);
});

await test('a complete file is taken once QEMU is gone, and not before', async (t) => {
  const { attempt, touched, snapshot, hypervisor, move } = await diedAtTheMagic(t);
  hypervisor.orphan(move.instanceId);
  await restartLibvirtd(hypervisor);
  const { result } = attempt();
  let ended = false;
  void result.then(() => (ended = true));
  await sleep(100);
  assert.equal(ended, false);
  await hypervisor.destroy(move.instanceId);
  await result;
  assert.deepEqual(touched(), []);
  assert.equal(await ramIn(snapshot), 'first');
});
