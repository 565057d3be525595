/**
 * A hypervisor in memory, with the traps of the real one: a libvirtd that dies while it saves sets the guest running
 * again when it comes back, unless the guest was suspended before; a complete save file does not mean that QEMU is gone;
 * restored domains are transient; QEMU may outlive libvirt's knowledge of it.
 *
 * It writes and reads real save files, whose RAM is a text that a test can choose and find again.
 */
import { readFile, rm, writeFile } from 'node:fs/promises';
import { dirname } from 'node:path';
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

interface Qemu extends ProcessIdentity {
  xml: string;
  running: boolean;
  ram: string;
  /** Writes a save file now; `wasRunning` is what libvirtd sets it to when it comes back. */
  saving: { abort: AbortController; done: number; total: number; wasRunning: boolean } | null;
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

  /** kill -9: saves under way go no further, QEMU lives. */
  killLibvirtd(): void {
    this.#up = false;
    for (const qemu of this.#qemus.values()) qemu.saving?.abort.abort(new Error('libvirtd died'));
  }
  startLibvirtd(): void {
    this.#up = true;
    for (const qemu of this.#qemus.values()) {
      if (qemu.saving) qemu.running = qemu.saving.wasRunning;
      qemu.saving = null;
    }
  }

  /** libvirt takes the domain for shut off, or forgets a transient one, while QEMU lives on. */
  orphan(instanceId: InstanceId): void {
    this.#orphans.add(instanceId);
    if (this.#domains.get(instanceId)?.config === null) this.#domains.delete(instanceId);
  }
  readonly #orphans = new Set<InstanceId>();

  /** The host loses power and boots again. */
  powerLoss(): void {
    this.killLibvirtd();
    for (const id of [...this.#qemus.keys()]) this.#end(id);
    for (const [id, { config }] of this.#domains) if (config === null) this.#domains.delete(id);
    this.startLibvirtd();
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
      this.#run(instanceId, { xml: config, running: true, ram: '' });
    });
  }

  destroy(instanceId: InstanceId): Promise<void> {
    return this.#call('destroy', () => {
      this.#end(instanceId);
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
      this.#qemu(instanceId).running = false;
    });
  }

  resume(instanceId: InstanceId): Promise<void> {
    return this.#call('resume', () => {
      this.#qemu(instanceId).running = true;
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
        await readFile(disk.path).catch((error: unknown) => {
          throw new VmferryError('LibvirtFailed', `Cannot access storage file '${disk.path}'`, { cause: error });
        });
      }
      if (!this.#domains.has(uuid)) this.#domains.set(uuid, { name, config: null, autostart: false });
      this.#run(uuid, { xml, running: false, ram: (await readFile(path)).toString('utf8', streamOffset + 8) });
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
    return answer();
  }

  async #save(instanceId: InstanceId, path: string): Promise<void> {
    const qemu = this.#qemu(instanceId);
    if (qemu.saving) throw failed('another job is active');
    if (dirname(path) === this.#options.fullFolder) throw new VmferryError('NoSpace', `save to ${path}: no space`);
    const file = fakeSaveFile({ xml: qemu.xml, ram: qemu.ram, wasRunning: qemu.running });
    qemu.saving = { abort: new AbortController(), done: 0, total: file.length, wasRunning: qemu.running };
    const { signal } = qemu.saving.abort;
    const wasRunning = qemu.running;
    qemu.running = false;
    await writeFile(path, fakeSaveFile({ xml: qemu.xml, ram: '', wasRunning, complete: false }));
    try {
      await sleep(this.#options.saveMillis ?? 30, undefined, { signal });
      qemu.saving.done = file.length;
      await writeFile(path, file);
      await sleep(this.#options.killMillis ?? 20, undefined, { signal });
    } catch {
      if (!this.#up) throw failed('Connection reset by peer');
      await rm(path, { force: true });
      qemu.running = wasRunning;
      qemu.saving = null;
      throw failed('operation aborted: job canceled by client');
    }
    this.#end(instanceId);
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

  #run(instanceId: InstanceId, qemu: Pick<Qemu, 'xml' | 'running' | 'ram'>): void {
    const pid = ++this.#lastPid;
    this.#qemus.set(instanceId, { ...qemu, pid, startTime: pid * 7, saving: null });
    this.#alive.add(`${pid}:${pid * 7}`);
  }

  #end(instanceId: InstanceId): void {
    const qemu = this.#qemus.get(instanceId);
    if (qemu) this.#alive.delete(`${qemu.pid}:${qemu.startTime}`);
    this.#qemus.delete(instanceId);
    this.#orphans.delete(instanceId);
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

function failed(message: string): VmferryError {
  return new VmferryError('LibvirtFailed', message);
}
