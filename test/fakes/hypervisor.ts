/**
 * A hypervisor in memory, with the traps of the real one: a libvirtd that dies while it saves sets the guest running
 * again when it comes back, unless the guest was suspended before; a complete save file does not mean that QEMU is gone;
 * a guest whose save was cut off must be resumed before it can be saved again; restored domains are transient; QEMU may
 * outlive libvirt's knowledge of it; a host that boots starts what has autostart.
 *
 * It writes and reads real save files, whose RAM is a text that a test can choose and find again. With a `FakeGuest` the
 * text is the guest's own, and the disks are open files, written to as QEMU writes to them.
 *
 * libvirt and QEMU are processes of their own, so all that is done to files here is done by calls that the crash points
 * of a dying worker (test/support/crash-points.ts) do not see.
 */
import { closeSync, existsSync, openSync, readFileSync, readSync, rmSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { once } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';
import { describeDomain } from '../../activities/hypervisor/domain-xml.ts';
import type {
  Domain,
  Hypervisor,
  HypervisorFacts,
  ProcessIdentity,
  SaveInProgress,
} from '../../activities/hypervisor/hypervisor.ts';
import { readSaveHeader } from '../../activities/hypervisor/save-file.ts';
import type { InstanceId, Requirements } from '../../workflows/contract.ts';
import { VmferryError } from '../../workflows/failures.ts';
import { fakeSaveFile } from './save-file.ts';

/** Why vCPUs begin to run: asked for, or by libvirt's own doing. */
export type RunCause = 'start' | 'resume' | 'autostart' | 'libvirtd came back' | 'save ended';

/** What a guest does, and who watches its vCPUs. Disks are descriptors that QEMU holds open, for reading and writing. */
export interface FakeGuest {
  /** @returns RAM of a guest that boots from these disks */
  boot(instanceId: InstanceId, disks: readonly number[]): string;
  /** QEMU has opened the disks of a guest that it restores; the vCPUs are stopped. */
  restored(instanceId: InstanceId, disks: readonly number[]): void;
  /** @returns its RAM from here on */
  runs(instanceId: InstanceId, ram: string, disks: readonly number[], cause: RunCause): string;
  /** QEMU has flushed the disks before it says that the vCPUs are stopped. */
  stops(instanceId: InstanceId, disks: readonly number[]): void;
  ends(instanceId: InstanceId, was: EndedQemu): void;
}

/** A QEMU that is gone. */
export interface EndedQemu {
  running: boolean;
  /** Its vCPUs have run at some time. */
  ran: boolean;
  /** It was ended by force, not by the end of a save. */
  killed: boolean;
  /** Of its first disk. */
  disk: string;
}

interface Qemu extends ProcessIdentity {
  xml: string;
  running: boolean;
  ran: boolean;
  ram: string;
  disks: number[];
  /** Writes a save file now; `wasRunning` is what libvirtd sets it to when it comes back. */
  saving: { abort: AbortController; done: number; total: number; wasRunning: boolean } | null;
  /** Stopped by a save that a dead libvirtd left: QEMU wants to be resumed before the next. */
  cutOff: boolean;
}

interface FakeDomain {
  name: string;
  /** Null for a transient domain. */
  config: string | null;
  autostart: boolean;
}

export interface FakeOptions {
  facts?: Partial<HypervisorFacts>;
  /** Milliseconds until a save file is complete, and then until QEMU is gone. Default 30 and 20. */
  saveMillis?: number;
  killMillis?: number;
  /** Instead of these milliseconds: a save goes on when this resolves. */
  savePace?: (about: 'to write the file' | 'to end QEMU', instanceId: InstanceId) => Promise<void>;
  /** Without one, RAM is a text that nobody changes and disks are left alone. */
  guest?: FakeGuest;
  /** Saves into this folder find no space. */
  fullFolder?: string;
  /** Has the guest an agent? Default true. */
  agent?: boolean;
}

export class FakeHypervisor implements Hypervisor {
  readonly #domains = new Map<InstanceId, FakeDomain>();
  readonly #qemus = new Map<InstanceId, Qemu>();
  readonly #alive = new Set<string>();
  readonly #options: FakeOptions;
  readonly #failures = new Map<string, VmferryError>();
  #lastPid = 1000;
  #up = true;
  /** Names of the calls so far, for tests that look at what was asked and in which order. */
  readonly calls: string[] = [];

  constructor(options: FakeOptions = {}) {
    this.#options = options;
  }

  // ---- What tests do to it ----

  /** The next call of this name rejects. */
  failNext(call: keyof Hypervisor, error: VmferryError): void {
    this.#failures.set(call, error);
  }

  /** RAM of the running guest. */
  setRam(instanceId: InstanceId, ram: string): void {
    this.#qemu(instanceId).ram = ram;
  }
  ramOf(instanceId: InstanceId): string {
    return this.#qemu(instanceId).ram;
  }
  /** The guest does something, if its vCPUs run. */
  act(instanceId: InstanceId, act: (ram: string, disks: readonly number[]) => string): boolean {
    const qemu = this.#qemus.get(instanceId);
    if (qemu?.running) qemu.ram = act(qemu.ram, qemu.disks);
    return qemu?.running === true;
  }
  /** Instances with a QEMU here, whatever libvirtd knows. */
  processes(): { instanceId: InstanceId; running: boolean; ran: boolean; ram: string; saving: boolean }[] {
    return [...this.#qemus].map(([instanceId, { running, ran, ram, saving }]) => ({
      instanceId,
      running,
      ran,
      ram,
      saving: saving !== null,
    }));
  }
  get libvirtdRuns(): boolean {
    return this.#up;
  }
  /** kill -9 of the QEMU process. */
  killQemu(instanceId: InstanceId): void {
    this.#end(instanceId, true);
    if (this.#domains.get(instanceId)?.config === null) this.#domains.delete(instanceId);
  }

  /** kill -9: saves under way go no further, QEMU lives. */
  killLibvirtd(): void {
    this.#up = false;
    for (const qemu of this.#qemus.values()) qemu.saving?.abort.abort(GONE);
  }
  startLibvirtd(): void {
    this.#up = true;
    for (const [instanceId, qemu] of this.#qemus) {
      const { saving } = qemu;
      qemu.saving = null;
      if (!saving) continue;
      qemu.cutOff = true;
      if (saving.wasRunning) this.#go(instanceId, qemu, 'libvirtd came back');
    }
  }

  /** libvirt takes the domain for shut off, or forgets a transient one, while QEMU lives on. */
  orphan(instanceId: InstanceId): void {
    this.#orphans.add(instanceId);
    if (this.#domains.get(instanceId)?.config === null) this.#domains.delete(instanceId);
  }
  readonly #orphans = new Set<InstanceId>();

  /** The host loses power and boots again. `dark` happens in between: what becomes of its disk. */
  powerLoss(dark: () => void = () => undefined): void {
    this.killLibvirtd();
    for (const id of [...this.#qemus.keys()]) this.#end(id, true);
    for (const [id, { config }] of this.#domains) if (config === null) this.#domains.delete(id);
    dark();
    this.startLibvirtd();
    for (const [id, { config, autostart }] of this.#domains) {
      if (config !== null && autostart) this.#boot(id, config, 'autostart');
    }
  }

  // ---- The port ----

  facts(): Promise<HypervisorFacts> {
    return this.#call('facts', () => ({
      architecture: 'x86_64',
      hostname: 'fake',
      libvirtVersion: '9.0.0',
      qemuVersion: '7.2.22',
      domainTypes: ['qemu'],
      emulators: { x86_64: '/usr/bin/qemu-system-x86_64' },
      machines: ['pc-q35-7.1', 'pc-q35-7.2'],
      freeMemoryBytes: 8 * 2 ** 30,
      ...this.#options.facts,
    }));
  }

  find(instanceId: InstanceId): Promise<Domain | null> {
    return this.#call('find', () => this.#describe(instanceId));
  }

  list(): Promise<Domain[]> {
    return this.#call('list', () =>
      [...new Set([...this.#domains.keys(), ...this.#qemus.keys()])]
        .map((id) => this.#describe(id))
        .filter((domain) => domain !== null),
    );
  }

  domainXml(instanceId: InstanceId, which: 'live' | 'inactive'): Promise<string> {
    return this.#call('domainXml', () => {
      const { config } = this.#domain(instanceId);
      const live = this.#qemus.get(instanceId)?.xml;
      return (which === 'inactive' ? (config ?? live) : (live ?? config)) ?? '';
    });
  }

  define(xml: string): Promise<void> {
    return this.#call('define', () => {
      const { uuid, name } = describeDomain(xml);
      if (uuid === '' || name === '') throw failed('missing domain name or uuid');
      for (const [id, other] of this.#domains) {
        if (other.name === name && id !== uuid) throw failed(`domain '${name}' is already defined with uuid ${id}`);
      }
      this.#domains.set(uuid, { name, autostart: this.#domains.get(uuid)?.autostart ?? false, config: xml });
    });
  }

  undefine(instanceId: InstanceId): Promise<void> {
    return this.#call('undefine', () => {
      const domain = this.#domains.get(instanceId);
      if (!domain) return;
      if (this.#active(instanceId)) this.#domains.set(instanceId, { ...domain, autostart: false, config: null });
      else this.#domains.delete(instanceId);
    });
  }

  start(instanceId: InstanceId): Promise<void> {
    return this.#call('start', () => {
      const { config } = this.#domain(instanceId);
      if (this.#active(instanceId)) return;
      if (config === null) throw failed(`domain ${instanceId} is transient`);
      this.#boot(instanceId, config, 'start');
    });
  }

  destroy(instanceId: InstanceId): Promise<void> {
    return this.#call('destroy', () => {
      this.#end(instanceId, true);
      if (this.#domains.get(instanceId)?.config === null) this.#domains.delete(instanceId);
    });
  }

  setAutostart(instanceId: InstanceId, on: boolean): Promise<void> {
    return this.#call('setAutostart', () => {
      const domain = this.#domain(instanceId);
      if (domain.config !== null) domain.autostart = on;
      else if (on) throw failed('cannot set autostart for transient domain');
    });
  }

  suspend(instanceId: InstanceId): Promise<void> {
    return this.#call('suspend', () => {
      this.#stop(instanceId, this.#qemu(instanceId));
    });
  }

  resume(instanceId: InstanceId): Promise<void> {
    return this.#call('resume', () => {
      const qemu = this.#qemu(instanceId);
      if (qemu.saving) throw failed('cannot acquire state change lock (held by the job of a save)');
      qemu.cutOff = false;
      this.#go(instanceId, qemu, 'resume');
    });
  }

  save(instanceId: InstanceId, path: string): SaveInProgress {
    const finished = this.#call('save', () => this.#save(instanceId, path));
    finished.catch(() => {});
    return { finished };
  }

  saveProgress(instanceId: InstanceId): Promise<{ done: number; total: number } | null> {
    return this.#call('saveProgress', () => {
      const saving = this.#qemus.get(instanceId)?.saving;
      return saving ? { done: saving.done, total: saving.total } : null;
    });
  }

  abortJob(instanceId: InstanceId): Promise<void> {
    return this.#call('abortJob', () => this.#qemus.get(instanceId)?.saving?.abort.abort());
  }

  restorePaused(path: string): Promise<void> {
    return this.#call('restorePaused', async () => {
      const { xml, streamOffset } = await readSaveHeader(path);
      const { uuid, name, disks } = describeDomain(xml);
      if (this.#qemus.has(uuid)) throw failed(`domain '${name}' is already active`);
      for (const disk of disks) {
        try {
          readFileSync(disk.path);
        } catch (cause) {
          throw new VmferryError('LibvirtFailed', `Cannot access storage file '${disk.path}'`, { cause });
        }
      }
      if (!this.#domains.has(uuid)) this.#domains.set(uuid, { name, config: null, autostart: false });
      const qemu = this.#run(uuid, xml, readFileSync(path).toString('utf8', streamOffset + 8));
      this.#options.guest?.restored(uuid, qemu.disks);
    });
  }

  processAlive({ pid, startTime }: ProcessIdentity): Promise<boolean> {
    return Promise.resolve(this.#alive.has(`${pid}:${startTime}`));
  }

  setGuestTime(instanceId: InstanceId, timeoutMs: number): Promise<boolean> {
    return this.#call('setGuestTime', async () => {
      const answers = (this.#options.agent ?? true) && this.#qemus.get(instanceId)?.running === true;
      if (!answers) await sleep(Math.min(timeoutMs, 10));
      return answers;
    });
  }

  checkCompatible(requirements: Requirements): Promise<void> {
    return this.#call('checkCompatible', async () => {
      const { machines, domainTypes, emulators, qemuVersion } = await this.facts();
      const lacks = (what: string): VmferryError => new VmferryError('IncompatibleHost', `host fake ${what}`);
      if (!emulators[requirements.architecture]) throw lacks(`has no emulator for ${requirements.architecture}`);
      if (!domainTypes.includes(requirements.domainType)) throw lacks(`has no ${requirements.domainType} that works`);
      if (!machines.includes(requirements.machine)) throw lacks(`does not offer machine type ${requirements.machine}`);
      const [own, wanted] = [qemuVersion, requirements.qemuVersion].map((version) => Number.parseFloat(version));
      if (own! < wanted!) throw lacks(`has QEMU ${qemuVersion}`);
      if (requirements.cpu.includes('EPYC')) throw lacks('cannot offer the guest’s CPU');
    });
  }

  close(): Promise<void> {
    return Promise.resolve();
  }

  // ---- Inside ----

  async #call<T>(name: keyof Hypervisor, answer: () => T | Promise<T>): Promise<T> {
    this.calls.push(name);
    const failure = this.#failures.get(name);
    if (failure) {
      this.#failures.delete(name);
      throw failure;
    }
    if (!this.#up) throw failed('Failed to connect socket to libvirt-sock');
    await sleep(0);
    if (!this.#up) throw failed('Connection reset by peer');
    return answer();
  }

  async #save(instanceId: InstanceId, path: string): Promise<void> {
    const qemu = this.#qemu(instanceId);
    if (qemu.saving) throw failed('another job is active');
    const { savePace } = this.#options;
    if (qemu.cutOff) {
      writeFileSync(path, fakeSaveFile({ xml: qemu.xml, ram: '', complete: false }));
      throw failed("Can't migrate the vm that was paused due to previous migration");
    }
    if (dirname(path) === this.#options.fullFolder) throw new VmferryError('NoSpace', `save to ${path}: no space`);
    const file = fakeSaveFile({ xml: qemu.xml, ram: qemu.ram, wasRunning: qemu.running });
    qemu.saving = { abort: new AbortController(), done: 0, total: file.length, wasRunning: qemu.running };
    const { signal } = qemu.saving.abort;
    const wasRunning = qemu.running;
    this.#stop(instanceId, qemu);
    writeFileSync(path, fakeSaveFile({ xml: qemu.xml, ram: '', wasRunning, complete: false }));
    const aborted = once(signal, 'abort').then(() => Promise.reject(new Error('aborted')));
    aborted.catch(() => undefined); // it is raced below
    const pace = (about: Parameters<NonNullable<typeof savePace>>[0], millis: number): Promise<void> =>
      Promise.race([savePace ? savePace(about, instanceId) : sleep(millis, undefined, { signal }), aborted]);
    try {
      await pace('to write the file', this.#options.saveMillis ?? 30);
      qemu.saving.done = file.length;
      writeFileSync(path, file);
      await pace('to end QEMU', this.#options.killMillis ?? 20);
    } catch {
      if (signal.reason === GONE) throw failed('Connection reset by peer');
      rmSync(path, { force: true });
      qemu.saving = null;
      if (wasRunning) this.#go(instanceId, qemu, 'save ended');
      throw failed('operation aborted: job canceled by client');
    }
    this.#end(instanceId, false);
    if (this.#domains.get(instanceId)?.config === null) this.#domains.delete(instanceId);
  }

  #describe(instanceId: InstanceId): Domain | null {
    const domain = this.#domains.get(instanceId);
    const qemu = this.#qemus.get(instanceId);
    const process = qemu ? { pid: qemu.pid, startTime: qemu.startTime } : null;
    if (!domain && !qemu) return null;
    const known = qemu && !this.#orphans.has(instanceId);
    return {
      instanceId,
      name: domain?.name ?? describeDomain(qemu!.xml).name,
      state: !known ? 'shut off' : qemu.running ? 'running' : 'paused',
      persistent: domain !== undefined && domain.config !== null,
      autostart: domain?.autostart ?? false,
      process,
    };
  }

  #active(instanceId: InstanceId): boolean {
    return this.#qemus.has(instanceId) && !this.#orphans.has(instanceId);
  }

  #boot(instanceId: InstanceId, config: string, cause: RunCause): void {
    const qemu = this.#run(instanceId, config, '');
    qemu.ram = this.#options.guest?.boot(instanceId, qemu.disks) ?? '';
    this.#go(instanceId, qemu, cause);
  }

  /** A new QEMU process, its vCPUs stopped. */
  #run(instanceId: InstanceId, xml: string, ram: string): Qemu {
    const disks: number[] = [];
    try {
      if (this.#options.guest) for (const { path } of describeDomain(xml).disks) disks.push(openDisk(path));
    } catch (cause) {
      throw new VmferryError('LibvirtFailed', `QEMU cannot open the disks of ${instanceId}`, { cause });
    }
    const pid = ++this.#lastPid;
    const stopped = { running: false, ran: false, saving: null, cutOff: false };
    const qemu: Qemu = { ...stopped, xml, ram, disks, pid, startTime: pid * 7 };
    this.#qemus.set(instanceId, qemu);
    this.#alive.add(`${pid}:${pid * 7}`);
    return qemu;
  }

  #go(instanceId: InstanceId, qemu: Qemu, cause: RunCause): void {
    if (qemu.running) return;
    qemu.running = true;
    qemu.ran = true;
    const { guest } = this.#options;
    if (guest) qemu.ram = guest.runs(instanceId, qemu.ram, qemu.disks, cause);
  }

  #stop(instanceId: InstanceId, qemu: Qemu): void {
    if (!qemu.running) return;
    qemu.running = false;
    this.#options.guest?.stops(instanceId, qemu.disks);
  }

  #end(instanceId: InstanceId, killed: boolean): void {
    const qemu = this.#qemus.get(instanceId);
    if (!qemu) return;
    qemu.saving?.abort.abort(GONE);
    this.#alive.delete(`${qemu.pid}:${qemu.startTime}`);
    this.#qemus.delete(instanceId);
    this.#orphans.delete(instanceId);
    for (const disk of qemu.disks) closeSync(disk);
    const { running, ran, xml } = qemu;
    this.#options.guest?.ends(instanceId, { running, ran, killed, disk: describeDomain(xml).disks[0]?.path ?? '' });
  }

  #domain(instanceId: InstanceId): FakeDomain {
    const domain = this.#domains.get(instanceId);
    if (!domain) throw failed(`Domain not found: no domain with matching uuid '${instanceId}'`);
    return domain;
  }

  #qemu(instanceId: InstanceId): Qemu {
    this.#domain(instanceId);
    const qemu = this.#active(instanceId) ? this.#qemus.get(instanceId) : undefined;
    if (!qemu) throw failed(`Requested operation is not valid: domain ${instanceId} is not running`);
    return qemu;
  }
}

/** Why a save ends whose libvirtd or QEMU is no more: nobody is there to tidy up after it. */
const GONE = new Error('the process is gone');

/** A descriptor of an overlay whose base is there too, by the name in its header. */
function openDisk(path: string): number {
  const disk = openSync(path, 'r+');
  const header = Buffer.alloc(4096);
  readSync(disk, header, 0, header.length, 0);
  const at = Number(header.readBigUInt64BE(8));
  const base = header.toString('utf8', at, at + header.readUInt32BE(16));
  if (at > 0 && base.startsWith('/') && existsSync(base)) return disk;
  closeSync(disk);
  throw new Error(`${path} has no base ${base}`);
}

function failed(message: string): VmferryError {
  return new VmferryError('LibvirtFailed', message);
}
