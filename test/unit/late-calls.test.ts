/**
 * Calls that come when the world has gone on: an attempt that was thought dead and wakes, a step that a wrong orchestrator
 * repeats, a save whose attempts died at the worst instants. On real records, with a hypervisor in memory.
 */
import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { appendFile, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import test, { type TestContext } from 'node:test';
import { MockActivityEnvironment } from '@temporalio/testing';
import { DefaultLogger } from '@temporalio/worker';
import { run as runProgram } from '../../activities/exec/run.ts';
import type { HostContext } from '../../activities/host-context.ts';
import type { SaveInProgress } from '../../activities/hypervisor/hypervisor.ts';
import { saveFileState } from '../../activities/hypervisor/save-file.ts';
import { withMarks, type Mark } from '../../activities/marks.ts';
import { makeDirectory } from '../../activities/records/durable.ts';
import { MEMBER } from '../../activities/records/layout.ts';
import { createResumeInstance } from '../../activities/resume-instance.ts';
import { createReturnInstance } from '../../activities/return-instance.ts';
import { createSaveInstance } from '../../activities/save-instance.ts';
import { createSpawnInstance } from '../../activities/spawn-instance.ts';
import type { InstanceId, MoveRef } from '../../workflows/contract.ts';
import { VmferryError } from '../../workflows/failures.ts';
import { FakeGuestNetwork } from '../fakes/guest-network.ts';
import { FakeHypervisor, type FakeOptions } from '../fakes/hypervisor.ts';
import { testPool } from '../support/pool-hosts.ts';
import { refused } from '../support/refusals.ts';

const IMAGE = 'ab'.repeat(32);
const ADDRESS = { ip: '10.77.0.5', mac: '52:54:00:77:00:05' };

/** libvirt's job cannot be ended any more once the file is complete: libvirt is ending QEMU then. */
class Libvirt extends FakeHypervisor {
  override async abortJob(instanceId: InstanceId): Promise<void> {
    const job = await this.saveProgress(instanceId);
    if (!job || job.done < job.total) await super.abortJob(instanceId);
  }

  /** Of the last save. */
  finished: Promise<void> = Promise.resolve();

  override save(instanceId: InstanceId, path: string): SaveInProgress {
    const save = super.save(instanceId, path);
    this.finished = save.finished;
    return save;
  }
}

/** Runs a step as Temporal would. */
const run = <I, O>(step: (input: I) => Promise<O>, input: I): Promise<O> =>
  new MockActivityEnvironment({}, { logger: new DefaultLogger('ERROR') }).run(step, input);

interface World {
  host: HostContext;
  hypervisor: Libvirt;
  instanceId: InstanceId;
  disk: string;
  spawn(): Promise<{ generation: number }>;
  save(move: MoveRef): Promise<unknown>;
  takeBack(move: MoveRef): Promise<{ generation: number; how: string }>;
  /** A move of the instance, for the generation after `owned`. */
  move(owned: number): MoveRef;
  snapshotOf(move: MoveRef): string;
}

/** One host on which an instance runs. */
async function world(context: TestContext, options: FakeOptions = {}): Promise<World> {
  const { name, layout, keys, pool, ledger } = await (await testPool(context)).host('alpha');
  const hypervisor = new Libvirt({ saveMillis: 5, killMillis: 5, ...options });
  const host: HostContext = { name, layout, keys, pool, ledger, hypervisor, network: new FakeGuestNetwork() };
  const instanceId = randomUUID();
  await makeDirectory(layout.image(IMAGE));
  await runProgram('qemu-img', ['create', '-q', '-f', 'qcow2', layout.imageDisk(IMAGE), '1M']);
  await writeFile(join(layout.image(IMAGE), MEMBER.kernel), 'kernel');
  const boot = { kernel: { sha256: IMAGE, bytes: 6 } };
  const image = { id: IMAGE, name: 'tiny', format: 'qcow2', bytes: 1, virtualBytes: 1024 * 1024, boot };
  await writeFile(join(layout.image(IMAGE), 'image.json'), JSON.stringify(image));
  const spec = {
    ...{ name: 'late', imageId: IMAGE, memoryBytes: 64 * 1024 * 1024, vcpus: 1 },
    ...{ domainType: 'auto' as const, boot: {} },
  };
  const spawn = (): Promise<{ generation: number }> =>
    run(createSpawnInstance(host), { instanceId, spec, address: ADDRESS });
  assert.deepEqual(await spawn(), { generation: 1 });
  return {
    host,
    hypervisor,
    instanceId,
    disk: join(layout.generation(instanceId, 1), 'vda.qcow2'),
    spawn,
    save: (move) => run(createSaveInstance(host), move),
    takeBack: (move) => run(createReturnInstance(host), move),
    move: (owned) => ({ moveId: randomUUID(), instanceId, packageId: randomUUID(), generation: owned + 1 }),
    snapshotOf: (move) => join(layout.move(move.moveId), MEMBER.snapshot),
  };
}

/** The attempt dies at a marked instant. */
const dyingAt = (mark: Mark, attempt: () => Promise<unknown>): Promise<void> =>
  assert.rejects(
    withMarks((passed) => (passed === mark ? Promise.reject(new Error('killed')) : Promise.resolve()), attempt),
    /killed/,
  );

const stateOf = async ({ hypervisor, instanceId }: World): Promise<string | undefined> =>
  (await hypervisor.find(instanceId))?.state;

test('a spawn that comes again boots the instance from the disk that it has, and makes no other', async (context) => {
  const one = await world(context);
  assert.deepEqual(await one.spawn(), { generation: 1 }, 'while it runs');

  await appendFile(one.disk, 'written by the guest');
  one.hypervisor.powerLoss();
  assert.deepEqual(await one.spawn(), { generation: 1 }, 'after a power loss');
  assert.equal(await stateOf(one), 'running');
  assert.match(await readFile(one.disk, 'latin1'), /written by the guest$/);
});

test('what a move has stopped is run by no late spawn, resume or return', async (context) => {
  const one = await world(context);
  const first = one.move(1);
  assert.deepEqual(await one.takeBack(first), { generation: 2, how: 'never stopped' });
  assert.deepEqual(await one.takeBack(first), { generation: 2, how: 'never stopped' }, 'repeated');

  const second = one.move(2);
  await one.save(second);
  while ((await one.hypervisor.find(one.instanceId))?.process) await one.hypervisor.saveProgress(one.instanceId);
  await refused('StaleGeneration', one.takeBack(first));
  assert.equal(await stateOf(one), 'shut off');

  const resume = run(createResumeInstance(one.host), { ...first, release: 'old', source: 'old' });
  await refused('StaleGeneration', resume);

  const spawned = await world(context);
  await dyingAt('suspended', () => spawned.save(spawned.move(1)));
  assert.equal(await stateOf(spawned), 'paused');
  assert.deepEqual(await spawned.spawn(), { generation: 1 }, 'a process is there: nothing to do');
  assert.equal(await stateOf(spawned), 'paused');
  spawned.hypervisor.powerLoss();
  await refused('StaleGeneration', spawned.spawn());
  assert.equal(await stateOf(spawned), 'shut off');
});

test('a save file is not taken for the last state of a guest that went on after it', async (context) => {
  const one = await world(context, { killMillis: 60_000 });
  const move = one.move(1);
  one.hypervisor.setRam(one.instanceId, 'at the save');
  await dyingAt('written', () => one.save(move));
  one.hypervisor.killLibvirtd();
  await refused('LibvirtFailed', one.hypervisor.finished);
  one.hypervisor.startLibvirtd();
  assert.equal(await stateOf(one), 'paused', 'it was suspended before the save');
  assert.equal(await saveFileState(one.snapshotOf(move)), 'complete');

  // The next attempt lets it run for an instant and dies there, with the power of the host.
  one.hypervisor.failNext('suspend', new VmferryError('LibvirtFailed', 'killed'));
  await refused('LibvirtFailed', one.save(move));
  assert.equal(await stateOf(one), 'running');
  one.hypervisor.setRam(one.instanceId, 'later');
  one.hypervisor.powerLoss();

  await refused('InstanceNotRunning', one.save(move));
  assert.notEqual(await saveFileState(one.snapshotOf(move)), 'complete');
});

test('the file of a save that is just ending QEMU is kept, for it is all that will be left', async (context) => {
  const one = await world(context, { killMillis: 1500 });
  const move = one.move(1);
  one.hypervisor.setRam(one.instanceId, 'at the save');
  await dyingAt('written', () => one.save(move));
  assert.ok(await one.hypervisor.saveProgress(one.instanceId), 'libvirt still ends QEMU');

  await one.save(move);
  assert.equal((await one.hypervisor.find(one.instanceId))?.process, null);
  assert.equal(await saveFileState(one.snapshotOf(move)), 'complete');
  assert.deepEqual(await one.takeBack(move), { generation: 2, how: 'restored' });
  assert.equal(one.hypervisor.ramOf(one.instanceId), 'at the save');
  const kernel = join(one.host.layout.generation(one.instanceId, 2), MEMBER.kernel);
  assert.equal(await readFile(kernel, 'utf8'), 'kernel', 'what it boots from goes with it');
});

test('an instance is not taken for one that went on while the save is just ending its QEMU', async (context) => {
  const one = await world(context, { killMillis: 1500 });
  const move = one.move(1);
  one.hypervisor.setRam(one.instanceId, 'at the save');
  await one.save(move);
  assert.ok(await one.hypervisor.saveProgress(one.instanceId), 'libvirt still ends QEMU');
  assert.deepEqual(await one.takeBack(move), { generation: 2, how: 'restored' });
  assert.equal(one.hypervisor.ramOf(one.instanceId), 'at the save');
});

test('what one move has saved is taken back by no other, which would not know from what to go on', async (context) => {
  const one = await world(context);
  const move = one.move(1);
  one.hypervisor.setRam(one.instanceId, 'at the save');
  await one.save(move);
  await refused('InstanceBusy', one.takeBack(one.move(1)));
  assert.equal(await one.host.ledger.decision(one.instanceId, 1), null);
  assert.equal((await one.takeBack(move)).generation, 2);
  assert.equal(one.hypervisor.ramOf(one.instanceId), 'at the save');
});
