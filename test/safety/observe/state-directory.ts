/**
 * One host's state directory from outside: what appears in it and goes away, and what its small records say.
 *
 * Folders in which little happens are watched by inotify, and looked into again now and then, should an event be lost.
 * Folders in which bulk is written (a working copy, a move) are not: the kernel would tell of every write. They are asked
 * for the few files that matter.
 *
 * While the host is off nothing is there to be seen, and nothing may be held open. What is missing when it is back has gone
 * with its power.
 */
import { closeSync, openSync, readdirSync, readFileSync, readSync, statSync, watch, type FSWatcher } from 'node:fs';
import { join } from 'node:path';
import type { Between, LedgerEntry, RecordVersion, Thing, Time } from '../history.ts';
import { now, writtenAt } from './clock.ts';

/** What is found goes here; shared by all hosts. */
export interface Findings {
  ledger: LedgerEntry[];
  records: RecordVersion[];
  things: Thing[];
}

export interface StateEvents {
  /** May be told again of one that it knows: virtlogd puts another in its place when it has grown. */
  onConsole: (instance: string, generation: number, path: string) => void;
  onPackage: (id: string, folder: string, at: Between) => void;
  onPackageGone: (id: string, at: Between) => void;
}

interface Folder {
  names: Set<string>;
  lookedAt: Time;
  /** Inode that is watched; another one of the same name is not. */
  inode: number;
  watcher: FSWatcher | null;
}

const SAVED = 'LibvirtQemudSave';
const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;

export class StateDirectory {
  readonly #host: string;
  readonly #root: string;
  readonly #findings: Findings;
  readonly #events: StateEvents;
  readonly #folders = new Map<string, Folder>();
  /** Things that are there, by path. */
  readonly #there = new Map<string, Thing>();
  /** Versions of records that are there, by path: inode and change time. */
  readonly #versions = new Map<string, string>();
  readonly #inodes = new Map<string, number>();
  readonly #consoles = new Set<string>();
  readonly #pending = new Set<string>();
  /** Files of the ledger that are there, by path. */
  readonly #entries = new Map<string, LedgerEntry>();
  /** The look before this one at what is not watched. */
  #polledAt: Time = 0;
  #off = false;

  constructor(host: string, root: string, findings: Findings, events: StateEvents) {
    this.#host = host;
    this.#root = root;
    this.#findings = findings;
    this.#events = events;
    this.survey();
  }

  /** Looks into every folder, and mends what watches them. */
  survey(): void {
    if (this.#away()) return;
    for (const name of ['instances', 'network', 'moves', 'staging', 'incoming', 'packages', 'images'])
      this.#enter(name);
    for (const path of this.#folders.keys()) this.#lookInto(path);
    this.#consoles.clear();
  }

  /** At the files that are not watched: disks, save files, consoles. */
  look(): void {
    if (this.#away()) return;
    const begun = now();
    for (const path of [...this.#there.keys()]) {
      const [, instance, digits] = /^instances\/([^/]+)\/g(\d+)$/.exec(path) ?? [];
      if (instance !== undefined) this.#lookAtCopy(path, instance, Number(digits));
      else if (/^moves\/[^/]+$/.test(path)) this.#lookAtSaveFile(`${path}/snapshot`);
    }
    this.#polledAt = begun;
  }

  /** The host is off. Looks do nothing until it is on again. */
  off(): void {
    this.#off = true;
    for (const folder of this.#folders.values()) {
      folder.watcher?.close();
      Object.assign(folder, { watcher: null, inode: 0 });
    }
  }

  /** The host has booted, if its disk can be seen. Answers whether it is now looked at, and was not before. */
  on(): boolean {
    if (!this.#off || !this.#rootThere()) return false;
    this.#off = false;
    this.#consoles.clear();
    this.survey();
    for (const [path, entry] of this.#entries) this.#readAgain(path, entry);
    this.look();
    return true;
  }

  #rootThere(): boolean {
    return statOf(this.#root) !== undefined;
  }

  #away(): boolean {
    return this.#off || !this.#rootThere();
  }

  // ---- Folders ----

  #enter(path: string): void {
    if (!this.#folders.has(path)) {
      this.#folders.set(path, { names: new Set(), lookedAt: 0, inode: 0, watcher: null });
      this.#watch(path);
      this.#lookInto(path);
    }
  }

  #leave(path: string, at: Between): void {
    const folder = this.#folders.get(path);
    if (!folder) return;
    for (const name of folder.names) this.#goneFrom(path, name, at);
    folder.watcher?.close();
    this.#folders.delete(path);
  }

  /** Before it is looked into: what happens in between is then told twice, rather than not at all. */
  #watch(path: string): void {
    const folder = this.#folders.get(path);
    if (!folder) return;
    const inode = statOf(join(this.#root, path))?.ino ?? 0;
    if (inode === folder.inode && folder.watcher) return;
    folder.watcher?.close();
    folder.watcher = null;
    folder.inode = inode;
    if (inode === 0) return;
    try {
      folder.watcher = watch(join(this.#root, path), () => this.#soon(path));
      folder.watcher.on('error', () => this.#soon(path));
    } catch {
      folder.inode = 0; // it was removed at this moment
    }
  }

  /** One look for all the events that come together. */
  #soon(path: string): void {
    if (this.#pending.size === 0) {
      setImmediate(() => {
        const paths = [...this.#pending];
        this.#pending.clear();
        for (const pending of paths) this.#lookInto(pending);
      });
    }
    this.#pending.add(path);
  }

  #lookInto(path: string): void {
    const folder = this.#folders.get(path);
    if (!folder) return;
    this.#watch(path);
    const before = now();
    const names = new Set(namesIn(join(this.#root, path)));
    const known = folder.names;
    // Nothing is told of what a disk held that went away while we looked.
    if ([...known].some((name) => !names.has(name)) && this.#away()) return;
    const at: Between = { after: folder.lookedAt, by: now() };
    folder.lookedAt = before;
    folder.names = names;
    for (const name of known) if (!names.has(name)) this.#goneFrom(path, name, at);
    for (const name of names) if (!known.has(name)) this.#comeTo(path, name, at);
    for (const name of names) this.#readRecord(path, name, at);
  }

  #comeTo(folder: string, name: string, at: Between): void {
    const path = join(folder, name);
    const [top, instance, inner] = path.split('/');
    // Half-written records have their name for an instant; at the end they are found by walking.
    if (name.startsWith('.tmp-')) return;
    if (top === 'instances') {
      if (inner === undefined && UUID.test(name)) this.#enter(path);
      else if (inner === 'ledger' && folder === `instances/${instance}`) this.#enter(path);
      else if (/^g\d+$/.test(name)) this.#appeared(path, at);
      return;
    }
    if (top === 'network') return;
    this.#appeared(path, at);
    if (top === 'packages' && UUID.test(name)) this.#events.onPackage(name, join(this.#root, path), at);
  }

  #goneFrom(folder: string, name: string, at: Between): void {
    const path = join(folder, name);
    this.#leave(path, at);
    this.#disappeared(path, at);
    if (folder === 'packages' && UUID.test(name)) this.#events.onPackageGone(name, at);
    const entry = this.#entries.get(path);
    if (entry) entry.gone = { ...at };
    this.#entries.delete(path);
    if (this.#versions.delete(path) && !entry) {
      this.#findings.records.push({ host: this.#host, path, at, content: null });
    }
  }

  // ---- Things ----

  #appeared(path: string, at: Between): void {
    if (this.#there.has(path)) return;
    const thing: Thing = { host: this.#host, path, appeared: { ...at }, gone: null, complete: null };
    this.#there.set(path, thing);
    this.#findings.things.push(thing);
  }

  /** With all that lies in it. */
  #disappeared(path: string, at: Between): void {
    for (const [known, thing] of this.#there) {
      if (known !== path && !known.startsWith(`${path}/`)) continue;
      thing.gone = { ...at };
      this.#there.delete(known);
      this.#inodes.delete(known);
    }
  }

  #lookAtCopy(path: string, instance: string, generation: number): void {
    const folder = join(this.#root, path);
    const names = namesIn(folder);
    for (const name of names) {
      if (name.endsWith('.qcow2')) this.#lookAtFile(`${path}/${name}`);
      if (name.startsWith('serial.log') && !this.#consoles.has(`${path}/${name}`)) {
        this.#consoles.add(`${path}/${name}`);
        this.#events.onConsole(instance, generation, join(folder, name));
      }
    }
    for (const known of [...this.#there.keys()]) {
      if (!known.startsWith(`${path}/`) || names.includes(known.slice(path.length + 1)) || this.#away()) continue;
      this.#disappeared(known, { after: this.#polledAt, by: now() });
    }
  }

  /** Another file of the same name is another thing. */
  #lookAtFile(path: string): Thing | null {
    const at = { after: this.#polledAt, by: now() };
    const inode = statOf(join(this.#root, path))?.ino;
    if (this.#inodes.get(path) !== inode && !this.#away()) this.#disappeared(path, at);
    if (inode === undefined) return null;
    this.#inodes.set(path, inode);
    this.#appeared(path, at);
    return this.#there.get(path) ?? null;
  }

  #lookAtSaveFile(path: string): void {
    const thing = this.#lookAtFile(path);
    if (!thing || thing.complete || beginningOf(join(this.#root, path), SAVED.length) !== SAVED) return;
    thing.complete = { after: this.#polledAt, by: now() };
  }

  // ---- Records ----

  #readRecord(folder: string, name: string, at: Between): void {
    const path = join(folder, name);
    const kind = kindOf(path);
    // What is in the ledger is made once.
    if (!kind || (kind === 'ledger' && this.#versions.has(path))) return;
    let text: string;
    let written: Between;
    try {
      const stats = statSync(join(this.#root, path), { bigint: true });
      const version = `${stats.ino}:${stats.mtimeNs}:${stats.size}`;
      if (this.#versions.get(path) === version) return;
      text = readFileSync(join(this.#root, path), 'utf8');
      this.#versions.set(path, version);
      written = writtenAt(stats);
    } catch (error) {
      if (isAbsence(error)) return; // it was removed at this moment
      throw error;
    }
    const content = parse(text);
    if (kind === 'ledger') this.#readLedger(path, written, content);
    else this.#findings.records.push({ host: this.#host, path, at: { after: written.after, by: at.by }, content });
  }

  #readLedger(path: string, written: Between, content: unknown): void {
    const [, instance = '', kind, digits, about = null] =
      /^instances\/([^/]+)\/ledger\/(owned|decision|fence|seen|receipt|sealed)-(\d+)(?:-(.+))?\.json$/.exec(path) ?? [];
    if (kind === undefined) return;
    if (isUnreadable(content)) {
      this.#findings.records.push({ host: this.#host, path, at: written, content });
      return;
    }
    const { kind: decision, packageId, statement, fence } = content as Record<string, string | undefined>;
    // Nothing proven: the literal of a signed text is not compressed.
    const said = literalOf(fence ?? (kind === 'decision' ? statement : undefined) ?? '');
    const entry: LedgerEntry = {
      ...{ host: this.#host, instance, kind: kind as LedgerEntry['kind'], generation: Number(digits), written },
      gone: null,
      packageId: kind === 'sealed' ? about : (packageId ?? /"packageId":"([^"]+)"/.exec(said)?.[1] ?? null),
      decision: kind === 'decision' ? (decision as LedgerEntry['decision']) : null,
      to: /"to":"([^"]+)"/.exec(said)?.[1] ?? null,
    };
    this.#entries.set(path, entry);
    this.#findings.ledger.push(entry);
  }

  /** A file that was renamed and not synced is there after a power loss, and empty. */
  #readAgain(path: string, entry: LedgerEntry): void {
    const content = parse(readFileSync(join(this.#root, path), 'utf8'));
    if (!isUnreadable(content)) return;
    entry.gone = { after: entry.written.by, by: now() };
    this.#entries.delete(path);
    this.#findings.records.push({ host: this.#host, path, at: entry.gone, content });
  }
}

function kindOf(path: string): 'ledger' | 'record' | null {
  if (/^instances\/[^/]+\/ledger\/[a-z]+-\d+[^/]*\.json$/.test(path)) return 'ledger';
  if (/^instances\/[^/]+\/((save|resumed)-\d+|reserved)\.json$/.test(path)) return 'record';
  return /^network\/[^./][^/]*\.json$/.test(path) ? 'record' : null;
}

/** Text that is no JSON is the finding itself. */
function parse(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return { unreadable: text.slice(0, 200) };
  }
}

const isUnreadable = (content: unknown): boolean =>
  content !== null && typeof content === 'object' && 'unreadable' in content;

/** The payload of a signed text, among the bytes around it. */
function literalOf(signed: string): string {
  const body = signed.split(/\r?\n\r?\n/)[1]?.replace(/^=.*|^-.*/gm, '') ?? '';
  return Buffer.from(body, 'base64').toString('latin1');
}

function beginningOf(path: string, bytes: number): string {
  let file: number;
  try {
    file = openSync(path, 'r');
  } catch (error) {
    if (isAbsence(error)) return '';
    throw error;
  }
  try {
    const buffer = Buffer.alloc(bytes);
    return buffer.toString('latin1', 0, readSync(file, buffer, 0, bytes, 0));
  } finally {
    closeSync(file);
  }
}

function namesIn(path: string): string[] {
  try {
    return readdirSync(path);
  } catch (error) {
    if (isAbsence(error)) return [];
    throw error;
  }
}

const statOf = (path: string): { ino: number } | undefined => statSync(path, { throwIfNoEntry: false });

const isAbsence = (error: unknown): boolean =>
  error instanceof Error && 'code' in error && (error.code === 'ENOENT' || error.code === 'ENOTDIR');
