/**
 * The QEMU processes of all hosts, by /proc alone: when each began and ended, and when its vCPUs ran.
 */
import { closeSync, openSync, readdirSync, readFileSync, readSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import type { QemuLife, Time } from '../history.ts';
import { now, ticksAt } from './clock.ts';
import type { Hosts } from './hosts.ts';
import { VcpuRuns } from './runs.ts';

/** The CPU time that an idle guest uses meanwhile proves that it runs. */
const SETTLED_MS = 500;
/** How often a new process is looked at: between its fork and its exec it is not yet QEMU. */
const GLANCES = 50;

interface Watched {
  life: QemuLife;
  /** /proc/PID/task/TID/schedstat of its vCPUs; empty until QEMU has made all of them. */
  vcpus: number[];
  /** How many it will have. */
  expected: number;
  ran: VcpuRuns;
  lookedAt: Time;
}

export class QemuObserver {
  readonly lives: QemuLife[] = [];
  readonly #hosts: Hosts;
  readonly #living = new Map<number, Watched>();
  /** Processes that are no QEMU, and how often they were looked at. */
  readonly #others = new Map<number, number>();
  readonly #buffer = Buffer.alloc(256);
  count = 0;
  longestPause: Time = 0;
  #lookedAt: Time | null = null;

  constructor(hosts: Hosts) {
    this.#hosts = hosts;
  }

  /** At the vCPUs of all that live. */
  look(): void {
    const begun = now();
    this.count += 1;
    if (this.#lookedAt !== null) this.longestPause = Math.max(this.longestPause, begun - this.#lookedAt);
    this.#lookedAt = begun;
    for (const watched of this.#living.values()) {
      const before = now();
      try {
        if (watched.vcpus.length === 0) this.#openThreads(watched);
        if (watched.vcpus.length > 0) this.#read(watched);
        watched.lookedAt = before;
      } catch {
        this.#ended(watched);
      }
    }
  }

  /** For processes that are new. */
  discover(): void {
    for (const host of this.#hosts.names) {
      for (const pid of this.#hosts.children(host)) this.#glance(host, pid);
    }
  }

  /** For QEMUs that nobody's libvirt has started, and to forget what has ended. */
  survey(): void {
    const pids = new Set(
      readdirSync('/proc')
        .map(Number)
        .filter((pid) => pid > 0),
    );
    for (const pid of this.#others.keys()) if (!pids.has(pid)) this.#others.delete(pid);
    const inits = new Map(this.#hosts.names.map((name) => [this.#hosts.pid(name), name]));
    for (const pid of pids) {
      if (this.#living.has(pid) || (this.#others.get(pid) ?? 0) >= GLANCES) continue;
      if (qemuCommandLine(pid) === null) {
        this.#others.set(pid, (this.#others.get(pid) ?? 0) + GLANCES / 5);
        continue;
      }
      for (let parent = parentOf(pid), steps = 0; parent > 1 && steps < 20; parent = parentOf(parent), steps++) {
        const host = inits.get(parent);
        if (host !== undefined) this.#glance(host, pid);
      }
    }
  }

  /** Where an instance's vCPUs ran last; null if no QEMU of it lives. */
  whereabouts(instance: string): string | null {
    const living = [...this.#living.values()].map(({ life }) => life).filter((life) => life.instance === instance);
    const ran = living.sort((a, b) => (b.runs.at(-1)?.by ?? 0) - (a.runs.at(-1)?.by ?? 0));
    return ran[0]?.host ?? null;
  }

  /** Looks until what happened before this call has been seen. */
  async settle(): Promise<void> {
    this.#hosts.survey();
    this.discover();
    this.survey();
    this.look();
    await sleep(SETTLED_MS);
    this.look();
  }

  close(): void {
    for (const { vcpus } of this.#living.values()) vcpus.forEach((fd) => closeSync(fd));
    this.#living.clear();
  }

  #glance(host: string, pid: number): void {
    const glances = this.#others.get(pid) ?? 0;
    if (this.#living.has(pid) || glances >= GLANCES) return;
    const words = qemuCommandLine(pid);
    const startTime = words && startTimeOf(pid);
    if (!words || startTime === null) {
      this.#others.set(pid, glances + 1);
      return;
    }
    const began = ticksAt(startTime);
    const valueOf = (option: string): string => words[words.indexOf(option) + 1] ?? '';
    const generation = /\/g(\d+)\/[^/"]+\.qcow2"/.exec(words.join(' '))?.[1];
    const life: QemuLife = {
      host,
      instance: valueOf('-uuid'),
      pid,
      startTime,
      generation: generation === undefined ? null : Number(generation),
      began,
      ended: null,
      runs: [],
    };
    const expected = Number(/^\d+/.exec(valueOf('-smp'))?.[0] ?? 1);
    this.lives.push(life);
    const ran = new VcpuRuns(life.runs, expected);
    this.#living.set(pid, { life, vcpus: [], expected, ran, lookedAt: began.after });
  }

  /** They have their names by `debug-threads=on`, which libvirt always asks for. Throws once the process is gone. */
  #openThreads(watched: Watched): void {
    const folder = `/proc/${watched.life.pid}/task`;
    if (startTimeOf(watched.life.pid) !== watched.life.startTime) throw new Error('gone');
    const threads = readdirSync(folder).filter((thread) =>
      /^(CPU \d+|ALL CPUs)\/(TCG|KVM)$/.test(readFileSync(`${folder}/${thread}/comm`, 'latin1').trim()),
    );
    const together = threads.length === 1 && readFileSync(`${folder}/${threads[0]}/comm`, 'latin1').startsWith('ALL');
    if (threads.length < watched.expected && !together) return;
    for (const thread of threads) watched.vcpus.push(openSync(`${folder}/${thread}/schedstat`, 'r'));
  }

  #read(watched: Watched): void {
    let used = 0;
    for (const fd of watched.vcpus) {
      const bytes = readSync(fd, this.#buffer, 0, this.#buffer.length, 0);
      used += Number(this.#buffer.toString('latin1', 0, Math.min(bytes, this.#buffer.indexOf(32))));
    }
    watched.ran.look(used, watched.lookedAt, now());
  }

  #ended({ life, vcpus, ran, lookedAt }: Watched): void {
    life.ended = { after: lookedAt, by: now() };
    ran.ended(life.ended.by);
    vcpus.forEach((fd) => closeSync(fd));
    this.#living.delete(life.pid);
  }
}

/** Program and arguments of a QEMU that runs a domain; null for anything else. libvirt also starts some to ask what they can. */
function qemuCommandLine(pid: number): string[] | null {
  try {
    const words = readFileSync(`/proc/${pid}/cmdline`, 'latin1').split('\0');
    return /(^|\/)qemu-system-[^/]+$/.test(words[0] ?? '') && words.includes('-uuid') ? words : null;
  } catch {
    return null;
  }
}

function statOf(pid: number): string[] | null {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'latin1');
    // The program's name stands in parentheses and may hold anything.
    return stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  } catch {
    return null;
  }
}

const startTimeOf = (pid: number): number | null => {
  const fields = statOf(pid);
  return fields === null || fields[0] === 'Z' ? null : Number(fields[19]);
};

const parentOf = (pid: number): number => Number(statOf(pid)?.[1] ?? 0);
