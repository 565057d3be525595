/** A testbed with many small guests, and vmferry's own client in this process to drive them. */
import { spawnSync } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { existsSync } from 'node:fs';
import { mkdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { openApi, type Api, type Orchestrator, type Running } from '../../client/api.ts';
import { loadProfile } from '../../client/profile.ts';
import { Testbed, type UpOptions } from '../../infra/testbed/testbed.ts';
import type { HostId, InstanceId, MoveOptions, MoveResult, PackageId } from '../../workflows/contract.ts';
import { VmferryError } from '../../workflows/failures.ts';

export interface Guest {
  id: InstanceId;
  name: string;
  ip: string;
  /** Where the last settled move left it. */
  host: HostId;
}

const TESTBED = new URL('../../infra/testbed/main.ts', import.meta.url).pathname;

const SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;

/** No fault keeps the catalog away for longer. */
const CATALOG_AWAY_MS = 120_000;

const DELETE_SECONDS = 120;

/** With less, the guest's kernel does not come up. */
export const GUEST_MEMORY = 128 * 1024 * 1024;

export class Fleet {
  readonly testbed: Testbed;
  readonly guests: Guest[] = [];
  #api: Api;
  readonly #leave = (signal: NodeJS.Signals): void => {
    if (isKept(this.testbed.directory)) process.exit(130);
    console.log(`${signal}: taking the testbed down`);
    // By another process, and without an event loop here: what the campaign is about would fail, and end this one first.
    const env = { ...process.env, VMFERRY_TESTBED: this.testbed.directory };
    spawnSync(process.execPath, [TESTBED, 'down'], { env, stdio: 'inherit' });
    process.exit(130);
  };

  private constructor(testbed: Testbed, api: Api) {
    this.testbed = testbed;
    this.#api = api;
  }

  static async up(options: Omit<UpOptions, 'directory'> = {}): Promise<Fleet> {
    const directory = join(tmpdir(), `vmferry-safety-${randomUUID().slice(0, 8)}`);
    const testbed = await upOrNothing({ ...options, directory });
    const profile = await loadProfile({ file: testbed.profilePath, env: process.env });
    const fleet = new Fleet(testbed, openApi(profile));
    // Whoever has enough of a campaign of hours finds nothing left of it.
    for (const signal of SIGNALS) process.once(signal, fleet.#leave);
    return fleet;
  }

  async down(): Promise<void> {
    await this.#api.close();
    for (const signal of SIGNALS) process.removeListener(signal, this.#leave);
    if (!isKept(this.testbed.directory)) await this.testbed.down();
  }

  temporal(): Promise<Orchestrator> {
    return this.#api.temporal();
  }

  /** Puts the test image on every host and boots `count` guests, in turn on each of `hosts`. */
  async spawn(count: number, hosts: readonly HostId[]): Promise<void> {
    const temporal = await this.temporal();
    const { disk, kernel, initrd, cmdline } = this.testbed.imagePaths;
    const never = new AbortController().signal;
    const [first = ''] = this.testbed.hosts;
    const adding = await temporal.start('addImage', {
      ...{ host: first, path: disk, kernelPath: kernel, initrdPath: initrd, cmdline },
    });
    const image = await adding.result(never);
    for (const destination of this.testbed.hosts.slice(1)) {
      await (await temporal.start('pull', { kind: 'image', id: image.id, destination })).result(never);
    }
    const born = Array.from({ length: count }, (_, index) => index).map(async (index) => {
      const host = hosts[index % hosts.length] ?? first;
      const name = `guest${String(this.guests.length + index + 1).padStart(2, '0')}`;
      const spawning = await temporal.start('spawn', {
        ...{ instanceId: randomUUID(), host, imageId: image.id, name },
        ...{ memoryBytes: GUEST_MEMORY, vcpus: 1, domainType: 'qemu' as const },
      });
      const { instanceId, address } = await spawning.result(never);
      return { id: instanceId, name, ip: address.ip, host };
    });
    this.guests.push(...(await Promise.all(born)));
    await Promise.all(this.guests.map((guest) => this.answers(guest, guest.host)));
  }

  /** Resolves when the guest answers on a host. */
  async answers(guest: Guest, host: HostId, seconds = 240): Promise<void> {
    for (const deadline = Date.now() + seconds * 1000; ; await sleep(500)) {
      try {
        await this.testbed.guestStatus(host, guest.ip);
        return;
      } catch (cause) {
        if (Date.now() < deadline) continue;
        throw new VmferryError('HostUnreachable', `${guest.name} does not answer on ${host}`, { cause });
      }
    }
  }

  /** Looks up where guests are, by the catalog, as soon as it can be asked. */
  async locate(guests: readonly Guest[] = this.guests): Promise<void> {
    for (const deadline = Date.now() + CATALOG_AWAY_MS; ; await sleep(500)) {
      try {
        const catalog = await this.#api.catalog();
        for (const guest of guests) guest.host = (await catalog.findInstance(guest.id)).host;
        return;
      } catch (error) {
        const away = error instanceof VmferryError && error.type === 'CatalogUnreachable';
        if (!away || Date.now() > deadline) throw error;
      }
    }
  }

  /** Moves that have not come to an end, by the catalog. */
  async openMoves(): Promise<string[]> {
    const moves = await (await this.#api.catalog()).moves({ openOnly: true });
    return moves.map(({ id, instanceName, phase }) => `${id} of ${instanceName}: ${phase}`);
  }

  /** What moves of these guests have left for a later restore, by the catalog. */
  async packages(guests: readonly Guest[]): Promise<PackageId[]> {
    const rows = await (await this.#api.catalog()).packages();
    return rows.filter(({ instanceId }) => guests.some(({ id }) => id === instanceId)).map(({ id }) => id);
  }

  async deletePackages(ids: readonly PackageId[]): Promise<void> {
    const temporal = await this.temporal();
    const deleting = ids.map(async (packageId) => {
      await this.end(await temporal.start('deletePackage', { packageId }), DELETE_SECONDS);
    });
    await Promise.all(deleting);
  }

  async migrate(guest: Guest, destination: HostId, options: MoveOptions = {}): Promise<Running<MoveResult>> {
    const input = { instanceId: guest.id, destination, options };
    return (await this.temporal()).start('migrate', input, { instanceName: guest.name, source: guest.host });
  }

  /** A workflow's end, however often Temporal is away meanwhile. Throws as the workflow failed, or after the limit. */
  async end<T>(running: Running<T>, limitSeconds: number): Promise<T> {
    const limit = AbortSignal.timeout(Math.ceil(limitSeconds * 1000));
    for (;;) {
      try {
        return await running.result(limit);
      } catch (error) {
        if (limit.aborted || !(error instanceof VmferryError) || error.type !== 'ServerUnreachable') throw error;
        await sleep(500);
      }
    }
  }

  /** Waits for whatever moves the guest now, also if nobody was told that it was begun. */
  async idle(guest: Guest, limitSeconds: number): Promise<void> {
    const running = await (await this.temporal()).runningOn(guest.id);
    // How it ends is seen by what it leaves.
    await (running && this.end(running, limitSeconds).catch(() => undefined));
  }

  /** Asks a worker to stop at a point of one instance's move; see workers/fault-points.ts. */
  async hold(where: string, point: string, instance: InstanceId): Promise<Held> {
    const folder =
      where === 'control'
        ? join(this.testbed.directory, 'faults')
        : this.testbed.outside(where, '/var/lib/vmferry-faults');
    await mkdir(folder, { recursive: true });
    const path = join(folder, `${point}.${instance}`);
    await rm(`${path}.reached`, { force: true });
    await writeFile(path, '');
    return {
      reached: () => existsSync(`${path}.reached`),
      release: async () => {
        await rm(path, { force: true });
        await rm(`${path}.reached`, { force: true });
      },
    };
  }
}

export interface Held {
  /** Does the worker stand there? */
  reached: () => boolean;
  /** Lets it go on; also takes back a request that was not reached. */
  release: () => Promise<void>;
}

/** Does whoever runs this want to look into the testbed afterwards? Says where it is. */
function isKept(directory: string): boolean {
  if (process.env['VMFERRY_KEEP'] === undefined) return false;
  console.log(`kept: VMFERRY_TESTBED=${directory}`);
  return true;
}

/** A testbed; or an error, and nothing of it is left, unless whoever runs this wants to look into it. */
async function upOrNothing(options: UpOptions & { directory: string }): Promise<Testbed> {
  const interruption = new AbortController();
  const interrupt = (signal: NodeJS.Signals): void => interruption.abort(new Error(`interrupted by ${signal}`));
  // Not `once`: execa sends itself a signal again that nobody listens for any more.
  for (const signal of SIGNALS) process.on(signal, interrupt);
  try {
    return await Testbed.up({ ...options, signal: interruption.signal });
  } catch (error) {
    if (!isKept(options.directory)) {
      await Testbed.down(options.directory).catch((second: unknown) => {
        throw new AggregateError([error, second], `the testbed in ${options.directory} neither came up nor went down`);
      });
    }
    throw error;
  } finally {
    for (const signal of SIGNALS) process.removeListener(signal, interrupt);
  }
}
