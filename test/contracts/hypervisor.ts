/**
 * What every implementation of the hypervisor port does. Run on libvirt in a simulated host
 * (test/integration/hypervisor.test.ts) and on the fake (test/unit/fake-hypervisor.test.ts).
 */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, beforeEach, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { describeDomain } from '../../activities/hypervisor/domain-xml.ts';
import type { Hypervisor, ProcessIdentity } from '../../activities/hypervisor/hypervisor.ts';
import { readSaveHeader, saveFileState } from '../../activities/hypervisor/save-file.ts';
import type { Requirements } from '../../workflows/contract.ts';
import { VmferryError, type FailureType } from '../../workflows/failures.ts';

export interface HypervisorHarness {
  hypervisor: Hypervisor;
  /** Where save files go. */
  folder: string;
  /** A folder with no room for a save file; null where none can be had. */
  fullFolder: string | null;
  /** Domain XML of a guest of its own, not yet defined. Its QEMU ends with the harness at the latest. */
  newDomain(): Promise<string>;
  /** Lets the guest use some RAM, so that saving it takes a moment. */
  warmUp(instanceId: string): Promise<void>;
  killLibvirtd(): Promise<void>;
  startLibvirtd(): Promise<void>;
  /** Makes libvirt believe that the domain's QEMU is gone; null where that cannot be had. */
  orphan: ((instanceId: string) => Promise<void>) | null;
  close(): Promise<void>;
}

const UNKNOWN = '99999999-9999-4999-8999-999999999999';

const failure = (type: FailureType) => (error: unknown) => {
  assert.ok(error instanceof VmferryError, String(error));
  assert.equal(error.type, type, error.message);
  assert.ok(error.message.length < 2000);
  return true;
};

export function hypervisorContract(name: string, openHarness: () => Promise<HypervisorHarness>): void {
  describe(`The hypervisor port on ${name}`, () => {
    let harness: HypervisorHarness;
    let hypervisor: Hypervisor;
    let id: string;
    let file: string;
    before(async () => {
      harness = await openHarness();
      ({ hypervisor } = harness);
    });
    after(() => harness.close());
    beforeEach(async () => {
      const xml = await harness.newDomain();
      id = describeDomain(xml).uuid;
      file = join(harness.folder, `${id}.save`);
      await hypervisor.define(xml);
    });
    const state = async (): Promise<string | undefined> => (await hypervisor.find(id))?.state;
    const runningProcess = async (): Promise<ProcessIdentity> => {
      const process = (await hypervisor.find(id))?.process;
      assert.ok(process);
      return process;
    };
    /** A suspended guest in a complete file, its QEMU gone. */
    const saved = async (): Promise<void> => {
      await hypervisor.start(id);
      await hypervisor.suspend(id);
      await hypervisor.save(id, file).finished;
    };
    const tidy = async (): Promise<void> => {
      await hypervisor.destroy(id);
      await hypervisor.undefine(id);
      await rm(file, { force: true });
    };

    test('tells what the host offers', async () => {
      const facts = await hypervisor.facts();
      assert.ok(facts.domainTypes.includes('qemu'));
      assert.ok(facts.emulators[facts.architecture]);
      assert.ok(facts.machines.length > 0);
      assert.ok(facts.freeMemoryBytes > 2 ** 20);
      assert.match(facts.qemuVersion, /^\d+\.\d+\.\d+$/);
      await tidy();
    });

    test('answers nothing for a domain that it does not know, and removes it without complaint', async () => {
      assert.equal(await hypervisor.find(UNKNOWN), null);
      assert.equal(await hypervisor.saveProgress(UNKNOWN), null);
      await hypervisor.destroy(UNKNOWN);
      await hypervisor.undefine(UNKNOWN);
      await hypervisor.abortJob(UNKNOWN);
      for (const call of ['start', 'suspend', 'resume'] as const) {
        await assert.rejects(hypervisor[call](UNKNOWN), failure('LibvirtFailed'));
      }
      await assert.rejects(hypervisor.domainXml(UNKNOWN, 'live'), failure('LibvirtFailed'));
      await assert.rejects(hypervisor.define('<domain/>'), VmferryError);
      await tidy();
    });

    test('boots, stops, continues and ends a domain, and each may be asked for twice', async () => {
      assert.equal(await state(), 'shut off');
      await hypervisor.start(id);
      await hypervisor.start(id);
      const found = await hypervisor.find(id);
      assert.equal(found?.state, 'running');
      assert.equal(found.persistent, true);
      assert.ok(found.process);
      assert.equal(await hypervisor.processAlive(found.process), true);
      assert.ok((await hypervisor.list()).some(({ instanceId }) => instanceId === id));
      await hypervisor.suspend(id);
      await hypervisor.suspend(id);
      assert.equal(await state(), 'paused');
      await hypervisor.resume(id);
      await hypervisor.resume(id);
      assert.equal(await state(), 'running');
      await hypervisor.destroy(id);
      assert.equal(await hypervisor.processAlive(found.process), false);
      await hypervisor.destroy(id);
      assert.deepEqual(
        { ...(await hypervisor.find(id)) },
        { instanceId: id, name: found.name, state: 'shut off', persistent: true, autostart: false, process: null },
      );
      await tidy();
      assert.equal(await hypervisor.find(id), null);
    });

    test('keeps autostart for a persistent domain, and an undefined one runs on as transient', async () => {
      await hypervisor.setAutostart(id, true);
      assert.equal((await hypervisor.find(id))?.autostart, true);
      await hypervisor.start(id);
      await hypervisor.undefine(id);
      await hypervisor.undefine(id);
      const found = await hypervisor.find(id);
      assert.deepEqual([found?.state, found?.persistent, found?.autostart], ['running', false, false]);
      await hypervisor.setAutostart(id, false);
      await hypervisor.destroy(id);
      assert.equal(await hypervisor.find(id), null);
      await tidy();
    });

    test('saves a suspended domain: the file is complete and the process gone', async () => {
      await hypervisor.start(id);
      const process = await runningProcess();
      await hypervisor.suspend(id);
      await hypervisor.save(id, file).finished;
      assert.equal(await saveFileState(file), 'complete');
      assert.equal(await hypervisor.processAlive(process), false);
      assert.equal((await hypervisor.find(id))?.process, null);
      assert.equal(await state(), 'shut off');
      assert.equal(await hypervisor.saveProgress(id), null);
      await hypervisor.abortJob(id);
      const header = await readSaveHeader(file);
      assert.equal(header.wasRunning, false);
      assert.equal(describeDomain(header.xml).uuid, id);
      await tidy();
    });

    test('f26: restores with the vCPUs stopped, from a file that stays as it is', async () => {
      await saved();
      const digest = async (): Promise<string> =>
        createHash('sha256')
          .update(await readFile(file))
          .digest('hex');
      const before = await digest();
      await hypervisor.undefine(id);
      await hypervisor.restorePaused(file);
      const found = await hypervisor.find(id);
      assert.deepEqual([found?.state, found?.persistent], ['paused', false]);
      assert.ok(found?.process);
      await sleep(300);
      assert.equal(await state(), 'paused');
      await assert.rejects(hypervisor.restorePaused(file), failure('LibvirtFailed'));
      await hypervisor.resume(id);
      assert.equal(await state(), 'running');
      assert.equal(await digest(), before);
      await tidy();
    });

    test('ends a save that is aborted, and the domain is as it was before', async () => {
      await hypervisor.start(id);
      await harness.warmUp(id);
      await hypervisor.suspend(id);
      const save = hypervisor.save(id, file);
      while ((await saveFileState(file)) === 'absent') await sleep(2);
      await hypervisor.abortJob(id);
      await assert.rejects(save.finished, failure('LibvirtFailed'));
      assert.equal(await state(), 'paused');
      assert.notEqual(await saveFileState(file), 'complete');
      await hypervisor.resume(id);
      assert.equal(await state(), 'running');
      await tidy();
    });

    test('says NoSpace when the disk is full, and the domain goes on', async (context) => {
      if (harness.fullFolder === null) return context.skip('there is no full folder');
      await hypervisor.start(id);
      await harness.warmUp(id);
      await assert.rejects(hypervisor.save(id, join(harness.fullFolder, 'save')).finished, failure('NoSpace'));
      assert.equal(await state(), 'running');
      await tidy();
    });

    test('leaves a domain paused that was suspended before a save in which libvirtd dies', async () => {
      await hypervisor.start(id);
      await harness.warmUp(id);
      const process = await runningProcess();
      await hypervisor.suspend(id);
      const save = hypervisor.save(id, file);
      while ((await saveFileState(file)) === 'absent') await sleep(2);
      await harness.killLibvirtd();
      await assert.rejects(save.finished, failure('LibvirtFailed'));
      await assert.rejects(hypervisor.find(id), failure('LibvirtFailed'));
      assert.equal(await hypervisor.processAlive(process), true);
      await harness.startLibvirtd();
      assert.equal(await state(), 'paused');
      // What the next attempt does: run for an instant, stop, save again.
      await hypervisor.abortJob(id);
      await hypervisor.resume(id);
      await hypervisor.suspend(id);
      await rm(file, { force: true });
      await hypervisor.save(id, file).finished;
      assert.equal(await saveFileState(file), 'complete');
      await tidy();
    });

    test('reports the process of a domain that libvirt has lost sight of, and ends it', async (context) => {
      if (harness.orphan === null) return context.skip('libvirt cannot be made to forget a process here');
      await hypervisor.start(id);
      const process = await runningProcess();
      await harness.orphan(id);
      const found = await hypervisor.find(id);
      assert.equal(found?.state, 'shut off');
      assert.deepEqual(found.process, process);
      await hypervisor.destroy(id);
      assert.equal(await hypervisor.processAlive(process), false);
      await tidy();
    });

    test('f22: f24: compares requirements with what the host offers', async () => {
      const { qemuVersion } = await hypervisor.facts();
      const own: Requirements = {
        ...describeDomain(await hypervisor.domainXml(id, 'inactive')).requirements,
        qemuVersion,
      };
      await hypervisor.checkCompatible(own);
      const cpu = "<cpu mode='custom' match='exact'><model fallback='forbid'>EPYC</model></cpu>";
      for (const other of [
        { machine: 'pc-q35-99.0' },
        { architecture: 's390x' },
        { qemuVersion: '99.0.0' },
        { cpu },
      ] satisfies Partial<Requirements>[]) {
        await assert.rejects(hypervisor.checkCompatible({ ...own, ...other }), failure('IncompatibleHost'));
      }
      await tidy();
    });

    test('sets the clock of no guest that does not run', async () => {
      await hypervisor.start(id);
      await hypervisor.suspend(id);
      assert.equal(await hypervisor.setGuestTime(id, 200), false);
      await tidy();
    });
  });
}
