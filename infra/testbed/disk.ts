/**
 * What vmferry keeps on a simulated host, `/var/lib/vmferry`, is an ext4 file system of its own: an image file in the
 * testbed's directory, mounted by init.sh within the host's mount namespace. So it can be full, read-only and broken while
 * the machine's own is not, and a power loss takes what nobody has synced. Mount and loop device go with the host.
 *
 * Where the machine has no loop devices it is a plain folder, and faults of the disk are refused.
 */
import { existsSync, readFileSync, rmSync } from 'node:fs';
import { rename, rm, stat, statfs, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { run } from '../../activities/exec/run.ts';
import { VmferryError } from '../../workflows/failures.ts';
import { helperEnvironment, type Process } from './processes.ts';

/** The state directory of vmferry, and where the file system is mounted. */
export const STATE_DIRECTORY = '/var/lib/vmferry';

/** `failed`: ext4 has met an error and stopped all writing; only a repair at the next boot helps. */
export type DiskState = 'normal' | 'read-only' | 'failed';

export class StateDisk {
  readonly #testbed: string;
  /** Directory on the machine that holds everything of the host. */
  readonly #host: string;
  readonly #name: string;

  constructor(testbed: string, name: string) {
    this.#testbed = testbed;
    this.#host = join(testbed, name);
    this.#name = name;
  }

  /** Makes an empty file system of this size; 0 asks for a plain folder. */
  async make(mib: number): Promise<void> {
    if (mib === 0) return writeFile(this.#reason, 'it was made so\n');
    const fresh = `${this.#image}.new`;
    await rm(fresh, { force: true });
    const lazy = 'lazy_itable_init=1,lazy_journal_init=1,nodiscard';
    await run('mke2fs', ['-q', '-F', '-t', 'ext4', '-m', '0', '-E', lazy, fresh, `${mib}M`], {
      env: helperEnvironment(this.#testbed),
    });
    // Until it has been mounted once, init.sh takes a failure for a machine without loop devices.
    await writeFile(this.#untried, '');
    await rename(fresh, this.#image);
  }

  /** Why there are no faults of the disk; null if there are. Known after the first boot. */
  get plain(): string | null {
    if (existsSync(this.#image)) return null;
    return `${STATE_DIRECTORY} of ${this.#name} is a plain folder: ${readFileSync(this.#reason, 'utf8').trim()}`;
  }

  /** Path on the machine of a file in it. While the host is off nothing is there. Null for a plain folder. */
  outside(path: string): string | null {
    return existsSync(this.#image) ? join(this.#view, path) : null;
  }

  /** Shows the file system of a host that has booted to the machine. */
  async show(init: Process): Promise<void> {
    if (!existsSync(this.#image)) return;
    const next = `${this.#view}.new`;
    await rm(next, { force: true });
    await symlink(`/proc/${init.pid}/root${STATE_DIRECTORY}`, next);
    await rename(next, this.#view);
  }

  /** Takes it out of the machine's sight: nobody is to open a file between a last look and a power loss. */
  hide(): void {
    rmSync(this.#view, { force: true });
  }

  /**
   * Before a boot: waits until the kernel has let go of the file system. Where somebody keeps one of its files open, he
   * keeps the old image, of which nothing is written any more, and the host goes on with a copy.
   */
  async settle(): Promise<void> {
    if (!existsSync(this.#image)) return;
    for (const deadline = performance.now() + RELEASE_MS; await attached(this.#image); await sleep(20)) {
      if (performance.now() < deadline) continue;
      const copy = `${this.#image}.new`;
      await run('cp', ['--sparse=always', this.#image, copy], { env: helperEnvironment(this.#testbed) });
      return rename(copy, this.#image);
    }
  }

  /** From now on nothing of it reaches the image: what was not synced is lost. */
  async loseUnsynced(init: Process): Promise<void> {
    if (!existsSync(this.#image)) return;
    // EXT4_IOC_SHUTDOWN with EXT4_GOING_FLAGS_NOLOGFLUSH
    const shutdown =
      'my ($d, $how) = (undef, pack("L", 2)); open($d, "<", $ARGV[0]) && ioctl($d, 0x8004587D, $how) or die "$!\\n"';
    await run('perl', ['-e', shutdown, `/proc/${init.pid}/root${STATE_DIRECTORY}`]);
  }

  /** Takes all space but this much. */
  async fill(leaveBytes: number): Promise<void> {
    this.#mustBeOwn();
    for (let tries = 0, step = Infinity; tries < 50; tries++) {
      const { bavail, bsize } = await statfs(this.#view);
      const size = await blocksOf(this.#filler, bsize);
      const excess = bavail - Math.floor(leaveBytes / bsize);
      if (excess === 0) return;
      if (excess < 0) {
        await run('truncate', ['--size', String((size + excess) * bsize), this.#filler]);
        continue;
      }
      // The file's own metadata need blocks too, and guests write meanwhile.
      step = Math.min(step, excess);
      const length = String((size + step) * bsize);
      const { exitCode } = await run('fallocate', ['--length', length, this.#filler], { okExitCodes: [0, 1] });
      step = exitCode === 0 ? Infinity : Math.max(1, Math.floor(step / 2));
      if (exitCode === 1 && excess === 1) return;
    }
    throw new VmferryError(
      'CommandFailed',
      `The disk of ${this.#name} could not be filled to the last ${leaveBytes} bytes`,
    );
  }

  /** Gives back what `fill` took, while the host is on or off; answers whether there was something. */
  async free(on: boolean): Promise<boolean> {
    if (!existsSync(this.#image)) return false;
    if (!on) await this.settle();
    // A mount of our own: that of the host may be read-only.
    const remove = 'mount -o loop "$0" "$1" && cd "$1" && test -e "$2" || exit 3; rm "$2" && sync --file-system .';
    const command = ['bash', '-c', remove, this.#image, join(this.#host, STATE_DIRECTORY), FILLER];
    const { exitCode } = await run('unshare', ['--mount', ...command], { okExitCodes: [0, 3] });
    return exitCode === 0;
  }

  /** Makes ext4 meet an error. */
  async fail(init: Process): Promise<void> {
    this.#mustBeOwn();
    const device = mounts(init).at(-1)?.device.replace('/dev/', '') ?? '';
    await writeFile(`/sys/fs/ext4/${device}/trigger_fs_error`, 'made by the testbed');
  }

  state(init: Process): DiskState {
    const mount = mounts(init).at(-1);
    if (!mount) return 'normal';
    if (STOPPED.some((option) => mount.superblock.includes(option))) return 'failed';
    return mount.options.includes('ro') ? 'read-only' : 'normal';
  }

  /** Throws InvalidInput if it is a plain folder. */
  #mustBeOwn(): void {
    if (this.plain !== null) throw new VmferryError('InvalidInput', this.plain);
  }

  get #image(): string {
    return join(this.#host, IMAGE);
  }
  get #untried(): string {
    return `${this.#image}.untried`;
  }
  /** Says why there is no image. */
  get #reason(): string {
    return join(this.#host, 'plain-folder');
  }
  /** Link into the host's mount namespace. */
  get #view(): string {
    return join(this.#host, 'vmferry');
  }
  get #filler(): string {
    return join(this.#view, FILLER);
  }
}

const IMAGE = 'vmferry.img';

/** Where vmferry does not look. */
const FILLER = 'lost+found/filler';

/** What the kernel says of an ext4 that writes no more: after an error, on older kernels, after a power loss that was not completed. */
const STOPPED = ['emergency_ro', 'ro', 'shutdown'];

/** How long the kernel may take to unmount what no process uses any more. */
const RELEASE_MS = 3000;

/** Of these hosts without a process, those whose file system somebody still uses after a while. */
export async function stillAttached(testbed: string, hosts: string[]): Promise<string[]> {
  const images = hosts.map((name) => ({ name, image: join(testbed, name, IMAGE) }));
  for (const deadline = performance.now() + RELEASE_MS; ; await sleep(20)) {
    const held: string[] = [];
    for (const { name, image } of images) if (existsSync(image) && (await attached(image))) held.push(name);
    if (held.length === 0 || performance.now() > deadline) return held;
  }
}

/** Does a loop device hold this file, under whatever name? */
async function attached(path: string): Promise<boolean> {
  return (await run('losetup', ['--noheadings', '--output', 'NAME', '--associated', path])).stdout !== '';
}

interface Mount {
  device: string;
  options: string[];
  superblock: string[];
}

/** What is mounted on the state directory within a host; the last one is what its processes see. */
function mounts(init: Process): Mount[] {
  return readFileSync(`/proc/${init.pid}/mountinfo`, 'utf8')
    .split('\n')
    .flatMap((line) => {
      const [, , , , point, options = '', ...rest] = line.split(' ');
      if (point !== STATE_DIRECTORY) return [];
      const [, device = '', superblock = ''] = rest.slice(rest.indexOf('-') + 1);
      return [{ device, options: options.split(','), superblock: superblock.split(',') }];
    });
}

/** A file's length in blocks; 0 for none. */
async function blocksOf(path: string, block: number): Promise<number> {
  return existsSync(path) ? Math.ceil((await stat(path)).size / block) : 0;
}
