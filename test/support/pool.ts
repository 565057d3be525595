/** A testbed with two hosts and one running guest, as the end-to-end tests use it, and the CLI to drive it. */
import { mkdtempSync } from 'node:fs';
import { mkdir, readdir, rm, writeFile } from 'node:fs/promises';
import { existsSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import assert from 'node:assert/strict';
import { execa } from 'execa';
import type { Mark } from '../../activities/marks.ts';
import { Testbed } from '../../infra/testbed/testbed.ts';

const REPOSITORY = new URL('../..', import.meta.url).pathname;

/** Why the end-to-end tests cannot run here, or false. */
export const cannotRun: string | false = process.getuid?.() === 0 ? false : 'simulated hosts need root';

export interface Outcome {
  exitCode: number;
  /** Parsed standard output of `--output json`; undefined if there was none. */
  json: unknown;
  stderr: string;
}

export interface Guest {
  id: string;
  ip: string;
}

export class Pool {
  readonly testbed: Testbed;

  private constructor(testbed: Testbed) {
    this.testbed = testbed;
  }

  static async up(hosts = 2): Promise<Pool> {
    const directory = mkdtempSync(join(tmpdir(), 'vmferry-e2e-'));
    await rm(directory, { recursive: true });
    return new Pool(await Testbed.up({ hosts, directory }));
  }

  async down(): Promise<void> {
    if (process.env['VMFERRY_KEEP'] === undefined) await this.testbed.down();
    else console.log(`kept: VMFERRY_TESTBED=${this.testbed.directory}`);
  }

  /** Runs the CLI to its end, whatever its exit code. */
  async cli(...args: string[]): Promise<Outcome> {
    const { exitCode, stdout, stderr } = await execa(
      process.execPath,
      [join(REPOSITORY, 'client/main.ts'), '--output', 'json', ...args],
      { env: { VMFERRY_PROFILE: this.testbed.profilePath }, reject: false, stdin: 'ignore' },
    );
    return { exitCode: exitCode ?? -1, json: stdout.trim() === '' ? undefined : JSON.parse(stdout), stderr };
  }

  /** As `cli`, for commands that must succeed. */
  async ok<T>(...args: string[]): Promise<T> {
    const { exitCode, json, stderr } = await this.cli(...args);
    assert.equal(exitCode, 0, `vmferry ${args.join(' ')} ended with ${exitCode}: ${stderr}`);
    return json as T;
  }

  /** Adds the guest image at a host. Idempotent. */
  addImage(host: string): Promise<{ id: string }> {
    const { disk, kernel, initrd, cmdline } = this.testbed.imagePaths;
    const boot = ['--kernel', kernel, '--initrd', initrd, '--cmdline', cmdline];
    return this.ok('images', 'add', disk, '--host', host, ...boot);
  }

  /** Adds the guest image at a host and boots an instance there; resolves when it answers HTTP. */
  async spawn(host: string, name: string, options: string[] = []): Promise<Guest> {
    const image = await this.addImage(host);
    const instance = await this.ok<{ instanceId: string; address: { ip: string } }>(
      ...['images', 'spawn', image.id, '--host', host, '--name', name, ...options],
    );
    const guest = { id: instance.instanceId, ip: instance.address.ip };
    await this.answers(host, guest);
    return guest;
  }

  async answers(host: string, guest: Guest, seconds = 60): Promise<void> {
    for (const deadline = Date.now() + seconds * 1000; ; await sleep(200)) {
      try {
        await this.testbed.guestStatus(host, guest.ip);
        return;
      } catch (error) {
        if (Date.now() > deadline) throw error;
      }
    }
  }

  /** Hosts where the instance is active, and where it is defined or active. By libvirt itself. */
  async whereabouts(guest: Guest): Promise<{ runningOn: string[]; knownOn: string[] }> {
    const runningOn: string[] = [];
    const knownOn: string[] = [];
    for (const host of this.testbed.hosts) {
      const list = async (...flags: string[]): Promise<boolean> =>
        (await this.testbed.exec(host, ['virsh', '-q', 'list', '--uuid', ...flags])).stdout.includes(guest.id);
      if (await list('--state-running')) runningOn.push(host);
      if (await list('--all')) knownOn.push(host);
    }
    return { runningOn, knownOn };
  }

  /** What a settled move must leave and what it must not, on every host. */
  async violations(guest: Guest, owner: string): Promise<string[]> {
    const found: string[] = [];
    const { runningOn, knownOn } = await this.whereabouts(guest);
    if (runningOn.join() !== owner) found.push(`runs on [${runningOn.join()}], not on ${owner} alone`);
    if (knownOn.join() !== owner) found.push(`known to libvirt on [${knownOn.join()}], not on ${owner} alone`);
    for (const host of this.testbed.hosts) {
      for (const folder of ['moves', 'staging', 'incoming']) {
        const path = this.testbed.outside(host, `/var/lib/vmferry/${folder}`);
        const left = existsSync(path) ? await readdir(path) : [];
        if (left.length > 0) found.push(`${host} keeps ${folder}/${left.join(', ')}`);
      }
      const instance = this.testbed.outside(host, `/var/lib/vmferry/instances/${guest.id}`);
      const copies = existsSync(instance) ? (await readdir(instance)).filter((name) => /^g[0-9]+$/.test(name)) : [];
      if (copies.length !== (host === owner ? 1 : 0)) found.push(`${host} keeps working copies ${copies.join(', ')}`);
      const network = (await this.testbed.exec(host, ['virsh', '-q', 'net-dumpxml', 'guests'])).stdout;
      if (network.includes(`'${guest.ip}'`) !== (host === owner)) {
        found.push(`${host} ${host === owner ? 'lacks' : 'keeps'} the DHCP entry of ${guest.ip}`);
      }
    }
    const { gaps, torn } = await this.testbed.guestDiskCheck(owner, guest.ip);
    if (gaps > 0 || torn > 0) found.push(`the guest’s file has ${gaps} gaps and ${torn} torn lines`);
    return found;
  }

  /** Asks a worker to stop at a point of an activity; see workers/fault-points.ts and activities/marks.ts. */
  async hold(where: string, activity: string, point: 'before' | 'after' | Mark): Promise<Held> {
    const folder =
      where === 'control'
        ? join(this.testbed.directory, 'faults')
        : this.testbed.outside(where, '/var/lib/vmferry-faults');
    await mkdir(folder, { recursive: true });
    const path = join(folder, `${activity}.${point}`);
    await rm(`${path}.reached`, { force: true });
    await writeFile(path, '');
    return {
      reached: async (seconds = 240) => {
        for (const deadline = Date.now() + seconds * 1000; !existsSync(`${path}.reached`); await sleep(20)) {
          assert.ok(Date.now() < deadline, `${where} did not come to ${activity}.${point} within ${seconds} s`);
        }
      },
      release: async () => {
        await rm(path, { force: true });
        await rm(`${path}.reached`, { force: true });
      },
    };
  }
}

export interface Held {
  /** Resolves when the worker stands there. */
  reached: (seconds?: number) => Promise<void>;
  /** Lets it go on; also takes back a request that was not reached. */
  release: () => Promise<void>;
}
