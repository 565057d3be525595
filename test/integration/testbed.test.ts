import assert from 'node:assert/strict';
import { execFile, spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { once } from 'node:events';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { Testbed } from '../../infra/testbed/testbed.ts';
import { connects, connectsAgain, measure } from '../support/link-probes.ts';
import { inhabitants, interfaceOf, traces } from '../support/traces.ts';

const MAIN = join(import.meta.dirname, '../../infra/testbed/main.ts');

const skip =
  process.getuid?.() !== 0
    ? 'simulated hosts need root'
    : existsSync('/usr/sbin/libvirtd')
      ? false
      : 'no libvirtd here: run `npm run setup`';

/** A directory that does not exist yet. */
async function freshDirectory(): Promise<string> {
  const directory = await mkdtemp(join(tmpdir(), 'vmferry-testbed-'));
  await rm(directory, { recursive: true });
  return directory;
}

const GUEST_NETWORK = `
<network>
  <name>guests</name>
  <forward mode='nat' dev='wan0'/>
  <bridge name='guests' stp='off' delay='0'/>
  <ip address='10.77.0.1' netmask='255.255.0.0'>
    <dhcp><host mac='52:54:00:77:00:02' ip='10.77.0.2'/></dhcp>
  </ip>
</network>`;
const IP = '10.77.0.2';
const DISK = '/var/lib/libvirt/images/guest.qcow2';

/** A line of the guest's file, as guest.c writes it. */
function countLine(boot: string, count: number): string {
  const text = `boot=${boot} count=${String(count).padStart(10, '0')} wall=1700000000000 `;
  let sum = 2166136261;
  for (const byte of Buffer.from(text)) sum = Math.imul(sum ^ byte, 16777619) >>> 0;
  return `${text}${sum.toString(16).padStart(8, '0')}\n`;
}

/** Defines a guest by hand, as far from vmferry as can be. */
async function defineGuest(testbed: Testbed, host: string): Promise<void> {
  const { disk, kernel, initrd, cmdline } = testbed.imagePaths;
  const virsh = (...command: string[]): Promise<unknown> => testbed.exec(host, ['virsh', '--quiet', ...command]);
  const define = async (command: string, xml: string): Promise<void> => {
    await writeFile(testbed.outside(host, '/var/tmp/guest.xml'), xml);
    await virsh(command, '/var/tmp/guest.xml');
  };
  await define('net-define', GUEST_NETWORK);
  await virsh('net-autostart', 'guests');
  await virsh('net-start', 'guests');
  await testbed.exec(host, ['cp', disk, DISK]);
  await define(
    'define',
    `<domain type='qemu'>
      <name>guest</name><memory unit='MiB'>256</memory><vcpu>1</vcpu>
      <os>
        <type arch='x86_64' machine='q35'>hvm</type>
        <kernel>${kernel}</kernel><initrd>${initrd}</initrd><cmdline>${cmdline}</cmdline>
      </os>
      <devices>
        <disk type='file' device='disk'>
          <driver name='qemu' type='qcow2'/>
          <source file='${DISK}'/>
          <target dev='vda' bus='virtio'/>
        </disk>
        <interface type='network'>
          <mac address='52:54:00:77:00:02'/><source network='guests'/><model type='virtio'/>
        </interface>
        <serial type='file'><source path='/var/lib/libvirt/images/serial.log'/></serial>
      </devices>
    </domain>`,
  );
}

async function guestAnswers(testbed: Testbed, host: string): ReturnType<Testbed['guestStatus']> {
  for (const deadline = Date.now() + 60_000; ; await sleep(100)) {
    try {
      return await testbed.guestStatus(host, IP);
    } catch (error) {
      if (Date.now() > deadline) throw error;
    }
  }
}

describe('a testbed of two bare hosts', { skip }, () => {
  let testbed: Testbed;
  before(async () => {
    testbed = await Testbed.up({ hosts: 2, directory: await freshDirectory(), bare: true });
    for (const host of testbed.hosts) {
      await defineGuest(testbed, host);
      await testbed.exec(host, ['virsh', '--quiet', 'start', 'guest']);
    }
    for (const host of testbed.hosts) await guestAnswers(testbed, host);
  });
  after(() => testbed.down());

  it('runs a guest on each host at the same address, and neither host sees the other’s', async () => {
    const [one, other] = await Promise.all(testbed.hosts.map((host) => testbed.guestStatus(host, IP)));
    assert.notEqual(one?.token, other?.token);
    assert.notEqual(one?.bootId, other?.bootId);
    const { stdout } = await testbed.exec('alpha', ['ls', testbed.directory]);
    assert.equal(stdout, '', 'alpha cannot look at beta’s disk');
    const names = await Promise.all(testbed.hosts.map((host) => testbed.exec(host, ['hostname'])));
    assert.deepEqual(
      names.map((name) => name.stdout),
      ['alpha', 'beta'],
    );
  });

  it('has a guest that counts ten times a second and finds its file whole', async () => {
    const begin = await testbed.guestStatus('alpha', IP);
    await sleep(2000);
    const end = await testbed.guestStatus('alpha', IP);
    const ticks = end.counter - begin.counter;
    const seconds = (end.wall - begin.wall) / 1000;
    assert.ok(ticks > seconds * 5 && ticks <= seconds * 10 + 1, `${ticks} ticks in ${seconds} s`);
    const { lines, first, last, gaps, torn } = await testbed.guestDiskCheck('alpha', IP);
    assert.deepEqual({ lines, first, gaps, torn }, { lines: last, first: 1, gaps: 0, torn: 0 });
    assert.ok(last >= end.counter);
  });

  it('has a guest that notices a missing and a torn line in its file', async () => {
    const lines = [1, 2, 4, 5].map((count) => countLine('deadbeef', count));
    await writeFile(
      testbed.outside('beta', '/var/tmp/count'),
      [...lines.slice(0, 3), 'boot=dead', ...lines.slice(3)].join(''),
    );
    const disk = '/var/lib/libvirt/images/guest.raw';
    const image = testbed.imagePaths.disk;
    await testbed.exec('beta', ['virsh', '--quiet', 'destroy', 'guest']);
    await testbed.exec('beta', ['qemu-img', 'convert', '-f', 'qcow2', '-O', 'raw', image, disk]);
    await testbed.exec('beta', ['debugfs', '-w', '-R', 'write /var/tmp/count /data/count', disk]);
    await testbed.exec('beta', ['qemu-img', 'convert', '-f', 'raw', '-O', 'qcow2', disk, DISK]);
    await testbed.exec('beta', ['virsh', '--quiet', 'start', 'guest']);
    await guestAnswers(testbed, 'beta');
    const { boots, gaps, torn } = await testbed.guestDiskCheck('beta', IP);
    // 3 is missing, and 5 went with the half line before it.
    assert.deepEqual({ boots, gaps, torn }, { boots: 2, gaps: 1, torn: 1 });
  });

  it('has a guest that keeps a marker and filled memory', async () => {
    assert.deepEqual(await testbed.guestGet('beta', IP, '/marker?text=find-me'), { ram: 'find-me', disk: 'find-me' });
    assert.deepEqual(await testbed.guestGet('beta', IP, '/marker'), { ram: 'find-me', disk: 'find-me' });
    assert.deepEqual(await testbed.guestGet('beta', IP, '/fill?mib=16'), { mib: 16, damagedPages: 0 });
    assert.deepEqual(await testbed.guestGet('beta', IP, '/fill'), { mib: 16, damagedPages: 0 });
  });

  it('limits a link in both directions, and sets it free again', async () => {
    await testbed.rate('alpha', '40mbit');
    for (const [from, to] of [
      ['alpha', 'beta'],
      ['beta', 'alpha'],
    ] as const) {
      const rate = await measure(testbed, from, to, 5_000_000);
      assert.ok(rate > 25 && rate < 45, `${from} to ${to}: ${rate} Mbit/s`);
    }
    await testbed.rate('alpha', 'none');
    assert.ok((await measure(testbed, 'alpha', 'beta', 5_000_000)) > 100);
    await assert.rejects(testbed.rate('alpha', 'fast'), { type: 'InvalidInput' });
  });

  it('cuts a link and joins it again', async () => {
    assert.ok(await connects(testbed, 'alpha', 'beta'));
    await testbed.cut('beta');
    assert.ok(!(await connects(testbed, 'alpha', 'beta')));
    await testbed.join('beta');
    await connectsAgain(testbed, 'alpha', 'beta');
  });

  it('leaves the guest running when libvirtd is killed, and starts libvirtd only when told to', async () => {
    const pid = (what: string): number | null | undefined =>
      testbed.status().find((part) => part.where === 'alpha' && part.what === what)?.pid;
    const qemu = pid('qemu');
    await testbed.kill('alpha', 'libvirtd');
    await sleep(300);
    assert.equal(pid('libvirtd'), null);
    assert.equal(pid('qemu'), qemu);
    await testbed.start('alpha', 'libvirtd');
    const { stdout } = await testbed.exec('alpha', ['virsh', 'domstate', 'guest']);
    assert.equal(stdout.trim(), 'running');
  });

  it('loses one host’s power and boots it with its disk as it was', async () => {
    const previous = await testbed.guestStatus('alpha', IP);
    const other = await testbed.guestStatus('beta', IP);
    await testbed.cut('alpha');
    await testbed.kill('alpha', 'host');
    assert.ok(testbed.status().every(({ where, pid }) => where !== 'alpha' || pid === null));
    await assert.rejects(testbed.exec('alpha', ['true']), { type: 'HostUnreachable' });
    await testbed.start('alpha', 'host');
    const { stdout } = await testbed.exec('alpha', ['virsh', 'domstate', 'guest']);
    assert.equal(stdout.trim(), 'shut off');
    assert.ok(!(await connects(testbed, 'alpha', 'beta')), 'a cable that was pulled stays so');
    await testbed.join('alpha');
    await connectsAgain(testbed, 'alpha', 'beta');

    await testbed.exec('alpha', ['virsh', '--quiet', 'start', 'guest']);
    const booted = await guestAnswers(testbed, 'alpha');
    assert.notEqual(booted.token, previous.token);
    const { torn, lines, last } = await testbed.guestDiskCheck('alpha', IP);
    assert.equal(torn, 0);
    assert.ok(lines > last, 'the counts of the first boot are still there');
    assert.equal((await testbed.guestStatus('beta', IP)).token, other.token);
  });

  it('does not collide with a second testbed', async () => {
    const second = await Testbed.up({ hosts: 1, directory: await freshDirectory(), bare: true });
    try {
      assert.notEqual(interfaceOf(second), interfaceOf(testbed));
      assert.notEqual(second.uiUrl, testbed.uiUrl);
    } finally {
      await second.down();
    }
    assert.ok(await connects(testbed, 'alpha', 'beta'));
    await testbed.guestStatus('beta', IP);
  });

  it('leaves nothing after down', async () => {
    const processes = inhabitants(testbed);
    const seen = await traces(testbed.directory, [interfaceOf(testbed)], processes);
    assert.ok(processes.size >= 8 && seen.length > processes.size, 'the search finds what is there');
    await testbed.down();
    assert.deepEqual(await traces(testbed.directory, [interfaceOf(testbed)], processes), []);
    await testbed.down(); // nothing to do
  });
});

describe('an interrupted up', { skip }, () => {
  it('can be followed by up or by down, wherever it was', async () => {
    const directory = await freshDirectory();
    const env = { ...process.env, VMFERRY_TESTBED: directory };
    try {
      for (const millis of [350, 500, 700]) {
        const up = spawn(process.execPath, [MAIN, 'up', '2', '--bare'], { env, stdio: 'ignore' });
        await sleep(millis);
        up.kill('SIGKILL');
        if (up.exitCode === null && up.signalCode === null) await once(up, 'exit');
        if (millis === 500) {
          await Testbed.down(directory);
          assert.deepEqual(await traces(directory), []);
        }
      }
      const testbed = await Testbed.up({ hosts: 2, directory, bare: true });
      assert.ok(testbed.status().every(({ pid }) => pid !== null));
      assert.ok(await connects(testbed, 'alpha', 'beta'));
    } finally {
      await Testbed.down(directory);
    }
    assert.deepEqual(await traces(directory), []);
  });

  it('refuses a directory that holds other things', async () => {
    const directory = await mkdtemp(join(tmpdir(), 'vmferry-testbed-'));
    try {
      await promisify(execFile)('touch', [join(directory, 'thesis.tex')]);
      await assert.rejects(Testbed.up({ directory, bare: true }), { type: 'InvalidInput' });
      await Testbed.down(directory);
      assert.ok(existsSync(join(directory, 'thesis.tex')));
    } finally {
      await rm(directory, { recursive: true });
    }
  });
});

describe('a testbed without file systems of its own', { skip }, () => {
  it('is made where there are no loop devices, and says that faults of the disk are not for it', async () => {
    const directory = await freshDirectory();
    try {
      const hide = 'for device in /dev/loop*; do mount --bind /dev/null "$device"; done; exec "$@"';
      await promisify(execFile)(
        'unshare',
        ['--mount', 'bash', '-c', hide, 'up', process.execPath, MAIN, 'up', '1', '--bare'],
        { env: { ...process.env, VMFERRY_TESTBED: directory } },
      );
      const testbed = await Testbed.open(directory);
      assert.match(testbed.diskFaultless('alpha') ?? '', /plain folder: mount: /);
      for (const fault of [testbed.fillDisk('alpha'), testbed.failDisk('alpha')]) {
        await assert.rejects(fault, { type: 'InvalidInput', message: /plain folder/ });
      }
      await testbed.freeDisk('alpha');
      const path = testbed.outside('alpha', '/var/lib/vmferry/file');
      await writeFile(path, 'content');
      await testbed.reboot('alpha');
      assert.equal((await testbed.exec('alpha', ['cat', '/var/lib/vmferry/file'])).stdout, 'content');
    } finally {
      await Testbed.down(directory);
    }
  });
});
