import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { chmod, mkdir, mkdtemp, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { copyFile } from '../../activities/disk/copy.ts';
import { createOverlay, rebaseUnsafe } from '../../activities/disk/qemu-img.ts';
import { run } from '../../activities/exec/run.ts';
import {
  describeDomain,
  newDomainXml,
  rebindDomain,
  refuseUnsupported,
} from '../../activities/hypervisor/domain-xml.ts';
import { createLibvirtHypervisor } from '../../activities/hypervisor/libvirt-hypervisor.ts';
import { readSaveHeader, rewriteSaveHeader } from '../../activities/hypervisor/save-file.ts';
import { tapName } from '../../activities/network/anti-spoofing.ts';
import { createGuestNetwork } from '../../activities/network/libvirt-guest-network.ts';
import { Layout } from '../../activities/records/layout.ts';
import { guestImage } from '../../infra/testbed/guest/guest.ts';
import { GUEST_DIRECTORY } from '../../infra/testbed/host.ts';
import { hypervisorContract, type HypervisorHarness } from '../contracts/hypervisor.ts';
import { inSimulatedHost } from '../support/in-host.ts';

const URI = 'qemu:///system';
const NO_WORK = { signal: new AbortController().signal, onProgress: (): void => {} };

async function openHarness(): Promise<HypervisorHarness> {
  // Under /var, which is the host's own disk; /tmp would be the machine's.
  const folder = await mkdtemp('/var/lib/vmferry/hypervisor-');
  // QEMU has a user of its own, which must be able to get here.
  await chmod(folder, 0o755);
  const fullFolder = join(folder, 'full');
  await mkdir(fullFolder);
  await run('mount', ['-t', 'tmpfs', '-o', 'size=8m', 'tmpfs', fullFolder]);
  await createGuestNetwork({ uri: URI, layout: new Layout(folder) }).ensure();
  const hypervisor = await createLibvirtHypervisor({ uri: URI });
  const { machines, emulators, architecture } = await hypervisor.facts();
  // Copies readable for root alone: libvirt gives the files of a guest to QEMU's user, bases included.
  const image = { ...guestImage(folder), cmdline: guestImage(GUEST_DIRECTORY).cmdline };
  for (const part of ['disk', 'kernel', 'initrd'] as const) {
    await copyFile({ from: guestImage(GUEST_DIRECTORY)[part], to: image[part], work: NO_WORK });
  }
  const made: string[] = [];
  return {
    hypervisor,
    folder,
    fullFolder,
    newDomain: async () => {
      const instanceId = randomUUID();
      made.push(instanceId);
      const disk = join(folder, `${instanceId}.qcow2`);
      await createOverlay({ path: disk, base: image.disk, baseFormat: 'qcow2' });
      const number = made.length.toString(16).padStart(2, '0');
      return newDomainXml({
        instanceId,
        name: `guest-${number}`,
        memoryBytes: 256 * 2 ** 20,
        vcpus: 1,
        architecture,
        domainType: 'qemu',
        machines,
        emulator: emulators[architecture] ?? '',
        disk,
        base: { path: image.disk, format: 'qcow2' },
        kernel: image.kernel,
        initrd: image.initrd,
        cmdline: image.cmdline,
        mac: `52:54:00:77:00:${number}`,
        tap: tapName(instanceId),
        serialLog: join(folder, `${instanceId}.log`),
      });
    },
    warmUp: async (instanceId) => {
      for (let tries = 0; tries < 300; tries++) {
        const log = await readFile(join(folder, `${instanceId}.log`), 'utf8').catch(() => '');
        if (/^ram=/m.test(log)) return;
        await sleep(100);
      }
      throw new Error('the guest did not boot');
    },
    killLibvirtd,
    startLibvirtd,
    orphan: async (instanceId) => {
      const name = (await hypervisor.find(instanceId))?.name;
      await killLibvirtd();
      // By this file a new libvirtd finds the QEMU processes that the old one has left.
      await rm(`/run/libvirt/qemu/${name}.xml`);
      await startLibvirtd();
    },
    close: async () => {
      for (const id of made) {
        await hypervisor.destroy(id);
        await hypervisor.undefine(id);
      }
      await hypervisor.close();
      await run('umount', [fullFolder]);
      await rm(folder, { recursive: true });
    },
  };
}

async function killLibvirtd(): Promise<void> {
  const pid = Number(await readFile('/run/libvirtd.pid', 'utf8'));
  process.kill(pid, 'SIGKILL');
  while ((await run('test', ['-d', `/proc/${pid}`], { okExitCodes: [0, 1] })).exitCode === 0) await sleep(20);
}

async function startLibvirtd(): Promise<void> {
  spawn('libvirtd', [], { detached: true, stdio: 'ignore' }).unref();
  while ((await run('virsh', ['-q', '-c', URI, 'uri'], { okExitCodes: [0, 1] })).exitCode !== 0) await sleep(50);
}

/** The counter in the guest's RAM, by the last whole line of its console; null before it counts. */
async function lastCount(log: string): Promise<number | null> {
  const text = await readFile(log, 'utf8').catch(() => '');
  const count = [...text.matchAll(/^ram=(\d+) [^\n]*\n/gm)].at(-1)?.[1];
  return count === undefined ? null : Number(count);
}

inSimulatedHost('The hypervisor port holds on libvirt in a simulated host', import.meta.url, () => {
  hypervisorContract('libvirt', openHarness);

  test('A guest continues from its save file under other paths, with all that it had in its RAM', async () => {
    const harness = await openHarness();
    try {
      const { hypervisor, folder } = harness;
      const first = describeDomain(await define(harness));
      const id = first.uuid;
      await hypervisor.start(id);
      await harness.warmUp(id);
      for (const which of ['live', 'inactive'] as const) refuseUnsupported(await hypervisor.domainXml(id, which));
      await hypervisor.suspend(id);
      const save = join(folder, 'moved.save');
      await hypervisor.save(id, save).finished;
      const before = await lastCount(first.serialLog ?? '');
      assert.ok(before);
      await hypervisor.undefine(id);

      const second = join(folder, 'g2');
      await mkdir(second);
      const disk = join(second, 'vda.qcow2');
      await copyFile({ from: first.disks[0]?.path ?? '', to: disk, work: NO_WORK });
      await rm(first.disks[0]?.path ?? '');
      await rebaseUnsafe({ path: disk, backing: 'f'.repeat(64), backingFormat: 'qcow2' });
      const base = join(second, 'base.img');
      await copyFile({ from: join(folder, 'disk.qcow2'), to: base, work: NO_WORK });
      await rebaseUnsafe({ path: disk, backing: base, backingFormat: 'qcow2' });
      const kernel = join(second, 'kernel');
      const initrd = join(second, 'initrd');
      await copyFile({ from: first.kernel ?? '', to: kernel, work: NO_WORK });
      await copyFile({ from: first.initrd ?? '', to: initrd, work: NO_WORK });
      const serialLog = join(second, 'serial.log');
      const { xml, cookie } = await readSaveHeader(save);
      assert.ok(cookie);
      const bound = rebindDomain(xml, {
        disks: { vda: disk },
        kernel,
        initrd,
        serialLog,
        emulator: first.emulator,
        tap: tapName('another host’s name for it'),
      });
      await rewriteSaveHeader(save, bound);
      await hypervisor.restorePaused(save);
      await hypervisor.define(bound);
      assert.equal(await lastCount(serialLog), null);
      await hypervisor.resume(id);
      while ((await lastCount(serialLog)) === null) await sleep(50);
      const after = (await lastCount(serialLog)) ?? 0;
      assert.ok(after > before && after < before + 100, `the counter was ${before} and is ${after}`);
      const found = await hypervisor.find(id);
      assert.deepEqual([found?.state, found?.persistent], ['running', true]);
      for (const which of ['live', 'inactive'] as const) refuseUnsupported(await hypervisor.domainXml(id, which));
      // This guest has no agent, which must not take long to find out.
      const asked = performance.now();
      assert.equal(await hypervisor.setGuestTime(id, 5000), false);
      assert.ok(performance.now() - asked < 2500);
    } finally {
      await harness.close();
    }
  });
});

async function define(harness: HypervisorHarness): Promise<string> {
  const xml = await harness.newDomain();
  await harness.hypervisor.define(xml);
  return xml;
}
