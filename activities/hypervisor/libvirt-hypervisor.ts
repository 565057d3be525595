/**
 * The hypervisor port on libvirt.
 *
 * Short calls share one connection, which is opened anew when libvirtd has gone. Whatever may take long has a connection
 * of its own: libvirtd serves five calls of a client at a time, and a call that shares its connection with a long one can
 * wait seconds for its answer.
 *
 * Calls that ask for a state look at the state: what is so already is success, whoever made it so.
 */
import { readFile, statfs } from 'node:fs/promises';
import { dirname } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import {
  CompareCpuFlag,
  DomainSaveFlag,
  DomainState as State,
  DomainUndefineFlag,
  DomainXmlFlag,
  ErrorCode,
  isLibvirtError,
  JobType,
  SharedConnection,
  withOwnConnection,
  type Connection,
  type ShortCalls,
} from 'libvirt';
import type { InstanceId, Requirements } from '../../workflows/contract.ts';
import { VmferryError } from '../../workflows/failures.ts';
import { processAlive } from '../exec/process-identity.ts';
import { parseCapabilities, type Capabilities } from './capabilities.ts';
import type {
  Domain,
  DomainState,
  Hypervisor,
  HypervisorFacts,
  ProcessIdentity,
  SaveInProgress,
} from './hypervisor.ts';
import { asLibvirtFailure, withLibvirtFailure } from './libvirt-failure.ts';
import { probeKvm } from './probe-kvm.ts';
import { qemuProcesses, qemuProcessOf, type QemuProcess } from './qemu-process.ts';

const STATES: Record<State, DomainState> = {
  [State.NOSTATE]: 'shut off',
  [State.RUNNING]: 'running',
  [State.BLOCKED]: 'running',
  [State.PAUSED]: 'paused',
  [State.SHUTDOWN]: 'shutting down',
  [State.SHUTOFF]: 'shut off',
  [State.CRASHED]: 'crashed',
  [State.PMSUSPENDED]: 'paused',
};

/** How long a process may take to end after it was killed: the kernel first finishes its disk I/O. */
const KILL_TIMEOUT_MS = 30_000;
const SUSPEND_TIMEOUT_MS = 10_000;
/** A restored guest's agent is connected 120 to 160 ms after the vCPUs run; one that is not by then is not there. */
const AGENT_GRACE_MS = 500;

/** `uri` as libvirt takes it, e.g. `qemu:///system`. Connects at the first call, and again whenever libvirtd has gone. */
export function createLibvirtHypervisor({ uri }: { uri: string }): Promise<Hypervisor> {
  return Promise.resolve(new LibvirtHypervisor(uri));
}

class LibvirtHypervisor implements Hypervisor {
  readonly #uri: string;
  readonly #shared: SharedConnection;
  /** By the versions that it was read under: an upgrade changes them. */
  #capabilities: { key: string; capabilities: Promise<Capabilities> } | null = null;
  /** KVM cannot begin or cease to work while this process lives: that takes another kernel. */
  #kvm: Promise<boolean> | null = null;
  /** QEMU processes by their instances: one that ends loses its command line before its files. */
  readonly #lastSeen = new Map<InstanceId, QemuProcess>();
  /** A look that waits for libvirt must not be joined by another every half second. */
  readonly #progress = new Map<InstanceId, Promise<{ done: number; total: number } | null>>();

  constructor(uri: string) {
    this.#uri = uri;
    this.#shared = new SharedConnection(uri);
  }

  #short<T>(what: string, calls: (connection: ShortCalls) => Promise<T>): Promise<T> {
    return withLibvirtFailure(what, () => this.#shared.use(calls));
  }

  #long<T>(what: string, calls: (connection: Connection) => Promise<T>): Promise<T> {
    return withLibvirtFailure(what, () => withOwnConnection(this.#uri, calls));
  }

  async facts(): Promise<HypervisorFacts> {
    const { hostname, libvirt, qemu, capabilities } = await this.#short('facts of the host', async (connection) => {
      // First of all: it makes libvirt look again for emulators that it did not find when it started; `version` does not.
      if (this.#capabilities === null) await connection.capabilities();
      const [libvirt, qemu, hostname] = await Promise.all([
        connection.libVersion(),
        connection.version(),
        connection.hostname(),
      ]);
      const key = `${libvirt} ${qemu}`;
      if (this.#capabilities?.key !== key) {
        const capabilities = connection.capabilities().then(parseCapabilities);
        this.#capabilities = { key, capabilities };
        capabilities.catch(() => (this.#capabilities = null));
      }
      return { hostname, libvirt, qemu, capabilities: await this.#capabilities.capabilities };
    });
    const { architecture, guests } = capabilities;
    return {
      architecture,
      hostname,
      libvirtVersion: versionText(libvirt),
      qemuVersion: versionText(qemu),
      domainTypes: (await this.#kvmWorks(capabilities)) ? ['kvm', 'qemu'] : ['qemu'],
      emulators: Object.fromEntries(Object.entries(guests).map(([name, { emulator }]) => [name, emulator])),
      machines: guests[architecture]?.machines ?? [],
      freeMemoryBytes: await availableMemory(),
    };
  }

  async #kvmWorks({ architecture, guests }: Capabilities): Promise<boolean> {
    const own = guests[architecture];
    // Guests under KVM on ARM see the host's own registers and cannot be moved, so they are not offered.
    if (architecture !== 'x86_64' || !own?.domainTypes.includes('kvm')) return false;
    this.#kvm ??= probeKvm(own.emulator);
    return this.#kvm;
  }

  async find(instanceId: InstanceId): Promise<Domain | null> {
    const domain = await this.#short(`domain ${instanceId}`, (connection) => describe(connection, instanceId));
    // After libvirt's answer, so that a process which ended meanwhile is not reported with it.
    return withProcess(domain, await this.#qemu(instanceId));
  }

  /** Also while it ends, if it was seen before. */
  async #qemu(instanceId: InstanceId): Promise<QemuProcess | null> {
    const found = await qemuProcessOf(instanceId);
    const last = found ?? this.#lastSeen.get(instanceId);
    if (!last || (!found && !(await processAlive(last)))) {
      this.#lastSeen.delete(instanceId);
      return null;
    }
    this.#lastSeen.set(instanceId, last);
    return last;
  }

  async list(): Promise<Domain[]> {
    const known = new Map<InstanceId, Domain>();
    await this.#short('list of domains', async (connection) => {
      for (const { uuid } of await connection.domains()) {
        const domain = await describe(connection, uuid);
        if (domain) known.set(uuid, domain);
      }
    });
    const processes = new Map((await qemuProcesses()).map((process) => [process.instanceId, process]));
    return [...new Set([...known.keys(), ...processes.keys()])]
      .map((id) => withProcess(known.get(id) ?? null, processes.get(id) ?? null))
      .filter((domain) => domain !== null);
  }

  domainXml(instanceId: InstanceId, which: 'live' | 'inactive'): Promise<string> {
    const flags = DomainXmlFlag.SECURE | DomainXmlFlag.MIGRATABLE | (which === 'inactive' ? DomainXmlFlag.INACTIVE : 0);
    return this.#short(`XML of domain ${instanceId}`, (connection) => connection.domainXML(instanceId, flags));
  }

  async define(xml: string): Promise<void> {
    await this.#short('definition of a domain', (connection) => connection.domainDefine(xml));
  }

  async undefine(instanceId: InstanceId): Promise<void> {
    const { MANAGED_SAVE, SNAPSHOTS_METADATA, CHECKPOINTS_METADATA, NVRAM } = DomainUndefineFlag;
    await this.#short(`domain ${instanceId} to undefine`, (connection) =>
      unlessUnknown(async () => {
        if (!(await connection.domainIsPersistent(instanceId))) return;
        await connection.domainUndefine(instanceId, MANAGED_SAVE | SNAPSHOTS_METADATA | CHECKPOINTS_METADATA | NVRAM);
      }),
    );
  }

  async start(instanceId: InstanceId): Promise<void> {
    await this.#long(`domain ${instanceId} to start`, async (connection) => {
      try {
        await connection.domainCreate(instanceId);
      } catch (error) {
        if (!isLibvirtError(error, ErrorCode.OPERATION_INVALID) || !(await connection.domainIsActive(instanceId)))
          throw error;
      }
    });
  }

  async destroy(instanceId: InstanceId): Promise<void> {
    await this.#qemu(instanceId);
    await this.#long(`domain ${instanceId} to destroy`, (connection) =>
      unlessUnknown(async () => {
        try {
          await connection.domainDestroy(instanceId);
        } catch (error) {
          if (!isLibvirtError(error, ErrorCode.OPERATION_INVALID) || (await connection.domainIsActive(instanceId)))
            throw error;
        }
      }),
    );
    // libvirt is done with it; a process that still lives was forgotten by a libvirtd that died.
    const deadline = performance.now() + KILL_TIMEOUT_MS;
    for (let left: QemuProcess | null; (left = await this.#qemu(instanceId)) !== null; await sleep(20)) {
      if (performance.now() > deadline) {
        throw new VmferryError('LibvirtFailed', `QEMU process ${left.pid} of domain ${instanceId} does not end`);
      }
      kill(left);
    }
  }

  async setAutostart(instanceId: InstanceId, on: boolean): Promise<void> {
    await this.#short(`autostart of domain ${instanceId}`, async (connection) => {
      // A transient domain has none and cannot be given any.
      if (!on && !(await connection.domainIsPersistent(instanceId))) return;
      await connection.domainSetAutostart(instanceId, on);
    });
  }

  async suspend(instanceId: InstanceId): Promise<void> {
    const what = `domain ${instanceId} to suspend`;
    if ((await this.#state(instanceId)) === 'paused') return;
    await this.#short(what, (connection) => connection.domainSuspend(instanceId));
    const deadline = performance.now() + SUSPEND_TIMEOUT_MS;
    for (let state: DomainState; (state = await this.#state(instanceId)) !== 'paused'; await sleep(10)) {
      if (performance.now() > deadline) throw new VmferryError('LibvirtFailed', `${what}: it stays ${state}`);
    }
  }

  async resume(instanceId: InstanceId): Promise<void> {
    if ((await this.#state(instanceId)) === 'running') return;
    await this.#short(`domain ${instanceId} to resume`, async (connection) => {
      try {
        await connection.domainResume(instanceId);
      } catch (error) {
        const { state } = await connection.domainState(instanceId);
        if (!isLibvirtError(error, ErrorCode.OPERATION_INVALID) || STATES[state] !== 'running') throw error;
      }
    });
  }

  #state(instanceId: InstanceId): Promise<DomainState> {
    return this.#short(
      `state of domain ${instanceId}`,
      async (connection) => STATES[(await connection.domainState(instanceId)).state],
    );
  }

  save(instanceId: InstanceId, path: string): SaveInProgress {
    const finished = this.#save(instanceId, path);
    // The caller may look at the file alone; whoever awaits the promise still sees its error.
    finished.catch(() => {});
    return { finished };
  }

  async #save(instanceId: InstanceId, path: string): Promise<void> {
    const what = `save of domain ${instanceId} to ${path}`;
    await withLibvirtFailure(what, () =>
      withOwnConnection(this.#uri, async (connection) => {
        try {
          await connection.domainSave(instanceId, path);
        } catch (error) {
          // libvirt reports a full disk as one failure among many, and by then has removed what it wrote.
          if (isLibvirtError(error) && error.code !== ErrorCode.OPERATION_ABORTED && !error.connectionLost) {
            const { memory } = await connection.domainInfo(instanceId);
            const { bavail, bsize } = await statfs(dirname(path)).catch(() => ({ bavail: Infinity, bsize: 1 }));
            if (bavail * bsize < memory * 1024) {
              throw new VmferryError('NoSpace', `${what}: ${error.message.slice(0, 500)}`, { cause: error });
            }
          }
          throw error;
        }
      }),
    );
  }

  async saveProgress(instanceId: InstanceId): Promise<{ done: number; total: number } | null> {
    const known = this.#progress.get(instanceId);
    if (known) return known;
    const look = this.#job(instanceId).finally(() => this.#progress.delete(instanceId));
    this.#progress.set(instanceId, look);
    return look;
  }

  #job(instanceId: InstanceId): Promise<{ done: number; total: number } | null> {
    return this.#long(`job of domain ${instanceId}`, async (connection) => {
      try {
        const { type, data_processed: done, data_total: total } = await connection.domainJobStats(instanceId);
        return type === JobType.NONE ? null : { done: Number(done ?? 0), total: Number(total ?? 0) };
      } catch (error) {
        // The domain is gone, or shut off: then it has no job.
        if (isLibvirtError(error, ErrorCode.NO_DOMAIN, ErrorCode.OPERATION_INVALID)) return null;
        throw error;
      }
    });
  }

  async abortJob(instanceId: InstanceId): Promise<void> {
    try {
      await withOwnConnection(this.#uri, (connection) => connection.domainAbortJob(instanceId));
    } catch (error) {
      const none = isLibvirtError(error, ErrorCode.NO_DOMAIN, ErrorCode.OPERATION_INVALID);
      if (none && (await this.saveProgress(instanceId)) === null) return;
      throw asLibvirtFailure(`job of domain ${instanceId} to abort`, error);
    }
  }

  async restorePaused(path: string): Promise<void> {
    await this.#long(`restore from ${path}`, (connection) =>
      connection.domainRestore(path, null, DomainSaveFlag.PAUSED),
    );
  }

  processAlive(process: ProcessIdentity): Promise<boolean> {
    return processAlive(process);
  }

  async setGuestTime(instanceId: InstanceId, timeoutMs: number): Promise<boolean> {
    const deadline = performance.now() + Math.min(timeoutMs, AGENT_GRACE_MS);
    const asked = this.#long(`clock of domain ${instanceId}`, async (connection) => {
      for (;;) {
        // By QEMU's own command: libvirt's call would wait for an answer as long as libvirt likes.
        const time = BigInt(Date.now()) * 1_000_000n;
        const command = `{"execute":"guest-set-time","arguments":{"time":${time}}}`;
        try {
          await connection.domainAgentCommand(instanceId, command, Math.max(1, Math.ceil(timeoutMs / 1000)));
          return true;
        } catch (error) {
          if (!isLibvirtError(error) || error.connectionLost) throw error;
          if (error.code !== ErrorCode.AGENT_UNRESPONSIVE || performance.now() > deadline) return false;
          await sleep(50);
        }
      }
    });
    const timer = new AbortController();
    try {
      return await Promise.race([asked, sleep(timeoutMs, false, { signal: timer.signal })]);
    } finally {
      timer.abort();
      asked.catch(() => {}); // it outlives the race, and its connection closes with it
    }
  }

  async checkCompatible(requirements: Requirements): Promise<void> {
    const { architecture, machine, domainType, cpu } = requirements;
    const lacking = (what: string, options?: { cause: unknown }): VmferryError =>
      new VmferryError('IncompatibleHost', `host ${facts.hostname} ${what}`, options);
    const facts = await this.facts();
    const guest = (await this.#capabilities?.capabilities)?.guests[architecture];
    if (!guest?.emulator) throw lacking(`has no emulator for ${architecture}`);
    if (!facts.domainTypes.includes(domainType)) {
      throw lacking(domainType === 'kvm' ? 'has no KVM that works' : `cannot run domain type ${domainType}`);
    }
    if (domainType === 'kvm' && architecture !== facts.architecture) throw lacking(`has no KVM for ${architecture}`);
    if (!guest.machines.includes(machine)) throw lacking(`does not offer machine type ${machine}`);
    if (olderRelease(facts.qemuVersion, requirements.qemuVersion)) {
      throw lacking(`has QEMU ${facts.qemuVersion}; state of the newer ${requirements.qemuVersion} may not load in it`);
    }
    if (cpu === '') return;
    try {
      await this.#shared.use((connection) =>
        connection.compareCPU(
          cpu,
          { emulator: guest.emulator, arch: architecture, machine, type: domainType },
          // QEMU on x86 does not compare the CPU of incoming state; a missing feature would crash the guest later.
          CompareCpuFlag.FAIL_INCOMPATIBLE,
        ),
      );
    } catch (error) {
      if (isLibvirtError(error, ErrorCode.CPU_INCOMPATIBLE)) {
        throw lacking(`cannot offer the guest’s CPU: ${error.message.slice(0, 500)}`, { cause: error });
      }
      // Outside of x86 libvirt cannot compare; there QEMU itself refuses state of another CPU model.
      if (isLibvirtError(error, ErrorCode.NO_SUPPORT, ErrorCode.OPERATION_UNSUPPORTED) && architecture !== 'x86_64')
        return;
      throw asLibvirtFailure(`CPU ${cpu.slice(0, 500)} to compare`, error);
    }
  }

  close(): Promise<void> {
    return this.#shared.close();
  }
}

/** Null if libvirt does not know it. */
async function describe(connection: ShortCalls, uuid: InstanceId): Promise<Domain | null> {
  try {
    const { name } = await connection.domainByUUID(uuid);
    const { state } = await connection.domainState(uuid);
    const persistent = await connection.domainIsPersistent(uuid);
    const autostart = persistent && (await connection.domainAutostart(uuid));
    return { instanceId: uuid, name, state: STATES[state], persistent, autostart, process: null };
  } catch (error) {
    if (isLibvirtError(error, ErrorCode.NO_DOMAIN)) return null;
    throw error;
  }
}

/** Also of a process without a domain, left behind by a libvirtd that died. */
function withProcess(domain: Domain | null, qemu: QemuProcess | null): Domain | null {
  if (!qemu) return domain;
  const { instanceId, name, pid, startTime } = qemu;
  const process = { pid, startTime };
  if (domain) return { ...domain, process };
  return { instanceId, name, state: 'shut off', persistent: false, autostart: false, process };
}

async function unlessUnknown(calls: () => Promise<void>): Promise<void> {
  try {
    await calls();
  } catch (error) {
    if (!isLibvirtError(error, ErrorCode.NO_DOMAIN)) throw error;
  }
}

function kill({ pid }: ProcessIdentity): void {
  try {
    process.kill(pid, 'SIGKILL');
  } catch (error) {
    if (!(error instanceof Error && 'code' in error && error.code === 'ESRCH')) throw error;
  }
}

/** libvirt's form: major * 1,000,000 + minor * 1,000 + release. */
function versionText(version: number): string {
  return `${Math.floor(version / 1_000_000)}.${Math.floor(version / 1000) % 1000}.${version % 1000}`;
}

/** By major and minor number: QEMU's stable releases do not change the format of their state. */
function olderRelease(version: string, other: string): boolean {
  const [major = 0, minor = 0] = version.split('.').map(Number);
  const [otherMajor = 0, otherMinor = 0] = other.split('.').map(Number);
  return major < otherMajor || (major === otherMajor && minor < otherMinor);
}

/** What a new process can have without swapping, by the kernel's own estimate. */
async function availableMemory(): Promise<number> {
  const kibibytes = /^MemAvailable:\s+(\d+) kB$/m.exec(await readFile('/proc/meminfo', 'utf8'))?.[1];
  return Number(kibibytes ?? 0) * 1024;
}
