/**
 * The observers' thread: it looks at processes, consoles and files of all hosts, whatever the campaign's own thread is busy
 * with. It runs ahead of other programs, so that its looks come in time though the guests take all there is.
 */
import { readlinkSync } from 'node:fs';
import { parentPort, workerData } from 'node:worker_threads';
import { run } from '../../../activities/exec/run.ts';
import type { History, HostState, Outage } from '../history.ts';
import { calibrate, now } from './clock.ts';
import { ConsoleObserver } from './consoles.ts';
import { Hosts } from './hosts.ts';
import { hostState } from './host-state.ts';
import { LibvirtObserver } from './libvirt.ts';
import { PackageObserver } from './packages.ts';
import { QemuObserver } from './qemus.ts';
import { StateDirectory, type Findings } from './state-directory.ts';

/** Milliseconds between two looks. */
const EVERY = {
  /** At the vCPUs: an overlap that is shorter may be missed. */
  vcpus: 20,
  /** At consoles, and for new processes. */
  consoles: 100,
  /** At disks and save files. */
  files: 200,
  consoleTurns: 500,
  hosts: 1_000,
  /** At all that inotify should have told of. */
  folders: 2_000,
  clock: 10_000,
} as const;

export interface ThreadData {
  testbed: string;
  /** State directory on the machine, by host. */
  hosts: Record<string, string>;
  /** Turns from 0 to 1 after `lastLook`, for a caller who waits without an event loop. */
  lastLookTaken: Int32Array<SharedArrayBuffer>;
}

/** What the thread is asked, and what it answers. */
export interface Calls {
  /** Everything seen so far. */
  collect(): Observed;
  /** On which host an instance runs, or ran last. */
  whereabouts(instance: string): string | null;
  /** Looks at everything once more: packages are read again (null: all), hosts asked for what they know. */
  settle(packages: string[] | null): Promise<HostState[]>;
  /** The host is frozen, and loses its power when `lastLookTaken` has turned to 1. */
  lastLook(host: string): void;
  stop(): Promise<void>;
}

export type Observed = Pick<
  History,
  'outages' | 'qemus' | 'events' | 'consoles' | 'ledger' | 'records' | 'things' | 'packages' | 'looks'
>;

const { testbed, hosts: roots, lastLookTaken } = workerData as ThreadData;
const port = parentPort;
if (!port) throw new Error('this is a worker thread');

const hosts = new Hosts(testbed, Object.keys(roots));
const qemus = new QemuObserver(hosts);
const consoles = new ConsoleObserver();
const packages = new PackageObserver();
const libvirt = new LibvirtObserver(hosts);
const outages: Outage[] = [];
const findings: Findings = { ledger: [], records: [], things: [] };
const directories = new Map(
  Object.entries(roots).map(([host, root]) => {
    const directory = new StateDirectory(host, root, findings, {
      onConsole: (instance, generation, path) => consoles.add(host, instance, generation, path),
      onPackage: (id, folder, at) => packages.add(host, id, folder, at),
      onPackageGone: (id, at) => packages.gone(host, id, at),
    });
    return [host, directory];
  }),
);

// Niceness would not do: the kernel shares the processors among sessions first. What the thread starts has no part in it.
const thread = readlinkSync('/proc/thread-self').split('/').at(-1) ?? '';
await run('chrt', ['--reset-on-fork', '--rr', '--pid', '1', thread]);
const begunCpu = process.threadCpuUsage();
surveyHosts();
const timers = [
  setInterval(() => qemus.look(), EVERY.vcpus),
  setInterval(() => {
    qemus.discover();
    consoles.look();
  }, EVERY.consoles),
  setInterval(() => directories.forEach((directory) => directory.look()), EVERY.files),
  setInterval(() => consoles.survey(), EVERY.consoleTurns),
  setInterval(surveyHosts, EVERY.hosts),
  setInterval(() => {
    qemus.survey();
    directories.forEach((directory) => directory.survey());
  }, EVERY.folders),
  setInterval(calibrate, EVERY.clock),
];

const calls: Calls = {
  collect: () => ({
    outages,
    qemus: qemus.lives,
    events: libvirt.events,
    consoles: consoles.logs,
    ...findings,
    packages: packages.packages,
    looks: { count: qemus.count, longestPause: qemus.longestPause, cpuMillis: cpuMillis() },
  }),
  whereabouts: (instance) => qemus.whereabouts(instance),
  settle: async (ids) => {
    await packages.verify(ids && new Set(ids));
    packages.survey();
    directories.forEach((directory) => directory.survey());
    directories.forEach((directory) => directory.look());
    await qemus.settle();
    consoles.look();
    return Promise.all(Object.entries(roots).map(([host, root]) => hostState(host, root, hosts, libvirt)));
  },
  lastLook: (host) => {
    try {
      qemus.look();
      consoles.look();
      directories.get(host)?.survey();
      directories.get(host)?.look();
      consoles.look();
      goneOff(host);
    } finally {
      Atomics.store(lastLookTaken, 0, 1);
      Atomics.notify(lastLookTaken, 0);
    }
  },
  stop: async () => {
    timers.forEach((timer) => clearInterval(timer));
    directories.forEach((directory) => directory.off());
    qemus.close();
    consoles.close();
    hosts.close();
    await packages.close();
    await libvirt.close();
  },
};

port.on('message', (question: { id: number; call: keyof Calls; args: unknown[] }) => void answer(question));
port.postMessage({ id: 0 });

async function answer({ id, call, args }: { id: number; call: keyof Calls; args: unknown[] }): Promise<void> {
  try {
    const result: unknown = await (calls[call] as (...args: unknown[]) => unknown)(...args);
    port?.postMessage({ id, result });
  } catch (error) {
    port?.postMessage({ id, error });
  }
  if (call === 'stop') port?.close();
}

function surveyHosts(): void {
  hosts.survey();
  libvirt.survey();
  for (const [host, directory] of directories) {
    if (hosts.pid(host) === null) goneOff(host);
    else if (directory.on()) {
      packages.on(host);
      const outage = outages.findLast((one) => one.host === host);
      if (outage) outage.to = now();
    }
  }
}

function goneOff(host: string): void {
  if (outages.some((one) => one.host === host && one.to === null)) return;
  outages.push({ host, from: now(), to: null });
  consoles.off(host);
  packages.off(host);
  directories.get(host)?.off();
}

function cpuMillis(): number {
  const { user, system } = process.threadCpuUsage(begunCpu);
  return (user + system) / 1000;
}
