import type { CloseReason, CpuCompareResult, DomainState, LifecycleEvent } from './constants.ts';
import { LibvirtError } from './error.ts';
import { native, type NativeConnection, type NativeEvent, type NativeFailure } from './native.ts';

/** A domain or a network, as libvirt names it. Calls take the UUID: it stays valid over reconnects. */
export interface Named {
  uuid: string;
  name: string;
}

export interface Lifecycle extends Named {
  event: LifecycleEvent;
  /** Its meaning depends on `event`, e.g. StoppedDetail for STOPPED. */
  detail: number;
}

export interface OpenOptions {
  /** A domain changed. A hint, not the truth: what happens while no connection is open is never told. */
  onLifecycle?: (event: Lifecycle) => void;
  /** libvirtd has gone or does not answer any more. The connection is of no use from now on; close it. */
  onClose?: (reason: CloseReason) => void;
  /** libvirtd that says nothing for 15 seconds counts as gone: `interval` seconds times `count`. */
  keepalive?: { interval: number; count: number };
}

/** Handlers by the number that the addon knows them by. An entry lives from open() to close(). */
const subscribers = new Map<number, OpenOptions>();
let lastSubscriber = 0;

native.listen((subscriber, kind, about) => {
  // Out of the addon's call first: Node would swallow what a handler throws there.
  queueMicrotask(() => {
    const options = subscribers.get(subscriber);
    const event = { kind, about } as NativeEvent;
    if (event.kind === 'lifecycle') options?.onLifecycle?.(event.about as Lifecycle);
    else options?.onClose?.(event.about.reason as CloseReason);
  });
});

async function settled<T>(call: string, pending: Promise<T>): Promise<T> {
  try {
    return await pending;
  } catch (failure) {
    throw new LibvirtError(call, failure as NativeFailure);
  }
}

/**
 * One connection to libvirt. Every method is one call of libvirt's C API, made in a thread of its own, and rejects with
 * {@link LibvirtError}; an argument of the wrong kind rejects with TypeError. Flags are those of `constants.ts`, added up.
 *
 * Calls on one connection run side by side, but libvirtd serves five of one client at a time, and libvirt 9.0.0 can lose
 * the wake-up of a call that shares its connection with a long one. So a call that may take longer than a moment belongs
 * on a connection of its own: {@link withOwnConnection}.
 */
export class Connection {
  readonly #native: NativeConnection;
  readonly #subscriber: number;

  private constructor(connection: NativeConnection, subscriber: number) {
    this.#native = connection;
    this.#subscriber = subscriber;
  }

  /** Takes about 4 ms on a local socket. Waits without limit for a libvirtd that accepts but does not answer. */
  static async open(uri: string, options: OpenOptions = {}): Promise<Connection> {
    const { interval, count } = options.keepalive ?? { interval: 5, count: 3 };
    const subscriber = options.onLifecycle || options.onClose ? ++lastSubscriber : 0;
    if (subscriber) subscribers.set(subscriber, options);
    try {
      return new Connection(await settled('open', native.open(uri, interval, count, subscriber)), subscriber);
    } catch (error) {
      subscribers.delete(subscriber);
      throw error;
    }
  }

  /** No handler is told of anything from now on. Calls under way go on, and keep the connection open until they return. */
  async close(): Promise<void> {
    subscribers.delete(this.#subscriber);
    await this.#native.close();
  }

  async #call<K extends keyof NativeConnection>(
    call: K,
    ...args: Parameters<NativeConnection[K]>
  ): Promise<Awaited<ReturnType<NativeConnection[K]>>> {
    const method = this.#native[call] as (...args: unknown[]) => Promise<Awaited<ReturnType<NativeConnection[K]>>>;
    return settled(call, method.apply(this.#native, args));
  }

  // The host

  /** False once libvirtd has gone or the keepalive has run out. */
  async isAlive(): Promise<boolean> {
    return (await this.#call('isAlive')) === 1;
  }

  /** libvirtd's version: major * 1,000,000 + minor * 1,000 + release. */
  libVersion(): Promise<number> {
    return this.#call('libVersion');
  }

  /** The hypervisor's version, e.g. QEMU's, in the same form. */
  version(): Promise<number> {
    return this.#call('version');
  }

  hostname(): Promise<string> {
    return this.#call('hostname');
  }

  /** The full URI, e.g. `qemu:///system` when opened with an empty one. */
  uri(): Promise<string> {
    return this.#call('uri');
  }

  /** XML of the host: architecture, CPU, guests it can run. */
  capabilities(): Promise<string> {
    return this.#call('capabilities');
  }

  /** XML of what a domain may have here; null stands for the default. */
  domainCapabilities(of: EmulatorChoice = {}): Promise<string> {
    const { emulator = null, arch = null, machine = null, type = null } = of;
    return this.#call('domainCapabilities', emulator, arch, machine, type, 0);
  }

  /** Can the emulator offer the CPU of this `<cpu>` XML? Rejects with CPU_INCOMPATIBLE if FAIL_INCOMPATIBLE is asked for. */
  async compareCPU(cpu: string, of: EmulatorChoice = {}, flags = 0): Promise<CpuCompareResult> {
    const { emulator = null, arch = null, machine = null, type = null } = of;
    return (await this.#call('compareCPU', emulator, arch, machine, type, cpu, flags)) as CpuCompareResult;
  }

  /** `memory` in KiB. */
  nodeInfo(): Promise<{ model: string; memory: number; cpus: number }> {
    return this.#call('nodeInfo');
  }

  /** KiB: `total`, `free`, `buffers`, `cached`. */
  nodeMemoryStats(): Promise<Record<string, number>> {
    return this.#call('nodeMemoryStats');
  }

  /** Bytes that are free outright; what caches hold is not counted. */
  nodeFreeMemory(): Promise<number> {
    return this.#call('nodeFreeMemory');
  }

  // Domains

  /** `flags` of ListDomains; 0 lists all. */
  domains(flags = 0): Promise<Named[]> {
    return this.#call('domains', flags);
  }

  /** Rejects with NO_DOMAIN, as every call does that names a domain libvirt does not know. */
  domainByUUID(uuid: string): Promise<Named> {
    return this.#call('domainByUUID', uuid);
  }

  domainByName(name: string): Promise<Named> {
    return this.#call('domainByName', name);
  }

  /** `reason` is one of RunningReason, PausedReason, ShutoffReason, by the state. */
  domainState(uuid: string): Promise<{ state: DomainState; reason: number }> {
    return this.#call('domainState', uuid) as Promise<{ state: DomainState; reason: number }>;
  }

  /** Memory in KiB, `cpuTime` in nanoseconds. */
  domainInfo(uuid: string): Promise<DomainInfo> {
    return this.#call('domainInfo', uuid) as Promise<DomainInfo>;
  }

  /** Does it have a process, running or paused? */
  async domainIsActive(uuid: string): Promise<boolean> {
    return (await this.#call('domainIsActive', uuid)) === 1;
  }

  /** Will libvirt still know it when it has stopped? */
  async domainIsPersistent(uuid: string): Promise<boolean> {
    return (await this.#call('domainIsPersistent', uuid)) === 1;
  }

  domainXML(uuid: string, flags = 0): Promise<string> {
    return this.#call('domainXML', uuid, flags);
  }

  /** Rejects with NO_DOMAIN_METADATA if there is none of this type and namespace. */
  domainMetadata(uuid: string, type: number, namespace: string | null = null, affect = 0): Promise<string> {
    return this.#call('domainMetadata', uuid, type, namespace, affect);
  }

  /** `metadata` null removes it. ELEMENT needs a namespace, and a prefix for it when there is something to set. */
  async domainSetMetadata(
    uuid: string,
    type: number,
    metadata: string | null,
    prefix: string | null = null,
    namespace: string | null = null,
    affect = 0,
  ): Promise<void> {
    await this.#call('domainSetMetadata', uuid, type, metadata, prefix, namespace, affect);
  }

  domainAutostart(uuid: string): Promise<boolean> {
    return this.#call('domainAutostart', uuid);
  }

  async domainSetAutostart(uuid: string, on: boolean): Promise<void> {
    await this.#call('domainSetAutostart', uuid, Number(on));
  }

  domainDefine(xml: string, flags = 0): Promise<Named> {
    return this.#call('domainDefine', xml, flags);
  }

  /** Forgets the persistent configuration; a running domain becomes transient. */
  async domainUndefine(uuid: string, flags = 0): Promise<void> {
    await this.#call('domainUndefine', uuid, flags);
  }

  /** Starts a defined domain. */
  async domainCreate(uuid: string, flags = 0): Promise<void> {
    await this.#call('domainCreate', uuid, flags);
  }

  /** Starts a transient domain. */
  domainCreateXML(xml: string, flags = 0): Promise<Named> {
    return this.#call('domainCreateXML', xml, flags);
  }

  /** Ends the domain's process at once. */
  async domainDestroy(uuid: string, flags = 0): Promise<void> {
    await this.#call('domainDestroy', uuid, flags);
  }

  /** Asks the guest to shut down; resolves when asked. */
  async domainShutdown(uuid: string, flags = 0): Promise<void> {
    await this.#call('domainShutdown', uuid, flags);
  }

  /** Stops the vCPUs. */
  async domainSuspend(uuid: string): Promise<void> {
    await this.#call('domainSuspend', uuid);
  }

  async domainResume(uuid: string): Promise<void> {
    await this.#call('domainResume', uuid);
  }

  /**
   * Writes RAM and device state to a file and ends the process. **Goes on without its caller**: libvirtd finishes a save
   * whose client has died. Rejects with OPERATION_ABORTED after {@link domainAbortJob} from another connection.
   */
  async domainSave(uuid: string, to: string, xml: string | null = null, flags = 0): Promise<void> {
    await this.#call('domainSave', uuid, to, xml, flags);
  }

  /** The same with `file`, `dxml` and whatever newer libvirt knows. The test driver has it not. */
  async domainSaveParams(uuid: string, parameters: TypedParameters, flags = 0): Promise<void> {
    await this.#call('domainSaveParams', uuid, parameters, flags);
  }

  /** `flags` RUNNING or PAUSED decides the state; 0 takes the one it was saved in. */
  async domainRestore(from: string, xml: string | null = null, flags = 0): Promise<void> {
    await this.#call('domainRestore', from, xml, flags);
  }

  async domainRestoreParams(parameters: TypedParameters, flags = 0): Promise<void> {
    await this.#call('domainRestoreParams', parameters, flags);
  }

  /** The domain XML in the header of a save file. */
  saveImageXML(path: string, flags = 0): Promise<string> {
    return this.#call('saveImageXML', path, flags);
  }

  /** Resolves with the snapshot's name. */
  domainSnapshotCreateXML(uuid: string, xml: string, flags = 0): Promise<string> {
    return this.#call('domainSnapshotCreateXML', uuid, xml, flags);
  }

  /**
   * The job under way; `type` is one of JobType, NONE if there is none. Others as libvirt names them, e.g. `operation`,
   * `memory_processed` and `memory_total` in bytes, `time_elapsed` in ms. Counters are exact up to 2^53.
   */
  domainJobStats(uuid: string, flags = 0): Promise<JobStats> {
    return this.#call('domainJobStats', uuid, flags);
  }

  /** From another connection than the one that waits for the job. */
  async domainAbortJob(uuid: string): Promise<void> {
    await this.#call('domainAbortJob', uuid);
  }

  /** Bounds a migration or a live snapshot, also one under way; a plain save takes what it can. */
  async domainMigrateSetMaxSpeed(uuid: string, mebibytesPerSecond: number): Promise<void> {
    await this.#call('domainMigrateSetMaxSpeed', uuid, mebibytesPerSecond, 0);
  }

  async domainUpdateDevice(uuid: string, xml: string, affect = 0): Promise<void> {
    await this.#call('domainUpdateDevice', uuid, xml, affect);
  }

  /** Sets the guest's clock through its agent. Rejects with AGENT_UNRESPONSIVE or ARGUMENT_UNSUPPORTED without one. */
  async domainSetTime(uuid: string, seconds: number, nanoseconds: number, flags = 0): Promise<void> {
    await this.#call('domainSetTime', uuid, seconds, nanoseconds, flags);
  }

  /** JSON to the guest's agent and back. `timeout` in seconds, or one of AgentTimeout. */
  domainAgentCommand(uuid: string, command: string, timeout: number): Promise<string> {
    return this.#call('domainAgentCommand', uuid, command, timeout, 0);
  }

  /** JSON to QEMU's monitor and back; libvirt marks the domain as tainted. */
  domainMonitorCommand(uuid: string, command: string, flags = 0): Promise<string> {
    return this.#call('domainMonitorCommand', uuid, command, flags);
  }

  // Networks

  /** `flags` of ListNetworks; 0 lists all. */
  networks(flags = 0): Promise<Named[]> {
    return this.#call('networks', flags);
  }

  /** Rejects with NO_NETWORK, as every call does that names a network libvirt does not know. */
  networkByUUID(uuid: string): Promise<Named> {
    return this.#call('networkByUUID', uuid);
  }

  networkByName(name: string): Promise<Named> {
    return this.#call('networkByName', name);
  }

  async networkIsActive(uuid: string): Promise<boolean> {
    return (await this.#call('networkIsActive', uuid)) === 1;
  }

  networkXML(uuid: string, flags = 0): Promise<string> {
    return this.#call('networkXML', uuid, flags);
  }

  networkAutostart(uuid: string): Promise<boolean> {
    return this.#call('networkAutostart', uuid);
  }

  async networkSetAutostart(uuid: string, on: boolean): Promise<void> {
    await this.#call('networkSetAutostart', uuid, Number(on));
  }

  networkDefine(xml: string): Promise<Named> {
    return this.#call('networkDefine', xml);
  }

  async networkUndefine(uuid: string): Promise<void> {
    await this.#call('networkUndefine', uuid);
  }

  /** Starts it: bridge, dnsmasq, firewall rules. */
  async networkCreate(uuid: string): Promise<void> {
    await this.#call('networkCreate', uuid);
  }

  /** Stops it. */
  async networkDestroy(uuid: string): Promise<void> {
    await this.#call('networkDestroy', uuid);
  }

  /** Changes one section. ADD of what is there already rejects with OPERATION_INVALID. */
  async networkUpdate(
    uuid: string,
    command: number,
    section: number,
    xml: string,
    affect: number,
    parentIndex = -1,
  ): Promise<void> {
    await this.#call('networkUpdate', uuid, command, section, parentIndex, xml, affect);
  }
}

export interface EmulatorChoice {
  emulator?: string;
  arch?: string;
  machine?: string;
  /** `kvm` or `qemu`. */
  type?: string;
}

export interface DomainInfo {
  state: DomainState;
  maxMemory: number;
  memory: number;
  vcpus: number;
  cpuTime: number;
}

export interface JobStats {
  type: number;
  [field: string]: number | string | boolean;
}

/** Numbers are passed as C's int. */
export type TypedParameters = Record<string, string | number | boolean>;

/** Opens a connection for one call that may take long, and closes it whatever happens. */
export async function withOwnConnection<T>(uri: string, use: (connection: Connection) => Promise<T>): Promise<T> {
  const connection = await Connection.open(uri);
  try {
    return await use(connection);
  } finally {
    await connection.close();
  }
}
