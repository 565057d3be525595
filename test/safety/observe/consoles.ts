/**
 * What the guests print, wherever they run. The counter lives in a guest's RAM: two copies that run from one state print
 * the same count twice, and one that lost RAM leaves a gap.
 */
import { closeSync, fstatSync, openSync, readSync } from 'node:fs';
import type { ConsoleLog, Time } from '../history.ts';
import { now } from './clock.ts';

/** Of what is kept of lines that are not whole. */
const KEPT = 400;
/** A longer silence begins another span: the times within one tell when the guest ran. */
const SILENCE_MS = 400;
/** A log that was removed is read until it has been silent for so long: its QEMU, or virtlogd, may not have closed it. */
const LINGER_MS = 10_000;

/** Enough of a log to know it again: the guest tells the time in every line. */
const KNOWN_BY = 2048;

interface Open {
  log: ConsoleLog;
  path: string;
  fd: number;
  offset: number;
  key: string;
  /** Its first bytes. */
  beginning: Buffer;
  /** Text after the last newline. */
  rest: string;
  grewAt: Time;
}

export class ConsoleObserver {
  readonly logs: ConsoleLog[] = [];
  readonly #open = new Map<string, Open>();
  /** How the logs of hosts that lost their power began, by path. */
  readonly #before = new Map<string, Buffer>();
  readonly #buffer = Buffer.alloc(64 * 1024);

  /** Idempotent. There are several of one generation once virtlogd has turned one over. */
  add(host: string, instance: string, generation: number, path: string): void {
    let fd: number;
    try {
      fd = openSync(path, 'r');
    } catch {
      return; // it was removed at this moment
    }
    // A file that is open keeps its number even after it was removed.
    const { dev, ino } = fstatSync(fd);
    const key = `${dev}:${ino}`;
    if (this.#open.has(key)) return closeSync(fd);
    const log = emptyLog(host, instance, generation);
    const open: Open = { log, path, fd, offset: 0, key, beginning: Buffer.alloc(0), rest: '', grewAt: now() };
    this.#open.set(key, open);
    this.#begin(open, this.#knownBytes(path, fd));
  }

  /** The host is about to go off: nothing of it may be held open. */
  off(host: string): void {
    for (const open of this.#open.values()) {
      if (open.log.host !== host) continue;
      this.#before.set(open.path, open.beginning);
      this.#close(open);
    }
  }

  /** How much of a log was told before its host lost its power: all that is left of it, unless it has begun anew since. */
  #knownBytes(path: string, fd: number): number {
    const known = this.#before.get(path);
    this.#before.delete(path);
    if (!known) return 0;
    const left = this.#buffer.subarray(0, readSync(fd, this.#buffer, 0, known.length, 0));
    // Its size may have been synced where its text was not.
    const zeros = left.indexOf(0);
    const told = zeros < 0 ? left : left.subarray(0, zeros);
    return told.equals(known.subarray(0, told.length)) ? fstatSync(fd).size : 0;
  }

  look(): void {
    for (const open of this.#open.values()) {
      try {
        this.#read(open);
      } catch {
        this.#close(open); // EIO: the disk has gone with its host
      }
    }
  }

  /**
   * For logs that begin anew, as one does that is not appended to. To be called several times a second, for
   * the new content must not have outgrown the old. Closes those that nobody can write to any more.
   */
  survey(): void {
    for (const open of this.#open.values()) {
      const { size, nlink } = fstatSync(open.fd);
      if (size < open.offset) this.#begin(open, 0);
      if (nlink === 0 && now() - open.grewAt > LINGER_MS) this.#close(open);
    }
  }

  close(): void {
    for (const open of this.#open.values()) this.#close(open);
  }

  #close({ fd, key }: Open): void {
    closeSync(fd);
    this.#open.delete(key);
  }

  #begin(open: Open, offset: number): void {
    const { host, instance, generation } = open.log;
    const beginning = Buffer.alloc(KNOWN_BY);
    const bytes = readSync(open.fd, beginning, 0, Math.min(offset, KNOWN_BY), 0);
    Object.assign(open, {
      log: emptyLog(host, instance, generation),
      offset,
      rest: '',
      beginning: beginning.subarray(0, bytes),
    });
    this.logs.push(open.log);
    this.#read(open);
  }

  #read(open: Open): void {
    for (let bytes; (bytes = readSync(open.fd, this.#buffer, 0, this.#buffer.length, open.offset)) > 0;) {
      if (open.beginning.length < KNOWN_BY && open.offset === open.beginning.length) {
        const more = this.#buffer.subarray(0, Math.min(bytes, KNOWN_BY - open.beginning.length));
        open.beginning = Buffer.concat([open.beginning, more]);
      }
      open.offset += bytes;
      open.grewAt = now();
      this.#take(open, this.#buffer.toString('latin1', 0, bytes));
    }
  }

  #take(open: Open, text: string): void {
    const { log } = open;
    if (!log.head.endsWith('\n') && log.head.length < KEPT) {
      const newline = text.indexOf('\n');
      log.head = (log.head + (newline < 0 ? text : text.slice(0, newline + 1))).slice(0, KEPT);
    }
    const lines = withoutKernelMessages(open.rest + text).split('\n');
    open.rest = lines.pop() ?? '';
    log.tail = open.rest.slice(-KEPT);
    for (const line of lines) {
      const count = countOf(line);
      if (count !== null) append(log, count, open.grewAt);
    }
  }
}

const emptyLog = (host: string, instance: string, generation: number): ConsoleLog => ({
  ...{ host, instance, generation },
  head: '',
  tail: '',
  spans: [],
});

/** The kernel may speak in the middle of a line: `ram=12[   99.123456] watchdog: …\n3 disk=…`. */
const withoutKernelMessages = (text: string): string => text.replace(/\[ *\d+\.\d{6}\][^\n]*\n/g, '');

/**
 * The count that a whole line tells, without its newline; null for any other line. A guest that was killed in the middle of a
 * line, and booted again in the same log, goes on in that line.
 */
export function countOf(line: string): number | null {
  const count = /ram=(\d+) disk=\d+ uptime=\d+\.\d{3} wall=\d+\r?$/.exec(line)?.[1];
  return count === undefined ? null : Number(count);
}

function append({ spans }: ConsoleLog, count: number, at: Time): void {
  const span = spans.at(-1);
  if (span && count === span.to + 1 && at - span.lastAt <= SILENCE_MS) Object.assign(span, { to: count, lastAt: at });
  else spans.push({ from: count, to: count, firstAt: at, lastAt: at });
}
