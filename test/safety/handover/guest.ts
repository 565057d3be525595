/**
 * A guest that counts, and the witness who hears it. The guest reports one number after another and appends each to its
 * disk, so that whoever listens can tell a copy that runs twice, one that runs from old RAM or beside a foreign disk, and
 * one whose RAM was thrown away. The witness belongs to no host and knows nothing of records.
 */
import { fstatSync, readSync, writeSync } from 'node:fs';
import type { InstanceId } from '../../../workflows/contract.ts';
import type { EndedQemu, FakeGuest, RunCause } from '../../fakes/hypervisor.ts';

interface Ram {
  /** The last number that it reported. */
  value: number;
  /** What it believes to be on its disk. */
  log: string;
}

/** Behind the clusters that a qcow2 file refers to, where qemu-img leaves it alone. */
const LINE = /(?:#(?:\d+|r)\n)*$/;
const RESTORED = '#r\n';
const TAIL_BYTES = 16 * 1024;

/** One vCPU start, to be compared with what the host may do. */
export interface Run {
  host: string;
  instanceId: InstanceId;
  cause: RunCause;
  byHand: boolean;
}

interface Seen {
  newest: number;
  runningOn: string | null;
  /** Its RAM went where nothing of vmferry's could help it: a host lost power, or QEMU was killed. */
  ramLost: boolean;
  /** A person has started, stopped or resumed it since vmferry did. */
  touched: boolean;
}

/** Who acts on a hypervisor just now, when it is not an activity. */
export type Fate = 'power' | 'person' | null;

export interface WitnessOptions {
  /** Makes written content survive a power loss. */
  flush: (fd: number) => void;
  /**
   * Could the RAM of a stopped guest that is killed now be restored from files? Asked of the host that it is on.
   *
   * @param touched a person has let it run since vmferry stopped it
   */
  ramIsSafe: (host: string, instanceId: InstanceId, was: EndedQemu, touched: boolean) => boolean;
}

export class Witness {
  readonly violations: string[] = [];
  readonly runs: Run[] = [];
  readonly #seen = new Map<InstanceId, Seen>();
  readonly #options: WitnessOptions;
  fate: Fate = null;

  constructor(options: WitnessOptions) {
    this.#options = options;
  }

  /** Where its vCPUs run now. */
  runningOn(instanceId: InstanceId): string | null {
    return this.seen(instanceId).runningOn;
  }

  seen(instanceId: InstanceId): Seen {
    let seen = this.#seen.get(instanceId);
    if (!seen) this.#seen.set(instanceId, (seen = { newest: 0, runningOn: null, ramLost: true, touched: false }));
    return seen;
  }

  violation(text: string): void {
    this.violations.push(text);
  }

  /** What the guest does when it has time. */
  readonly count = (instanceId: InstanceId, text: string, disks: readonly number[]): string => {
    const seen = this.seen(instanceId);
    const ram = JSON.parse(text) as Ram;
    ram.value += 1;
    ram.log += this.#append(disks, `#${ram.value}\n`);
    for (const disk of disks) this.#options.flush(disk);
    if (ram.value !== seen.newest + 1) {
      this.violation(`${instanceId} reports ${ram.value} after ${seen.newest} on ${seen.runningOn ?? 'no host'}`);
    }
    seen.newest = Math.max(seen.newest, ram.value);
    return JSON.stringify(ram);
  };

  guestOf(host: string): FakeGuest {
    return {
      boot: (instanceId, disks) => {
        const seen = this.seen(instanceId);
        const log = logOf(disks);
        const value = Number(/#(\d+)\n(?:#r\n)*$/.exec(log)?.[1] ?? 0);
        if (!seen.ramLost && this.fate !== 'person')
          this.violation(`${instanceId} boots on ${host}, though its RAM was safe`);
        seen.ramLost = false;
        return JSON.stringify({ value, log } satisfies Ram);
      },
      restored: (_instanceId, disks) => {
        // QEMU promises nothing of this to anybody, and so does not flush it.
        this.#append(disks, RESTORED);
      },
      runs: (instanceId, text, disks, cause) => this.#runs(host, instanceId, text, disks, cause),
      stops: (instanceId, disks) => {
        const seen = this.seen(instanceId);
        if (seen.runningOn === host) seen.runningOn = null;
        seen.touched = this.fate === 'person';
        for (const disk of disks) this.#options.flush(disk);
      },
      ends: (instanceId, was) => {
        const seen = this.seen(instanceId);
        if (seen.runningOn === host) seen.runningOn = null;
        if (!was.killed || this.#options.ramIsSafe(host, instanceId, was, seen.touched)) return;
        if (this.fate === null) this.violation(`${instanceId} is destroyed on ${host}, with all that was in its RAM`);
        seen.ramLost = true;
      },
    };
  }

  #runs(host: string, instanceId: InstanceId, text: string, disks: readonly number[], cause: RunCause): string {
    const seen = this.seen(instanceId);
    const byHand = this.fate === 'person';
    this.runs.push({ host, instanceId, cause, byHand });
    if (seen.runningOn !== null) {
      this.violation(`${instanceId} runs on ${host} (${cause}) while it runs on ${seen.runningOn}`);
    }
    // Suspended first, it would stay stopped.
    if (cause === 'libvirtd came back' && !seen.touched) {
      this.violation(`${instanceId} is set running by libvirtd on ${host} although it was being saved`);
    }
    seen.runningOn = host;
    if (byHand) seen.touched = true;

    const ram = JSON.parse(text) as Ram;
    if (ram.value !== seen.newest) {
      this.violation(`${instanceId} runs on ${host} (${cause}) from ${ram.value}, it has reported ${seen.newest}`);
    }
    const log = logOf(disks);
    const expected = ram.log;
    const marks = log.startsWith(expected) ? log.slice(expected.length) : null;
    if (marks !== '' && marks !== RESTORED) {
      this.violation(
        `${instanceId} runs on ${host} (${cause}) with a disk that is not the one in its RAM: ` +
          `${JSON.stringify(log.slice(-60))} instead of ${JSON.stringify(expected.slice(-60))}`,
      );
    }
    return JSON.stringify({ value: ram.value, log } satisfies Ram);
  }

  #append(disks: readonly number[], text: string): string {
    for (const disk of disks) writeSync(disk, text, fstatSync(disk).size);
    return text;
  }
}

/** What is on the disk of the guest, as far as it is interested. */
function logOf([disk]: readonly number[]): string {
  if (disk === undefined) return '';
  const { size } = fstatSync(disk);
  const tail = Buffer.alloc(Math.min(size, TAIL_BYTES));
  readSync(disk, tail, 0, tail.length, size - tail.length);
  return LINE.exec(tail.toString('latin1'))?.[0] ?? '';
}
