/**
 * Watches what a guest prints, from outside vmferry, on every host at once, and decides whether its life was one: every
 * count exactly once. The counter lives in RAM, so two copies that run from one saved state print the same count twice,
 * and a copy that lost RAM leaves a gap.
 */
import { closeSync, existsSync, fstatSync, openSync, readSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import type { Testbed } from '../../infra/testbed/testbed.ts';

interface Log {
  host: string;
  path: string;
  inode: number;
  /** Null once its host has lost its power. */
  fd: number | null;
  offset: number;
  text: string;
}

export class ConsoleObserver {
  readonly #testbed: Testbed;
  readonly #instance: string;
  readonly #logs: Log[] = [];
  readonly #timer: NodeJS.Timeout;
  readonly #stopLooking: () => void;

  constructor(testbed: Testbed, instance: string) {
    this.#testbed = testbed;
    this.#instance = instance;
    // Open files stay readable after a move has removed them.
    this.#timer = setInterval(() => this.#look(), 100);
    this.#stopLooking = testbed.beforePowerLoss((host) => this.#lookForTheLastTime(host));
    this.#look();
  }

  stop(): void {
    clearInterval(this.#timer);
    this.#stopLooking();
    this.#look();
    for (const { fd } of this.#logs) if (fd !== null) closeSync(fd);
  }

  /** The newest count that any host has shown. */
  get last(): number {
    this.#look();
    return Math.max(0, ...this.#logs.flatMap(({ text }) => counts(text)));
  }

  /** What is wrong with the guest's life so far; empty if nothing is. */
  violations(): string[] {
    this.#look();
    const shown = new Map<number, string[]>();
    const pieces: string[] = [];
    for (const { host, text } of this.#logs) {
      for (const count of counts(text)) shown.set(count, [...(shown.get(count) ?? []), host]);
      pieces.push(text.slice(0, text.indexOf('\n') + 1), text.slice(text.lastIndexOf('\n') + 1));
    }
    const found = [...shown]
      .filter(([, hosts]) => hosts.length > 1)
      .map(([count, hosts]) => `count ${count} was printed ${hosts.length} times: on ${hosts.join(' and ')}`);
    const first = Math.min(...shown.keys());
    const last = Math.max(...shown.keys());
    for (let count = first; count <= last; count++) {
      // A line that was cut in two by the move is whole again when its halves are put together.
      if (!shown.has(count) && !joins(pieces, count)) found.push(`count ${count} was never printed`);
    }
    return found;
  }

  #look(): void {
    for (const host of this.#testbed.hosts) {
      const folder = this.#testbed.outside(host, `/var/lib/vmferry/instances/${this.#instance}`);
      if (!existsSync(folder)) continue;
      for (const name of readdirSync(folder)) {
        const path = join(folder, name, 'serial.log');
        if (/^g[0-9]+$/.test(name) && existsSync(path)) this.#open(host, path);
      }
    }
    for (const log of this.#logs) read(log);
  }

  /** What a host without power has printed cannot be read any more; after its boot the file ends where its disk does. */
  #lookForTheLastTime(host: string): void {
    this.#look();
    for (const log of this.#logs) {
      if (log.host !== host || log.fd === null) continue;
      closeSync(log.fd);
      log.fd = null;
    }
  }

  #open(host: string, path: string): void {
    const fd = openSync(path, 'r');
    const { ino: inode, size } = fstatSync(fd);
    const same = (log: Log): boolean => log.host === host && log.inode === inode;
    const seen = this.#logs.find((log) => same(log) && (log.fd !== null || log.path === path));
    if (!seen) this.#logs.push({ host, path, inode, fd, offset: 0, text: '' });
    else if (seen.fd !== null) closeSync(fd);
    else Object.assign(seen, { fd, offset: size });
  }
}

function read(log: Log): void {
  if (log.fd === null) return;
  const buffer = Buffer.alloc(64 * 1024);
  for (let read; (read = readSync(log.fd, buffer, 0, buffer.length, log.offset)) > 0; log.offset += read) {
    log.text += buffer.toString('latin1', 0, read);
  }
}

/** Counts of the whole lines in a log. */
function counts(text: string): number[] {
  return [...text.matchAll(/^ram=([0-9]+) [^\n]*\n/gm)].map(([, count]) => Number(count));
}

function joins(pieces: string[], count: number): boolean {
  return pieces.some((tail) => pieces.some((head) => counts(tail + head).includes(count)));
}
