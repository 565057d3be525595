/**
 * Sealed packages: what they hold when they get their name, and every change of it from then on. A change is noticed by
 * inotify, and again by the change times of the files, which the kernel alone sets: bytes that were altered and altered
 * back are seen too. Content is digested when first seen and again at the end.
 */
import { webcrypto } from 'node:crypto';
import { readdirSync, statSync, watch, type FSWatcher } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import type { Between, PackageChange, SealedPackage } from '../history.ts';
import { now } from './clock.ts';

interface Watched {
  sealed: SealedPackage;
  folder: string;
  /** What the kernel says of each file, by name below the package. */
  stamps: Map<string, string>;
  /** By folder. */
  watchers: Map<string, FSWatcher>;
  pending: boolean;
  /** Its host is off. */
  off: boolean;
  digested: Promise<void>;
}

export class PackageObserver {
  readonly packages: SealedPackage[] = [];
  readonly #there = new Map<string, Watched>();
  /** One file at a time: there is no hurry, and the guests need the processors. */
  #queue: Promise<void> = Promise.resolve();

  add(host: string, id: string, folder: string, appeared: Between): void {
    const sealed: SealedPackage = { host, id, appeared, gone: null, files: {}, changes: [] };
    const watched: Watched = {
      ...{ sealed, folder, pending: false, off: false },
      stamps: new Map(),
      watchers: new Map(),
      digested: Promise.resolve(),
    };
    this.packages.push(sealed);
    this.#there.set(`${host}/${id}`, watched);
    watched.stamps = stampsOf(folder);
    this.#watchAll(watched, watched.stamps.keys());
    watched.digested = this.#inTurn(() => this.#digest(watched, [...watched.stamps.keys()]));
  }

  gone(host: string, id: string, at: Between): void {
    const watched = this.#there.get(`${host}/${id}`);
    if (!watched) return;
    watched.sealed.gone = at;
    this.#unwatch(watched);
    this.#there.delete(`${host}/${id}`);
  }

  /** Compares the change times of every file. */
  survey(): void {
    for (const watched of this.#there.values()) if (!watched.off) this.#compare(watched);
  }

  /** The host is off: nothing of it can be seen, and nothing may be held open. */
  off(host: string): void {
    for (const watched of this.#of(host)) {
      watched.off = true;
      this.#unwatch(watched);
    }
  }

  /** It is back. A change time that was not synced is another now; only the content counts. */
  on(host: string): void {
    for (const watched of this.#of(host)) {
      watched.off = false;
      const { sealed, folder, stamps } = watched;
      const found = stampsOf(folder);
      const doubtful = [...found].filter(([name, stamp]) => stamps.has(name) && stamps.get(name) !== stamp);
      for (const [name, stamp] of doubtful) stamps.set(name, stamp);
      this.#compare(watched);
      this.#watchAll(watched, found.keys());
      const names = doubtful.map(([name]) => name).filter((name) => name in sealed.files);
      watched.digested = this.#inTurn(() => this.#digest(watched, names));
    }
  }

  /** Reads these packages whole once more. */
  async verify(ids: ReadonlySet<string> | null): Promise<void> {
    for (const watched of this.#there.values()) {
      if (watched.off || (ids && !ids.has(watched.sealed.id))) continue;
      await watched.digested;
      await this.#inTurn(() => this.#digest(watched, Object.keys(watched.sealed.files)));
      this.#compare(watched);
    }
  }

  async close(): Promise<void> {
    for (const watched of this.#there.values()) this.#unwatch(watched);
    this.#there.clear();
    await this.#queue;
  }

  #of(host: string): Watched[] {
    return [...this.#there.values()].filter(({ sealed }) => sealed.host === host);
  }

  #watchAll(watched: Watched, names: Iterable<string>): void {
    this.#watch(watched, watched.folder);
    for (const name of names) this.#watch(watched, dirname(join(watched.folder, name)));
  }

  #unwatch({ watchers }: Watched): void {
    watchers.forEach((watcher) => watcher.close());
    watchers.clear();
  }

  #watch(watched: Watched, folder: string): void {
    if (watched.watchers.has(folder)) return;
    try {
      const watcher = watch(folder, () => this.#soon(watched));
      watcher.on('error', () => this.#soon(watched));
      watched.watchers.set(folder, watcher);
    } catch {
      // It was removed at this moment.
    }
  }

  #soon(watched: Watched): void {
    if (watched.pending) return;
    watched.pending = true;
    setImmediate(() => {
      watched.pending = false;
      if (!watched.off) this.#compare(watched);
    });
  }

  #compare(watched: Watched): void {
    const { sealed, folder, stamps } = watched;
    const found = stampsOf(folder);
    // The folder itself is gone: that is told by the one above.
    if (found.size === 0) return;
    const change = (file: string, what: PackageChange['what']): unknown =>
      sealed.changes.push({ at: now(), file, what });
    for (const [name, stamp] of found) {
      const before = stamps.get(name);
      if (before === stamp) continue;
      stamps.set(name, stamp);
      change(name, before === undefined ? 'added' : 'written');
      if (before === undefined) watched.digested = this.#inTurn(() => this.#digest(watched, [name]));
    }
    for (const name of stamps.keys()) {
      if (found.has(name)) continue;
      stamps.delete(name);
      change(name, 'removed');
    }
  }

  #inTurn(task: () => Promise<void>): Promise<void> {
    this.#queue = this.#queue.then(task);
    return this.#queue;
  }

  async #digest({ sealed, folder }: Watched, names: string[]): Promise<void> {
    for (const name of names) {
      const sha256 = await digestOf(join(folder, name));
      if (sha256 === null) continue; // whoever removed it is told of by the comparison
      const before = (sealed.files[name] ??= sha256);
      if (before !== sha256) sealed.changes.push({ at: now(), file: name, what: 'digest differs' });
    }
  }
}

/** Inode, size and the kernel's own times of every file below a folder; none if it is gone. */
function stampsOf(folder: string, below = ''): Map<string, string> {
  const found = new Map<string, string>();
  try {
    for (const entry of readdirSync(join(folder, below), { withFileTypes: true })) {
      const name = join(below, entry.name);
      if (entry.isDirectory()) {
        for (const [inner, stamp] of stampsOf(folder, name)) found.set(inner, stamp);
        continue;
      }
      const { ino, size, mtimeNs, ctimeNs } = statSync(join(folder, name), { bigint: true });
      found.set(name, `${ino}:${size}:${mtimeNs}:${ctimeNs}`);
    }
  } catch (error) {
    if (!(error instanceof Error && 'code' in error && error.code === 'ENOENT')) throw error;
  }
  return found;
}

/** In a thread of its own, so that the looks at the guests go on. Null if there is no such file. */
async function digestOf(path: string): Promise<string | null> {
  try {
    const digest = await webcrypto.subtle.digest('SHA-256', await readFile(path));
    return Buffer.from(digest).toString('hex');
  } catch (error) {
    // EIO: the disk has gone with its host.
    if (error instanceof Error && 'code' in error && (error.code === 'ENOENT' || error.code === 'EIO')) return null;
    throw error;
  }
}
