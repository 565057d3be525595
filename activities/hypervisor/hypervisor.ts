/**
 * What the steps need from a hypervisor. The real one is libvirt (`libvirt-hypervisor.ts`); a fake one serves unit
 * tests, and both pass `test/contracts/hypervisor.ts`.
 */
import type { InstanceId, Requirements } from '../../workflows/contract.ts';
import type { DomainState } from '../../workflows/findings.ts';
import type { ProcessIdentity } from '../exec/process-identity.ts';

export type { DomainState, ProcessIdentity };

export interface Domain {
  instanceId: InstanceId;
  name: string;
  state: DomainState;
  /** Still there after it stops. */
  persistent: boolean;
  autostart: boolean;
  /** Null when no QEMU process runs for it. */
  process: ProcessIdentity | null;
}

export interface SaveInProgress {
  /** Settles when libvirt's call returns; by then QEMU is gone. Rejects with LibvirtFailed, or NoSpace. */
  finished: Promise<void>;
}

export interface HypervisorFacts {
  /** As libvirt names it. */
  architecture: string;
  hostname: string;
  libvirtVersion: string;
  qemuVersion: string;
  /** Domain types that really work here: KVM is probed by running something under it, never believed. */
  domainTypes: ('qemu' | 'kvm')[];
  /** Emulator binary by architecture. */
  emulators: Record<string, string>;
  /** Versioned machine types offered for the host's own architecture. */
  machines: string[];
  freeMemoryBytes: number;
}

/** All calls reject with VmferryError `LibvirtFailed` (libvirt's code and message in it) unless said otherwise. */
export interface Hypervisor {
  facts(): Promise<HypervisorFacts>;
  /**
   * Null if libvirt knows no such domain and no QEMU of it lives. A QEMU that libvirt has lost sight of is reported as a
   * process beside the state `shut off`.
   */
  find(instanceId: InstanceId): Promise<Domain | null>;
  list(): Promise<Domain[]>;
  /** Live XML, or the persistent one with `inactive`. Always includes security-sensitive and migratable details. */
  domainXml(instanceId: InstanceId, which: 'live' | 'inactive'): Promise<string>;
  define(xml: string): Promise<void>;
  /** Forgets the persistent configuration, with NVRAM and snapshots metadata; no error if there is none. */
  undefine(instanceId: InstanceId): Promise<void>;
  /** Boots a defined domain. */
  start(instanceId: InstanceId): Promise<void>;
  /** Kills QEMU; no error if nothing runs. Resolves when the process is gone. */
  destroy(instanceId: InstanceId): Promise<void>;
  setAutostart(instanceId: InstanceId, on: boolean): Promise<void>;
  /** Stops the vCPUs; resolves when libvirt reports `paused`. */
  suspend(instanceId: InstanceId): Promise<void>;
  resume(instanceId: InstanceId): Promise<void>;
  /** Begins a save on a connection of its own; the file is complete when `saveFileState` (save-file.ts) says so. */
  save(instanceId: InstanceId, path: string): SaveInProgress;
  /** Bytes written so far by a running save, of how many; null when no job runs. */
  saveProgress(instanceId: InstanceId): Promise<{ done: number; total: number } | null>;
  /** Ends a running job of the domain; no error if none runs. */
  abortJob(instanceId: InstanceId): Promise<void>;
  /** Restores a save file with the vCPUs stopped. The file is not changed. */
  restorePaused(path: string): Promise<void>;
  /** Is this process alive? */
  processAlive(process: ProcessIdentity): Promise<boolean>;
  /** Sets the guest's clock through its agent; false if no agent answers within `timeoutMs`. */
  setGuestTime(instanceId: InstanceId, timeoutMs: number): Promise<boolean>;
  /** CPU in these requirements can run here: throws IncompatibleHost naming what lacks. */
  checkCompatible(requirements: Requirements): Promise<void>;
  close(): Promise<void>;
}
