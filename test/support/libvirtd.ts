/**
 * A libvirtd of a test's own: in its own mount, network and process namespaces, with empty configuration and state, so
 * that neither the machine's libvirtd nor that of another test sees it. Its socket is in a temporary folder.
 */
import { execFile, spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { access, mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir, userInfo } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';

const run = promisify(execFile);

export interface TestLibvirtd {
  uri: string;
  /** Seen under the same path by the test and by libvirtd. */
  directory: string;
  /** To libvirtd alone; its guests go on. */
  signal(name: 'KILL' | 'STOP' | 'CONT'): Promise<void>;
  /** Starts libvirtd again after `signal('KILL')`. */
  restart(): Promise<void>;
  /** Ends libvirtd and all its guests and removes their files. */
  stop(): Promise<void>;
}

/** `false`, or why tests that need a libvirtd cannot run: the `skip` option of node:test. */
export async function libvirtdMissing(): Promise<string | false> {
  if (userInfo().uid !== 0) return 'a private libvirtd needs root';
  for (const program of ['/usr/sbin/libvirtd', '/usr/bin/qemu-system-x86_64']) {
    if (!(await exists(program))) return `there is no ${program}: run \`npm run setup\``;
  }
  return await run('unshare', ['--net', '--mount', '--pid', '--fork', 'true']).then(
    () => false as const,
    () => 'no namespaces can be made here (a container without the privilege?)',
  );
}

/**
 * The first process of the namespaces. It waits for orders on its standard input and ends with it, and so does all that
 * runs there: nothing outlives the test, however the test ends. As PID 1 it also reaps QEMU processes.
 */
const INIT = `
  set -eu
  mount --make-rprivate /
  umount -l /sys/fs/cgroup 2>/dev/null || true
  mount -t sysfs sysfs /sys
  for place in /run /var/lib/libvirt /var/log/libvirt; do mount -t tmpfs tmpfs $place; done
  mkdir /run/lock
  mount --bind "$1/etc" /etc/libvirt
  mount --bind "$1/cache" /var/cache/libvirt
  ip link set lo up
  while read -r order; do
    case $order in
      start) libvirtd </dev/null >>"$1/libvirtd.log" 2>&1 & echo $! >"$1/pid" ;;
      *) kill -"$order" "$(cat "$1/pid")" ;;
    esac
    echo done
  done`;

export async function startLibvirtd(): Promise<TestLibvirtd> {
  const directory = await mkdtemp(join(tmpdir(), 'vmferry-virt-'));
  for (const name of ['etc', 'cache', 'run']) await mkdir(join(directory, name));
  const settings = { unix_sock_dir: join(directory, 'run'), auth_unix_rw: 'none', auth_unix_ro: 'none' };
  await writeFile(join(directory, 'etc', 'libvirtd.conf'), lines(settings));
  const qemu = { security_driver: 'none', user: 'root', group: 'root', stdio_handler: 'file' };
  await writeFile(join(directory, 'etc', 'qemu.conf'), `${lines(qemu)}namespaces = []\ncgroup_controllers = []\n`);

  const namespaces = ['--net', '--mount', '--uts', '--pid', '--fork', '--mount-proc', '--kill-child'];
  const init = spawn('unshare', [...namespaces, 'bash', '-c', INIT, 'init', directory], {
    stdio: ['pipe', 'pipe', 'pipe'],
  });
  let complaint = '';
  init.stderr.on('data', (chunk: Buffer) => (complaint = (complaint + chunk.toString()).slice(-2000)));
  const order = async (text: string): Promise<void> => {
    init.stdin.write(`${text}\n`);
    await Promise.race([once(init.stdout, 'data'), once(init, 'exit')]);
    if (ended(init)) throw new Error(`the namespaces of libvirtd ended: ${complaint.trim()}`);
  };
  const socket = join(directory, 'run', 'libvirt-sock');
  const start = async (): Promise<void> => {
    await rm(socket, { force: true });
    await order('start');
    for (let attempt = 0; !(await exists(socket)); attempt++) {
      if (attempt === 200) throw new Error(`libvirtd did not start: ${(await log()).slice(-2000)}`);
      await sleep(50);
    }
  };
  const log = (): Promise<string> => readFile(join(directory, 'libvirtd.log'), 'utf8');
  const stop = async (): Promise<void> => {
    if (!ended(init)) {
      const exited = once(init, 'exit');
      init.stdin.end();
      await exited;
    }
    await rm(directory, { recursive: true, force: true });
  };
  try {
    await start();
  } catch (error) {
    await stop();
    throw error;
  }
  return { uri: `qemu+unix:///system?socket=${socket}`, directory, signal: order, restart: start, stop };
}

/**
 * XML of a guest of 64 MiB under TCG without any disk or network, and the two files in `directory` that it boots from: a
 * multiboot kernel of a few instructions that counts, and 16 MiB of noise as its module, so that a save has bulk.
 */
export async function writeTinyGuest(directory: string, name: string, uuid: string): Promise<string> {
  const [kernel, module] = [join(directory, 'tiny-kernel'), join(directory, 'tiny-module')];
  await writeFile(kernel, tinyKernel());
  await writeFile(module, randomBytes(16 << 20));
  return `<domain type='qemu'>
    <name>${name}</name><uuid>${uuid}</uuid>
    <memory unit='MiB'>64</memory><vcpu>1</vcpu>
    <os><type arch='x86_64' machine='pc'>hvm</type><kernel>${kernel}</kernel><initrd>${module}</initrd></os>
    <cpu mode='custom' match='exact' check='none'><model fallback='forbid'>qemu64</model></cpu>
    <devices>
      <emulator>/usr/bin/qemu-system-x86_64</emulator>
      <controller type='usb' model='none'/><memballoon model='none'/><video><model type='none'/></video>
    </devices>
  </domain>`;
}

/** A flat multiboot image, loaded at 1 MiB. */
function tinyKernel(): Buffer {
  const [magic, flags, base] = [0x1badb002, 0x10000, 0x100000];
  // pause; inc dword [base + 0x1000]; jmp back: about the least that can be seen to run
  const code = Buffer.from([0xf3, 0x90, 0xff, 0x05, 0x00, 0x10, 0x10, 0x00, 0xeb, 0xf6]);
  const end = base + 32 + code.length;
  const header = [magic, flags, -(magic + flags), base, base, end, end, base + 32];
  return Buffer.concat([Buffer.from(Uint32Array.from(header).buffer), code]);
}

function lines(settings: Record<string, string>): string {
  return Object.entries(settings)
    .map(([name, value]) => `${name} = "${value}"\n`)
    .join('');
}

function ended(child: ChildProcess): boolean {
  return child.exitCode !== null || child.signalCode !== null;
}

async function exists(path: string): Promise<boolean> {
  return await access(path).then(
    () => true,
    () => false,
  );
}
