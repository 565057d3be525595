import { spawn } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { chmod, mkdir, mkdtemp, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { copyFile } from '../../activities/disk/copy.ts';
import { createOverlay } from '../../activities/disk/qemu-img.ts';
import { run } from '../../activities/exec/run.ts';
import { newDomainXml } from '../../activities/hypervisor/domain-xml.ts';
import { createLibvirtHypervisor } from '../../activities/hypervisor/libvirt-hypervisor.ts';
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

inSimulatedHost('The hypervisor port holds on libvirt in a simulated host', import.meta.url, () => {
  hypervisorContract('libvirt', openHarness);
});
