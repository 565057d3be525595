/** The addon as C++ makes it: `src/libvirt.cc` holds the same table. Nothing outside this package imports it. */
import { createRequire } from 'node:module';

/** What a promise of the addon rejects with; `connection.ts` makes a LibvirtError of it. */
export interface NativeFailure {
  message: string;
  code: number;
  domain: number;
  level: number;
}

interface Named {
  uuid: string;
  name: string;
}

/** A C function that gives 0 when it has done what it is for. */
type Done = Promise<number>;

export interface NativeConnection {
  close(): Promise<void>;
  isAlive(): Promise<number>;
  libVersion(): Promise<number>;
  version(): Promise<number>;
  hostname(): Promise<string>;
  uri(): Promise<string>;
  capabilities(): Promise<string>;
  domainCapabilities(
    emulator: string | null,
    arch: string | null,
    machine: string | null,
    virttype: string | null,
    flags: number,
  ): Promise<string>;
  compareCPU(
    emulator: string | null,
    arch: string | null,
    machine: string | null,
    virttype: string | null,
    cpu: string,
    flags: number,
  ): Promise<number>;
  nodeInfo(): Promise<{ model: string; memory: number; cpus: number }>;
  nodeMemoryStats(): Promise<Record<string, number>>;
  nodeFreeMemory(): Promise<number>;

  domains(flags: number): Promise<Named[]>;
  domainByUUID(uuid: string): Promise<Named>;
  domainByName(name: string): Promise<Named>;
  domainState(uuid: string): Promise<{ state: number; reason: number }>;
  domainInfo(
    uuid: string,
  ): Promise<{ state: number; maxMemory: number; memory: number; vcpus: number; cpuTime: number }>;
  domainIsActive(uuid: string): Promise<number>;
  domainIsPersistent(uuid: string): Promise<number>;
  domainXML(uuid: string, flags: number): Promise<string>;
  domainMetadata(uuid: string, type: number, uri: string | null, flags: number): Promise<string>;
  domainSetMetadata(
    uuid: string,
    type: number,
    metadata: string | null,
    key: string | null,
    uri: string | null,
    flags: number,
  ): Done;
  domainAutostart(uuid: string): Promise<boolean>;
  domainSetAutostart(uuid: string, on: number): Done;
  domainDefine(xml: string, flags: number): Promise<Named>;
  domainUndefine(uuid: string, flags: number): Done;
  domainCreate(uuid: string, flags: number): Done;
  domainCreateXML(xml: string, flags: number): Promise<Named>;
  domainDestroy(uuid: string, flags: number): Done;
  domainShutdown(uuid: string, flags: number): Done;
  domainSuspend(uuid: string): Done;
  domainResume(uuid: string): Done;
  domainSave(uuid: string, to: string, xml: string | null, flags: number): Done;
  domainSaveParams(uuid: string, parameters: object, flags: number): Done;
  domainRestore(from: string, xml: string | null, flags: number): Done;
  domainRestoreParams(parameters: object, flags: number): Done;
  saveImageXML(path: string, flags: number): Promise<string>;
  domainSnapshotCreateXML(uuid: string, xml: string, flags: number): Promise<string>;
  domainJobStats(uuid: string, flags: number): Promise<{ type: number; [field: string]: number | string | boolean }>;
  domainAbortJob(uuid: string): Done;
  domainMigrateSetMaxSpeed(uuid: string, mebibytesPerSecond: number, flags: number): Done;
  domainUpdateDevice(uuid: string, xml: string, flags: number): Done;
  domainSetTime(uuid: string, seconds: number, nanoseconds: number, flags: number): Done;
  domainAgentCommand(uuid: string, command: string, timeoutSeconds: number, flags: number): Promise<string>;
  domainMonitorCommand(uuid: string, command: string, flags: number): Promise<string>;

  networks(flags: number): Promise<Named[]>;
  networkByUUID(uuid: string): Promise<Named>;
  networkByName(name: string): Promise<Named>;
  networkIsActive(uuid: string): Promise<number>;
  networkXML(uuid: string, flags: number): Promise<string>;
  networkAutostart(uuid: string): Promise<boolean>;
  networkSetAutostart(uuid: string, on: number): Done;
  networkDefine(xml: string): Promise<Named>;
  networkUndefine(uuid: string): Done;
  networkCreate(uuid: string): Done;
  networkDestroy(uuid: string): Done;
  networkUpdate(uuid: string, command: number, section: number, parentIndex: number, xml: string, flags: number): Done;
}

export type NativeEvent =
  | { kind: 'lifecycle'; about: { uuid: string; name: string; event: number; detail: number } }
  | { kind: 'close'; about: { reason: number } };

interface Native {
  /** `subscriber` 0 asks for no events. */
  open(uri: string, keepaliveSeconds: number, keepaliveCount: number, subscriber: number): Promise<NativeConnection>;
  /** Sets the one function of this environment that is told of every event. */
  listen(listener: (subscriber: number, kind: NativeEvent['kind'], about: NativeEvent['about']) => void): void;
}

export const native = createRequire(import.meta.url)('./build/libvirt.node') as Native;
