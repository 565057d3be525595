/**
 * Simulated hosts on one machine, with everything that vmferry needs around them. Used by `npm run testbed`, the demo,
 * the end-to-end tests and the benchmark. Needs root.
 *
 * Everything that runs is found by its mark (processes.ts), everything that is stored lies in one directory, and all
 * interfaces and mounts belong to namespaces that end with their processes. So `down` leaves nothing, whenever it is
 * called, and an interrupted `up` can be repeated. Nothing that dies is started again by itself.
 */
import { randomBytes } from 'node:crypto';
import { existsSync, readFileSync } from 'node:fs';
import { readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { run, type RunOptions, type RunResult } from '../../activities/exec/run.ts';
import { createPoolKey, loadPoolKey } from '../../activities/trust/pool-key.ts';
import { VmferryError } from '../../workflows/failures.ts';
import { Control, type ControlDaemon } from './control.ts';
import { stillAttached } from './disk.ts';
import { ensureGuest, guestImage, type GuestImage } from './guest/guest.ts';
import { GUEST_DIRECTORY, Host, HOST_NAMES, REPOSITORY, type HostDaemon } from './host.ts';
import { heal } from './heal.ts';
import { Links, type CutOptions, type FlapOptions } from './links.ts';
import { connectHost, connectMachine, disconnectMachine, hostConnected, machineConnected, network } from './network.ts';
import {
  end,
  find,
  freeze,
  frozen,
  markedProcesses,
  orphanedHelpers,
  startDaemon,
  thaw,
  type Argv,
  type Process,
} from './processes.ts';
import { installProfile, removeProfile, writeProfile, type ProfileSettings } from './profile.ts';
import { together } from './together.ts';
import { claimDirectory, loadState, saveState, testbedDirectory, withTestbedLock, type State } from './state.ts';

export interface UpOptions {
  /** How many hosts; those that are there already stay. Default 2. */
  hosts?: number;
  /** Default: VMFERRY_TESTBED, else /tmp/vmferry-testbed. */
  directory?: string;
  /** Hosts with libvirt alone: no workers, no Temporal, no catalog. */
  bare?: boolean;
  /** Leave the pool empty. */
  noNodes?: boolean;
  /** Size of the file system for what vmferry keeps on a new host, in MiB; sparse. Default 8192. 0: a plain folder. */
  diskMib?: number;
  /** Told what is being done. */
  log?: (line: string) => void;
  /** Gives up between two steps; what was made stays for `down`. */
  signal?: AbortSignal;
}

/** Daemons, QEMU processes, or the whole host. */
export type HostPart = Exclude<HostDaemon, 'virtlogd'> | 'qemu' | 'host';

/** Told the host; the power goes when it is done. */
export type LastLook = (host: string) => void | Promise<void>;

/** What the guest says about itself; see guest/guest.c. */
export interface GuestStatus {
  /** Ticks of 100 ms since boot, counted in RAM. */
  counter: number;
  /** Drawn at boot, in RAM only. */
  token: string;
  bootId: string;
  /** Its clock, in milliseconds since the epoch. */
  wall: number;
  /** Seconds since boot. */
  uptime: number;
  hostname: string;
}

/** What the guest finds in its counter file, read from the disk and not from its cache. */
export interface GuestDiskCheck {
  lines: number;
  first: number;
  last: number;
  /** Places where a count is missing. */
  gaps: number;
  /** Lines that are not whole. */
  torn: number;
  /** How often the guest has booted; each time it counts from 1. */
  boots: number;
}

export interface PartStatus {
  where: string;
  what: string;
  pid: number | null;
  /** It stands still; see `freeze`. */
  frozen: boolean;
  log: string | null;
}

export class Testbed {
  readonly directory: string;
  #state: State;
  readonly #lookers = new Set<LastLook>();

  private constructor(directory: string, state: State) {
    this.directory = directory;
    this.#state = state;
  }

  /** Makes a testbed, or completes the one that is there. */
  static async up(options: UpOptions = {}): Promise<Testbed> {
    const { hosts = 2, bare = false, log = (): void => undefined } = options;
    if (!Number.isInteger(hosts) || hosts < 1 || hosts > HOST_NAMES.length) {
      throw new VmferryError('InvalidInput', `A testbed has 1 to ${HOST_NAMES.length} hosts, not ${hosts}`);
    }
    if (options.diskMib !== undefined && !(options.diskMib === 0 || options.diskMib >= MIN_DISK_MIB)) {
      throw new VmferryError('InvalidInput', `A disk has ${MIN_DISK_MIB} MiB or more, or 0 for a plain folder`);
    }
    if (process.getuid?.() !== 0) throw new VmferryError('InvalidInput', 'The testbed makes namespaces and needs root');
    const directory = testbedDirectory(options.directory);
    return withTestbedLock(directory, async () => {
      await claimDirectory(directory);
      await end(orphanedHelpers(directory));
      const testbed = new Testbed(directory, (await loadState(directory)) ?? emptyState(bare));
      if (testbed.#state.bare && !bare) {
        throw new VmferryError('InvalidInput', `The testbed in ${directory} is a bare one; take it down first`);
      }
      const names = HOST_NAMES.slice(0, hosts).filter((name) => !testbed.hosts.includes(name));
      await testbed.#save({ hosts: [...testbed.hosts, ...names] });
      await testbed.#up(options, log);
      return testbed;
    });
  }

  /** The testbed that is there. Throws FileNotFound if there is none. */
  static async open(directory?: string): Promise<Testbed> {
    const path = testbedDirectory(directory);
    const state = await loadState(path);
    if (!state)
      throw new VmferryError('FileNotFound', `There is no testbed in ${path}; \`npm run testbed -- up\` makes one`);
    return new Testbed(path, state);
  }

  get hosts(): string[] {
    return [...this.#state.hosts];
  }

  get bare(): boolean {
    return this.#state.bare;
  }

  /** Of Temporal; reached from this machine alone. */
  get uiUrl(): string {
    return `http://${network.wan(this.#index)}:8233`;
  }

  get temporalAddress(): string {
    return `${network.wan(this.#index)}:7233`;
  }

  /** Read-only. */
  get catalogUrl(): string {
    return this.#control.catalogUrl;
  }

  get profilePath(): string {
    return join(this.directory, 'profile.toml');
  }

  /** The operator's key, private part included. */
  get poolDirectory(): string {
    return join(this.directory, 'pool');
  }

  /** The guest's files as the hosts see them. */
  get imagePaths(): GuestImage {
    return guestImage(GUEST_DIRECTORY);
  }

  /**
   * Path on the machine of a file below a host's /etc or /var. Of /var/lib/vmferry there is nothing while the host is off;
   * a file of it that is open then cannot be read any more.
   */
  outside(host: string, path: string): string {
    return this.#host(host).outside(path);
  }

  /** Runs a command on a host to its end. Throws CommandFailed, or HostUnreachable while the host is off. */
  async exec(host: string, command: Argv, options?: RunOptions): Promise<RunResult> {
    return this.#host(host).exec(command, options);
  }

  /** The command by which the machine runs `command` on a host. `wan` is the world between the hosts. */
  enter(host: string, command: Argv): Argv {
    if (host === 'wan') return ['nsenter', '-t', String(this.#wan().pid), '-n', '--', ...command];
    return this.#host(host).enter(command);
  }

  /** Limits a host's link in both directions, or what goes between it and `other`, until told otherwise: `100mbit`, `none`. */
  async rate(host: string, rate: string, other?: string): Promise<void> {
    await this.#links.rate(host, rate, other);
  }

  /**
   * Pulls the host's cable; both ends notice. With options, frames get lost on their way though the cable is in: one way,
   * or between the host and one other party. Cuts add up.
   */
  async cut(host: string, options: CutOptions = {}): Promise<void> {
    await this.#links.cut(host, options);
  }

  /** Undoes every cut of this host, or those between it and one other party (a host, or `temporal`). */
  async join(host: string, from?: string): Promise<void> {
    await this.#links.join(host, from);
  }

  /** Loses all frames of a host for `down` ms, lets them through for `up` ms, `cycles` times; the link is joined then. */
  async flap(host: string, options: FlapOptions): Promise<void> {
    await this.#links.flap(host, options);
  }

  /**
   * Kills a daemon (`control`: worker, temporal, postgres), QEMUs (`qemu`: all of a host, `qemu:INSTANCE`: one), or the
   * host as a power loss does. Throws InstanceNotFound if no QEMU runs the instance there.
   */
  async kill(where: string, what: string, signal: NodeJS.Signals = 'SIGKILL'): Promise<void> {
    if (signal === 'SIGSTOP' || signal === 'SIGCONT') {
      throw new VmferryError('InvalidInput', `${signal} ends nothing; use freeze and thaw`);
    }
    if (where === 'control') return this.#control.end(controlPart(what), signal);
    const host = this.#host(where);
    const { part, instance } = hostPart(what);
    if (part === 'host') {
      return host.powerOff(() => together([...this.#lookers].map(async (look) => look(where))));
    }
    if (part === 'qemu') return end(present(host.qemus(instance), where, instance), signal);
    if (part === 'second-worker') return host.endSecondWorker(signal);
    await host.endDaemon(part, signal);
  }

  /**
   * Calls `look` whenever a host is about to lose its power: nothing on it moves any more, and what it has written but not
   * synced can be read for the last time. Who has files of its disk open closes them now. Answers how to end that.
   */
  beforePowerLoss(look: LastLook): () => void {
    this.#lookers.add(look);
    return () => this.#lookers.delete(look);
  }

  /** A power loss, and a boot with libvirtd and worker. */
  async reboot(host: string): Promise<void> {
    await this.kill(host, 'host');
    await this.start(host, 'host');
  }

  /** Starts what was killed and waits until it serves. A host boots with its libvirtd and worker. */
  async start(where: string, what: string): Promise<void> {
    if (where === 'control') return this.#control.start(controlPart(what));
    const host = this.#host(where);
    const { part } = hostPart(what);
    if (part === 'qemu') throw new VmferryError('InvalidInput', 'Guests are started with virsh or vmferry');
    if (part === 'libvirtd') return host.startLibvirt();
    if (part === 'worker') return host.startWorker();
    if (part === 'second-worker') return host.startSecondWorker();
    await this.#boot(host);
    if (!this.bare) await host.startWorker();
  }

  /**
   * Stops something where it is (SIGSTOP): a daemon with its children, QEMUs, or with `host` all that runs on a host. It
   * keeps its locks, ports and connections, and knows nothing of the time that passes. Killing works on frozen things.
   */
  async freeze(where: string, what: string): Promise<void> {
    const { instance } = where === 'control' ? {} : hostPart(what);
    if (instance !== undefined) present(this.#processes(where, what), where, instance);
    await freeze(() => this.#processes(where, what));
  }

  /** Lets it go on. No-op for what is not frozen, or not there. */
  async thaw(where: string, what: string): Promise<void> {
    await thaw(() => this.#processes(where, what));
  }

  /** Why the disk of this host takes no faults; null if it does. */
  diskFaultless(host: string): string | null {
    return this.#host(host).disk.plain;
  }

  /**
   * Takes all space on the disk for what vmferry keeps, but this much. The next write gets ENOSPC. A guest that needs a new
   * cluster is paused by QEMU (`virsh domstate --reason`: I/O error) and stays so.
   */
  async fillDisk(host: string, leaveBytes = 0): Promise<void> {
    await this.#host(host).fillDisk(leaveBytes);
  }

  /** Gives the space back. Guests that were paused for want of it stay paused: `virsh resume` is for vmferry or people. */
  async freeDisk(host: string): Promise<void> {
    await this.#host(host).freeDisk();
  }

  /**
   * Makes what vmferry keeps read-only (EROFS). Files that are open for writing stay so: running guests notice nothing.
   * Over with the host's power, too.
   */
  async readOnly(host: string): Promise<void> {
    await this.#host(host).readOnly();
  }

  /**
   * Makes the disk fail: ext4 meets an error, forgets what it has not yet written and refuses all writing from now on. Running
   * guests get I/O errors.
   */
  async failDisk(host: string): Promise<void> {
    await this.#host(host).failDisk();
  }

  /** Undoes `readOnly`. A disk that has failed is repaired as in real life, by a reboot: it ends all guests of the host. */
  async readWrite(name: string): Promise<void> {
    const host = this.#host(name);
    if (host.diskState === 'failed') await this.reboot(name);
    else await host.readWrite();
  }

  /**
   * Sets a host's clock ahead by so many seconds, or back, or right again with 0: libvirtd and workers are killed and started
   * again where they ran, and all that starts later has that clock, after a boot as well. Running guests keep theirs. Clocks
   * that count from the boot are right, and times of files are the machine's. No-op if the clock is so.
   */
  async skewClock(name: string, seconds: number): Promise<void> {
    const host = this.#host(name);
    if (!Number.isInteger(seconds)) throw new VmferryError('InvalidInput', `${seconds} is no number of seconds`);
    if (host.clock === seconds) return;
    const running = (['libvirtd', 'worker', 'second-worker'] as const).filter((what) => host.daemon(what));
    for (const what of running.toReversed()) await this.kill(name, what);
    await host.setClock(seconds);
    for (const what of running) await this.start(name, what);
  }

  /**
   * Undoes every fault, whatever they are together, and starts whatever is down: all of the testbed serves then. Guests are
   * left as they are: what a power loss has ended or a full disk has paused is for vmferry or people. Answers what it did.
   */
  async heal(): Promise<string[]> {
    this.#state = (await loadState(this.directory)) ?? this.#state;
    const control = this.bare ? null : this.#control;
    return heal(this, { hosts: this.hosts.map((name) => this.#host(name)), control, links: this.#links });
  }

  /** Everything that belongs to the testbed, and its pid on the machine; null for what does not run. */
  status(): PartStatus[] {
    const part = (where: string, what: string, process: Process | null, log: string | null): PartStatus => ({
      where,
      what,
      pid: process?.pid ?? null,
      frozen: process !== null && frozen(process),
      log,
    });
    const control = this.bare ? [] : (['temporal', 'postgres', 'worker'] as const);
    return [
      ...control.map((what) => part('control', what, this.#control.daemon(what), this.#control.log(what))),
      ...this.hosts.flatMap((name) => {
        const host = this.#host(name);
        const daemons = ['virtlogd', 'libvirtd', ...(this.bare ? [] : (['worker'] as const))] as const;
        return [
          part(name, 'host', host.init, host.log('host')),
          ...daemons.map((what) => part(name, what, host.daemon(what), host.log(what))),
          ...host
            .family('second-worker')
            .filter(({ leader }) => leader)
            .map((second) => part(name, 'second-worker', second, host.log('second-worker'))),
          ...host.qemus().map((qemu) => part(name, 'qemu', qemu, null)),
        ];
      }),
    ];
  }

  /** What an instance (UUID, its beginning, or name) has printed on its serial console, on whatever host it was. */
  async console(instance: string): Promise<string> {
    const id =
      (await this.#instanceIds()).find((known) => known.startsWith(instance)) ?? (await this.#idOfName(instance));
    const found: { generation: number; path: string }[] = [];
    for (const host of this.hosts) {
      const folder = this.outside(host, `/var/lib/vmferry/instances/${id}`);
      for (const name of id !== null && existsSync(folder) ? await readdir(folder) : []) {
        const path = join(folder, name, 'serial.log');
        const generation = Number(/^g(\d+)$/.exec(name)?.[1]);
        if (generation > 0 && existsSync(path)) found.push({ generation, path });
      }
    }
    if (found.length === 0) {
      throw new VmferryError('InstanceNotFound', `No host has a serial log of an instance ${instance}`);
    }
    const inOrder = found.sort((one, other) => one.generation - other.generation);
    return inOrder.map(({ path }) => readFileSync(path, 'utf8')).join('');
  }

  /** Asks a guest for `path` from within a host's network. Throws CommandFailed if it does not answer in time. */
  async guestGet(host: string, ip: string, path: string, seconds = 60): Promise<unknown> {
    // No curl on a fresh Debian, and busybox's wget crashes with a time limit.
    const script = 'exec 3<>"/dev/tcp/$1/80"; printf "GET %s HTTP/1.0\\r\\n\\r\\n" "$2" >&3; cat <&3';
    const { stdout } = await this.exec(host, ['timeout', String(seconds), 'bash', '-c', script, 'get', ip, path]);
    const [head = '', ...body] = stdout.split(/\r?\n\r?\n/);
    if (!/^HTTP\/1\.\d 200 /.test(head)) {
      throw new VmferryError('CommandFailed', `The guest at ${ip} answers GET ${path} with: ${stdout.slice(0, 200)}`);
    }
    return JSON.parse(body.join('\n\n'));
  }

  async guestStatus(host: string, ip: string): Promise<GuestStatus & { host: string }> {
    return { ...((await this.guestGet(host, ip, '/', 5)) as GuestStatus), host };
  }

  async guestDiskCheck(host: string, ip: string): Promise<GuestDiskCheck> {
    return (await this.guestGet(host, ip, '/check')) as GuestDiskCheck;
  }

  /** Makes this testbed's profile the one that the client finds by itself; false if another is in use there. */
  installProfile(): Promise<boolean> {
    return installProfile(this.directory, this.#profile());
  }

  /** Removes everything. */
  down(): Promise<void> {
    return Testbed.down(this.directory);
  }

  /** Removes the testbed of a directory, whatever is left of it. No-op where there is none. */
  static async down(directory?: string): Promise<void> {
    const path = testbedDirectory(directory);
    await withTestbedLock(path, async () => {
      const state = await loadState(path);
      // The wrappers that wait for a daemon reap it and end; killed together with it, they would leave it to the machine's
      // first process, which may take its time.
      await end(markedProcesses(path).filter(({ leader }) => leader));
      for (let sweep = 0; markedProcesses(path).length > 0; sweep++) {
        await sleep(50);
        if (sweep >= 20) await end(markedProcesses(path));
      }
      if (!state) return;
      if (state.index !== null) await disconnectMachine(state.index);
      const held = await stillAttached(path, state.hosts);
      await removeProfile(path);
      await rm(path, { recursive: true, force: true, maxRetries: 5, retryDelay: 100 });
      if (held.length > 0) {
        const whose = `what was the disk of ${held.join(', ')} open`;
        throw new VmferryError('Internal', `Some process keeps ${whose}; the loop device goes when it closes that`);
      }
    });
  }

  async #up({ noNodes = false, diskMib = DISK_MIB, signal }: UpOptions, log: (line: string) => void): Promise<void> {
    const guest = await ensureGuest(log);
    signal?.throwIfAborted();
    await this.#connect();
    log(`testbed ${this.#index} in ${this.directory}`);
    const hosts = this.hosts.map((name) => this.#host(name));
    const boot = async (host: Host): Promise<void> => {
      await this.#boot(host, { guest: guest.directory, diskMib });
      log(`${host.name}: libvirtd runs`);
    };
    if (this.bare) return together(hosts.map(boot));

    await writeProfile(this.directory, this.#profile());
    if (!(await loadPoolKey(this.poolDirectory))) await createPoolKey(this.poolDirectory);
    const temporal = this.#control.start('temporal').then(() => log('Temporal runs'));
    const control = async (): Promise<void> => {
      await together([temporal, this.#control.start('postgres')]);
      signal?.throwIfAborted();
      await this.#control.start('worker');
      log('PostgreSQL and the control worker run');
    };
    const pool = async (host: Host): Promise<void> => {
      await together([temporal, boot(host)]);
      signal?.throwIfAborted();
      await host.startWorker();
      log(`${host.name}: the host worker runs`);
    };
    await together([control(), ...hosts.map(pool)]);
    signal?.throwIfAborted();
    if (!noNodes) await together(hosts.map((host) => this.#addNode(host, log)));
  }

  /** The world between the hosts, and the machine's place in it. */
  async #connect(): Promise<void> {
    const old = find(this.directory, 'wan');
    if (old && this.#state.index !== null && (await machineConnected(this.#state.index))) return;
    // An `up` was interrupted before it was of use. A Temporal in an old namespace would be out of reach.
    await end(markedProcesses(this.directory).filter(({ part }) => part === 'wan' || part === 'control/temporal'));
    const wan = await startDaemon({
      directory: this.directory,
      part: 'wan',
      command: ['sleep', 'infinity'],
      within: (launched) => ['unshare', '--net', '--', ...launched],
      log: join(this.directory, 'log/wan.log'),
      ready: () => Promise.resolve(true),
    });
    await this.#save({ index: await connectMachine(wan, this.#state.index) });
  }

  async #boot(host: Host, options: { guest?: string; diskMib?: number } = {}): Promise<void> {
    const { guest = (await ensureGuest()).directory, diskMib = DISK_MIB } = options;
    const index = this.#index;
    const position = positionOf(host.name);
    const address = network.host(index, position);
    if (!host.init) {
      await host.install({
        address,
        neighbours: Object.fromEntries(HOST_NAMES.map((name, other) => [name, network.host(index, other)])),
        temporal: this.bare ? null : this.temporalAddress,
        poolKey: join(this.poolDirectory, 'pool.pub'),
        diskMib,
        location: LOCATIONS[position % LOCATIONS.length] ?? '',
      });
    }
    const init = await host.boot(guest);
    if (!(await hostConnected(init))) {
      await connectHost(this.#wan(), host.name, init, address, network.machine(index));
      await this.#links.restore(host.name);
    }
    await host.startLibvirt();
  }

  /** Adds a host to the pool as an operator does, its fingerprint taken from the host itself and not from the network. */
  async #addNode(host: Host, log: (line: string) => void): Promise<void> {
    const command = ['nodes', 'add', host.name, '--fingerprint', await host.fingerprint()];
    const { stdout } = await run(process.execPath, [join(REPOSITORY, 'client/main.ts'), ...command], {
      env: { VMFERRY_PROFILE: this.profilePath },
    });
    log(stdout.trim());
  }

  /** Instances of which a host keeps anything. */
  async #instanceIds(): Promise<string[]> {
    const folders = this.hosts.map((host) => this.outside(host, '/var/lib/vmferry/instances'));
    return (await Promise.all(folders.filter(existsSync).map((folder) => readdir(folder)))).flat();
  }

  async #idOfName(name: string): Promise<string | null> {
    for (const host of this.hosts.filter((candidate) => this.#host(candidate).init)) {
      const { exitCode, stdout } = await this.exec(host, ['virsh', '--quiet', 'domuuid', name], {
        okExitCodes: [0, 1],
      });
      if (exitCode === 0) return stdout.trim();
    }
    return null;
  }

  get #links(): Links {
    return new Links({
      state: () => this.#state,
      save: (change) => this.#save(change),
      wan: () => this.#wan(),
      init: (host) => this.#host(host).init,
      address: (host) => network.host(this.#index, positionOf(host)),
    });
  }

  /** The processes that are a part of the testbed, as they are now. */
  #processes(where: string, what: string): Process[] {
    if (where === 'control') return this.#control.family(controlPart(what));
    const host = this.#host(where);
    const { part, instance } = hostPart(what);
    if (part === 'host') return host.processes();
    if (part === 'qemu') return host.qemus(instance);
    return host.family(part);
  }

  #host(name: string): Host {
    if (!this.hosts.includes(name)) {
      throw new VmferryError('HostNotFound', `The testbed has no host ${name}, only ${this.hosts.join(', ')}`);
    }
    return new Host(this.directory, name);
  }

  get #control(): Control {
    return new Control(this.directory, {
      temporal: this.temporalAddress,
      wan: () => this.#wan(),
      catalogPort: network.catalogPort(this.#index),
      passwords: this.#state.passwords,
    });
  }

  get #index(): number {
    if (this.#state.index === null) {
      throw new VmferryError('HostUnreachable', `The testbed in ${this.directory} is not complete; run \`up\` again`);
    }
    return this.#state.index;
  }

  #wan(): Process {
    const wan = find(this.directory, 'wan');
    if (!wan)
      throw new VmferryError('HostUnreachable', `The testbed in ${this.directory} has no network; run \`up\` again`);
    return wan;
  }

  #profile(): ProfileSettings {
    const { temporalAddress: temporal, catalogUrl, poolDirectory: pool, uiUrl } = this;
    return { temporal, catalogUrl, pool, uiUrl };
  }

  async #save(change: Partial<State>): Promise<void> {
    this.#state = { ...this.#state, ...change };
    await saveState(this.directory, this.#state);
  }
}

/** Of the file system for what vmferry keeps, if nothing else is asked for. */
const DISK_MIB = 8192;

/** ext4 with a journal. */
const MIN_DISK_MIB = 64;

/** Where the hosts say that they are, in turn. */
const LOCATIONS = ['north', 'south', 'east', 'west'];

function emptyState(bare: boolean): State {
  const password = (): string => randomBytes(18).toString('hex');
  const passwords = { owner: password(), reader: password() };
  return { version: 1, index: null, hosts: [], bare, links: {}, losses: [], slowPairs: [], passwords };
}

const positionOf = (host: string): number => HOST_NAMES.findIndex((name) => name === host);

function hostPart(what: string): { part: HostPart; instance?: string } {
  if (what.startsWith('qemu:')) return { part: 'qemu', instance: what.slice('qemu:'.length) };
  const parts: HostPart[] = ['worker', 'second-worker', 'libvirtd', 'qemu', 'host'];
  const part = parts.find((name) => name === what);
  if (!part) throw new VmferryError('InvalidInput', `A host has ${parts.join(', ')}, no ${what}`);
  return { part };
}

function controlPart(what: string): ControlDaemon {
  if (what === 'worker' || what === 'temporal' || what === 'postgres') return what;
  throw new VmferryError('InvalidInput', `control has worker, temporal and postgres, no ${what}`);
}

/** The QEMUs themselves. Throws InstanceNotFound if it is one that was asked for and is not there. */
function present(qemus: Process[], where: string, instance: string | undefined): Process[] {
  if (instance === undefined || qemus.length > 0) return qemus;
  throw new VmferryError('InstanceNotFound', `No QEMU runs the instance ${instance} on ${where}`);
}
