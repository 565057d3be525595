/** One simulated host: its disk, its namespaces, its daemons. */
import { createHash } from 'node:crypto';
import { existsSync, readFileSync } from 'node:fs';
import { appendFile, copyFile, mkdir, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { run, type RunOptions, type RunResult } from '../../activities/exec/run.ts';
import { writeDurable } from '../../activities/records/durable.ts';
import { VmferryError } from '../../workflows/failures.ts';
import { ensureClock, OFFSET_FILE } from './clock/clock.ts';
import { STATE_DIRECTORY, StateDisk, type DiskState } from './disk.ts';
import {
  commandLine,
  end,
  entriesOf,
  family,
  find,
  freeze,
  helperEnvironment,
  namespaceOf,
  quickStart,
  startDaemon,
  thaw,
  type Argv,
  type Daemon,
  type Process,
} from './processes.ts';

export const REPOSITORY = join(import.meta.dirname, '../..');

/** Where the guest image lies, as the hosts see it. */
export const GUEST_DIRECTORY = '/var/lib/guest';

/** Names of the simulated hosts, in order. */
export const HOST_NAMES = [
  'alpha',
  'beta',
  'gamma',
  'delta',
  'epsilon',
  'zeta',
  'eta',
  'theta',
  'iota',
  'kappa',
] as const;

/** Daemons that can be killed and started one by one. */
export type HostDaemon = 'worker' | 'second-worker' | 'libvirtd' | 'virtlogd';

/** Where package servers listen: that of the worker, as its peers know it, and that of a second worker. */
const PORT = 7443;
const SECOND_PORT = 7444;

export interface HostSettings {
  /** On the outer network. */
  address: string;
  /** Everybody's names and addresses there. */
  neighbours: Record<string, string>;
  /** Address of Temporal as the host reaches it; null for a bare host. */
  temporal: string | null;
  location: string;
  /** Size of the file system for what vmferry keeps. */
  diskMib: number;
  /** File with the pool's public key, brought to the host as an operator does. */
  poolKey: string;
}

export class Host {
  readonly name: string;
  /** On the machine: the host's /etc and /var, which outlive a power loss. */
  readonly directory: string;
  /** For what vmferry keeps. */
  readonly disk: StateDisk;
  readonly #testbed: string;

  constructor(testbed: string, name: string) {
    this.name = name;
    this.directory = join(testbed, name);
    this.disk = new StateDisk(testbed, name);
    this.#testbed = testbed;
  }

  /** The host's PID 1, seen from outside; null while the host is off. */
  get init(): Process | null {
    return find(this.#testbed, `${this.name}/host`);
  }

  /** Path on the machine of a file below the host's /etc or /var. What vmferry keeps is there only while the host is on. */
  outside(path: string): string {
    const own = path === STATE_DIRECTORY || path.startsWith(`${STATE_DIRECTORY}/`);
    return (own ? this.disk.outside(path.slice(STATE_DIRECTORY.length)) : null) ?? join(this.directory, path);
  }

  /** The log of a daemon, on the machine. */
  log(what: HostDaemon | 'host'): string {
    return what === 'host' ? join(this.directory, 'host.log') : this.outside(`/var/log/vmferry/${what}.log`);
  }

  /** The command that runs `command` on this host. Throws HostUnreachable while the host is off. */
  enter(command: Argv): Argv {
    return ['nsenter', '-t', String(this.#on().pid), '-m', '-n', '-u', '-p', '--', ...command];
  }

  /** Runs a command on this host to its end. Throws CommandFailed as `run` does. */
  async exec(command: Argv, options?: RunOptions): Promise<RunResult> {
    const [program, ...args] = this.enter(command);
    return run(program, args, options);
  }

  /** Writes the host's disk as it is before its first boot, and its configuration. */
  async install(settings: HostSettings): Promise<void> {
    const etc = this.outside('/etc');
    if (!existsSync(join(this.directory, 'installed'))) {
      await rm(etc, { recursive: true, force: true });
      await mkdir(this.outside('/var/log/vmferry'), { recursive: true });
      await mkdir(join(this.directory, STATE_DIRECTORY), { recursive: true });
      await this.disk.make(settings.diskMib);
      await mkdir(etc, { recursive: true });
      await copyEtc(etc, helperEnvironment(this.#testbed));
      await configureLibvirt(join(etc, 'libvirt'), `${this.#testbed}/${this.name}`);
      await writeFile(join(this.directory, 'installed'), '');
    }
    await writeFile(join(etc, 'hostname'), `${this.name}\n`);
    await writeFile(
      join(etc, 'hosts'),
      ['127.0.0.1 localhost', ...Object.entries(settings.neighbours).map(([name, ip]) => `${ip} ${name}`), ''].join(
        '\n',
      ),
    );
    if (settings.temporal === null) return;
    await mkdir(join(etc, 'vmferry'), { recursive: true });
    const configuration = {
      name: this.name,
      stateDirectory: STATE_DIRECTORY,
      libvirtUri: 'qemu:///system',
      temporal: { address: settings.temporal, namespace: 'default' },
      listen: `0.0.0.0:${PORT}`,
      addresses: [`${settings.address}:${PORT}`],
      location: settings.location,
      poolDirectory: '/etc/vmferry',
      faultPoints: '/var/lib/vmferry-faults',
    };
    await copyFile(settings.poolKey, join(etc, 'vmferry/pool.pub'));
    const write = (name: string, content: unknown): Promise<void> =>
      writeDurable(join(etc, 'vmferry', name), `${JSON.stringify(content, null, 2)}\n`);
    await write('host.json', configuration);
    await write('second-worker.json', { ...configuration, listen: `0.0.0.0:${SECOND_PORT}` });
  }

  /** Starts the namespaces and the process that holds them; no daemon yet. No-op while the host is on. */
  async boot(guest: string): Promise<Process> {
    if (!this.init) await this.disk.settle();
    const init = await startDaemon({
      directory: this.#testbed,
      part: `${this.name}/host`,
      command: [
        'bash',
        join(import.meta.dirname, 'init.sh'),
        this.name,
        this.directory,
        guest,
        this.#testbed,
        REPOSITORY,
      ],
      within: (launched) => ['unshare', ...NAMESPACES, '--', ...launched],
      log: this.log('host'),
      ready: /^ready$/m,
    });
    await this.disk.show(init);
    return init;
  }

  /** Starts libvirtd (and virtlogd, on which it depends) and waits until it answers. No-op for what runs. */
  async startLibvirt(): Promise<void> {
    const socket = `/proc/${this.init?.pid}/root/run/libvirt/virtlogd-sock`;
    await this.#start('virtlogd', ['virtlogd'], () => Promise.resolve(existsSync(socket)));
    // libvirtd asks QEMU what it can do at its start; on a busy machine that can fail, and it then knows no emulator until
    // somebody asks for its capabilities.
    const question = ['bash', '-c', 'virsh --quiet capabilities && virsh --quiet version'] as const;
    await this.#start('libvirtd', ['libvirtd'], async () => {
      return (await this.exec(question, { okExitCodes: [0, 1] })).exitCode === 0;
    });
  }

  /** Starts the host worker and waits until it polls. No-op while it runs. */
  async startWorker(): Promise<void> {
    await this.#startWorker('worker', '/etc/vmferry/host.json');
  }

  /**
   * Starts one more worker for the same queue and state directory: what a supervisor does that takes a frozen worker for
   * dead. From now on peers reach its package server, because the other's would not answer them.
   */
  async startSecondWorker(): Promise<void> {
    await this.#startWorker('second-worker', '/etc/vmferry/second-worker.json');
    await this.#redirect(`chain prerouting {
      type nat hook prerouting priority dstnat; tcp dport ${PORT} redirect to :${SECOND_PORT};
    }`);
  }

  /** Ends it, if it runs; peers reach the worker again. */
  async endSecondWorker(name?: NodeJS.Signals): Promise<void> {
    await this.endDaemon('second-worker', name);
    if (this.init) await this.#redirect('');
  }

  /** Fingerprint of the host's key, read on the host itself. */
  async fingerprint(): Promise<string> {
    const program = join(REPOSITORY, 'workers/host.ts');
    const command = [process.execPath, program, '--config', '/etc/vmferry/host.json', '--print-fingerprint'] as const;
    return (await this.exec(command, { env: quickStart })).stdout.trim();
  }

  daemon(what: HostDaemon): Process | null {
    return find(this.#testbed, `${this.name}/${what}`);
  }

  /** A daemon and what it has started itself, libvirtd's guests excepted. */
  family(what: HostDaemon): Process[] {
    return family(this.#testbed, `${this.name}/${what}`);
  }

  /** Ends a daemon. What it has started learns of that in its own way, even if it was frozen. No-op while it does not run. */
  async endDaemon(what: HostDaemon, name?: NodeJS.Signals): Promise<void> {
    const daemon = this.daemon(what);
    if (daemon) await end([daemon], name);
    await thaw(() => this.family(what));
  }

  /** Every process of this host; none while it is off. */
  processes(): Process[] {
    const init = this.init;
    return init ? namespaceOf(init) : [];
  }

  /** The QEMU processes of this host, or the one of an instance (UUID, its beginning, or name). */
  qemus(instance?: string): Process[] {
    const qemus = this.processes().filter((process) => process.program.startsWith('qemu-system-'));
    return instance === undefined ? qemus : qemus.filter((qemu) => runs(qemu, instance));
  }

  /**
   * A power loss: every process of the host ends at once, and what was not synced is lost. `look` is called between the two,
   * when nothing moves any more and all that was written can still be read.
   */
  async powerOff(look: () => Promise<void>): Promise<void> {
    const { init } = this;
    if (init) {
      // None of them is to see the others end, or its own disk fail.
      await freeze(() => this.processes());
      await look();
      this.disk.hide();
      await this.disk.loseUnsynced(init);
      // The kernel ends all others of the PID namespace before PID 1 is gone, once all who wait for one of them know.
      await end([...entriesOf(this.processes()), init]);
    }
    this.disk.hide();
  }

  /** Seconds by which the clock of what starts on the host is ahead; negative when it is behind. */
  get clock(): number {
    if (!existsSync(this.outside(PRELOAD_FILE))) return 0;
    return Number(readFileSync(this.outside(OFFSET_FILE), 'utf8'));
  }

  /** Sets it for whatever starts from now on, be it after a boot. */
  async setClock(seconds: number): Promise<void> {
    await rm(this.outside(PRELOAD_FILE), { force: true });
    if (seconds === 0) return;
    // QEMU's user must read all of it. What runs has the old library mapped, so it must not be written into.
    await writeDurable(this.outside(CLOCK_LIBRARY), await readFile(await ensureClock()), { mode: 0o755 });
    await writeDurable(this.outside(OFFSET_FILE), `${seconds}\n`);
    await writeDurable(this.outside(PRELOAD_FILE), `${CLOCK_LIBRARY}\n`);
  }

  /** The state of its disk; that of a host that is off shows at its boot. */
  get diskState(): DiskState {
    const { init } = this;
    return init ? this.disk.state(init) : 'normal';
  }

  /** Takes all space of it but this much. */
  async fillDisk(leaveBytes: number): Promise<void> {
    this.#on();
    await this.disk.fill(leaveBytes);
  }

  /** Gives back what `fillDisk` took, be the host on or off; answers whether there was something. */
  async freeDisk(): Promise<boolean> {
    return this.disk.free(this.init !== null);
  }

  /** Lets nothing be written that is not open for writing already. No-op if so. */
  async readOnly(): Promise<void> {
    this.#on();
    if (this.diskState !== 'normal') return;
    // The file system itself cannot become read-only while QEMU has disks open on it, and a mount that is in its place
    // already cannot either once somebody opens a file there.
    const script =
      'aside=$(mktemp -d) && mount --bind "$0" "$aside" && mount -o remount,bind,ro "$aside" && ' +
      'mount --move "$aside" "$0" && rmdir "$aside"';
    await this.exec(['bash', '-c', script, STATE_DIRECTORY]);
  }

  /** Undoes `readOnly`. */
  async readWrite(): Promise<void> {
    if (this.diskState !== 'read-only') return;
    await this.exec(['umount', '--lazy', STATE_DIRECTORY]);
  }

  /** Makes the file system meet an error. No-op if it has. */
  async failDisk(): Promise<void> {
    if (this.diskState !== 'failed') await this.disk.fail(this.#on());
  }

  #on(): Process {
    const { init } = this;
    if (!init) throw new VmferryError('HostUnreachable', `The simulated host ${this.name} is off`);
    return init;
  }

  async #startWorker(what: 'worker' | 'second-worker', config: string): Promise<void> {
    const program = join(REPOSITORY, 'workers/host.ts');
    // As in infra/systemd/vmferry-host.service.
    const command = ['env', 'MALLOC_ARENA_MAX=2', process.execPath, program, '--config', config] as const;
    await this.#start(what, command, /^ready\b/m);
  }

  /** Sets what the host does to connections from its peers before they reach a process. */
  async #redirect(chains: string): Promise<void> {
    const rules = `add table ip testbed\ndelete table ip testbed\ntable ip testbed {\n${chains}\n}\n`;
    await this.exec(['nft', '-f', '-'], { input: rules });
  }

  #start(what: HostDaemon, command: Argv, ready: Daemon['ready']): Promise<Process> {
    return startDaemon({
      directory: this.#testbed,
      part: `${this.name}/${what}`,
      command,
      // setsid --fork leaves the daemon to the host's own PID 1, which reaps it.
      within: (launched) => this.enter(['setsid', '--fork', ...launched]),
      log: this.log(what),
      ready,
    });
  }
}

/** What the dynamic linker loads into every program first. */
const PRELOAD_FILE = '/etc/ld.so.preload';
const CLOCK_LIBRARY = '/etc/clock.so';

/** Does this QEMU run the instance? libvirt tells it UUID and name. */
function runs(qemu: Process, instance: string): boolean {
  const args = commandLine(qemu);
  const after = (option: string): string => args[args.indexOf(option) + 1] ?? '';
  return after('-uuid').startsWith(instance) || after('-name').split(',').includes(`guest=${instance}`);
}

const NAMESPACES = ['--net', '--mount', '--uts', '--pid', '--fork', '--kill-child', '--mount-proc'];

/** What of the machine's /etc is no business of a host: secrets, and services that it does not run. */
const NOT_COPIED = /^(shadow|gshadow|subuid|subgid|sudoers|ssh|systemd|vmferry|postgresql)/;

async function copyEtc(target: string, env: Record<string, string>): Promise<void> {
  const entries = (await readdir('/etc')).filter((name) => !NOT_COPIED.test(name));
  await run('cp', ['--archive', `--target-directory=${target}`, ...entries.map((name) => join('/etc', name))], { env });
  // May be a link into the machine's /run. Hosts have no name server: everything they need is in /etc/hosts.
  await rm(join(target, 'resolv.conf'), { force: true });
  await writeFile(join(target, 'resolv.conf'), '');
}

/** libvirt as on a Debian host, except for what one machine cannot give to several. */
async function configureLibvirt(directory: string, identity: string): Promise<void> {
  const networks = join(directory, 'qemu');
  await rm(networks, { recursive: true, force: true });
  // Without firmware tables of its own, each host must be told who it is: libvirt compares this in a migration.
  const digest = createHash('sha256').update(identity).digest('hex');
  const uuid = `${digest.slice(0, 8)}-${digest.slice(8, 12)}-4${digest.slice(13, 16)}-8${digest.slice(17, 20)}-${digest.slice(20, 32)}`;
  await appendFile(
    join(directory, 'libvirtd.conf'),
    `\nhost_uuid = "${uuid}"\nauth_unix_ro = "none"\nauth_unix_rw = "none"\n`,
  );
  await appendFile(join(directory, 'qemu.conf'), '\nsecurity_driver = "none"\ncgroup_controllers = []\n');
}
