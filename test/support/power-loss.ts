/**
 * Power loss that forgets what was not synced, without a machine: a folder whose files come back as a file system may
 * leave them, which promises nothing but what was asked for by fsync.
 *
 * It takes a picture of a file's content when that file is synced, and of a folder's names when that folder is synced,
 * whoever wrote them; other programs and threads may. What is not in a picture may be lost:
 *
 *   everything   content and names that were not synced: created files are absent, renamed ones have their old name,
 *                removed ones are back
 *   content      names are as they were left, but content that was not synced is gone: a new file is empty
 *   names        content is as it was left, but names that were not synced are undone
 *   nothing      the kernel had written all of it: what a killed process leaves
 *
 * A real sync is not made: these files need not outlive the test.
 */
import fs from 'node:fs';
import { join } from 'node:path';
import { FILE_HANDLE } from './crash-points.ts';

export const LOSSES = ['everything', 'content', 'names', 'nothing'] as const;
export type Loss = (typeof LOSSES)[number];

/** A file or folder as long as it exists, under whatever name. A number of ext4 is soon given to another file. */
type Inode = string;
interface Picture {
  content: Buffer;
  mtime: Date;
}
type Names = Map<string, Inode>;

const watched = new Set<PowerLoss>();

export class PowerLoss {
  readonly #root: string;
  /** Hard links to what was ever synced, so that what is removed can come back as the file that it was. */
  readonly #shadow: string;
  #contents = new Map<Inode, Picture>();
  #folders = new Map<Inode, Names>();

  /** @param root a folder whose parent this may use too; all that is there now is safe */
  constructor(root: string) {
    this.#root = root;
    this.#shadow = `${root}.shadow`;
    fs.mkdirSync(root, { recursive: true });
    fs.mkdirSync(this.#shadow);
    watched.add(this);
    this.settle();
  }

  /** Ends the watch; the files stay as they are. */
  close(): void {
    watched.delete(this);
    fs.rmSync(this.#shadow, { recursive: true });
  }

  /** All that is there now is safe, as if everything had been synced. */
  settle(): void {
    this.#contents = new Map();
    this.#folders = new Map();
    fs.rmSync(this.#shadow, { recursive: true });
    fs.mkdirSync(this.#shadow);
    for (const path of walk(this.#root)) this.#take(path);
  }

  /** What fsync of an open file or folder does; false if it is none of these. */
  sync(fd: number): boolean {
    const path = fs.readlinkSync(`/proc/self/fd/${fd}`);
    if (path !== this.#root && !path.startsWith(`${this.#root}/`)) return false;
    // A file that has lost its name is gone after the power loss, synced or not.
    if (fs.existsSync(path)) this.#take(path);
    return true;
  }

  /** The power fails and comes back. What is there then is safe. */
  lose(loss: Loss): void {
    if (loss !== 'nothing') {
      const before = `${this.#root}.before`;
      fs.renameSync(this.#root, before);
      const places = new Map<Inode, string>();
      for (const path of [...walk(this.#shadow), ...walk(before)]) places.set(inodeOf(path), path);
      this.#rebuild(inodeOf(before), this.#root, loss, places);
      fs.rmSync(before, { recursive: true });
    }
    this.settle();
  }

  #take(path: string): void {
    const inode = inodeOf(path);
    const stats = fs.lstatSync(path);
    if (stats.isDirectory()) {
      const names = namesOf(path);
      this.#folders.set(inode, names);
      // A rename is done or not done: a folder that is here for good is not where it was before.
      for (const moved of names.values()) {
        if (!this.#folders.has(moved)) continue;
        for (const [other, before] of this.#folders) if (other !== inode) removeValue(before, moved);
      }
    } else {
      this.#contents.set(inode, { content: fs.readFileSync(path), mtime: stats.mtime });
      const kept = join(this.#shadow, inode);
      if (!fs.existsSync(kept)) fs.linkSync(path, kept);
    }
  }

  #rebuild(folder: Inode, path: string, loss: Loss, places: ReadonlyMap<Inode, string>): void {
    fs.mkdirSync(path);
    const before = places.get(folder);
    // A folder that was made anew was never synced, and so is empty.
    const names = loss === 'content' && before !== undefined ? namesOf(before) : this.#folders.get(folder);
    for (const [name, inode] of names ?? []) {
      const target = join(path, name);
      const place = places.get(inode);
      const isFolder = place === undefined ? this.#folders.has(inode) : fs.lstatSync(place).isDirectory();
      if (isFolder) this.#rebuild(inode, target, loss, places);
      else this.#bringBack(inode, place, target, loss);
    }
  }

  #bringBack(inode: Inode, place: string | undefined, target: string, loss: Loss): void {
    const synced = this.#contents.get(inode);
    if (place === undefined) return fs.writeFileSync(target, synced?.content ?? '');
    fs.linkSync(place, target);
    const wanted = synced?.content ?? Buffer.alloc(0);
    if (loss === 'names' || fs.readFileSync(target).equals(wanted)) return;
    fs.writeFileSync(target, wanted);
    if (synced) fs.utimesSync(target, synced.mtime, synced.mtime);
  }
}

const namesOf = (folder: string): Names =>
  new Map(fs.readdirSync(folder).map((name) => [name, inodeOf(join(folder, name))]));

function removeValue(names: Names, inode: Inode): void {
  for (const [name, value] of names) if (value === inode) names.delete(name);
}

function inodeOf(path: string): Inode {
  const { ino, birthtimeNs } = fs.lstatSync(path, { bigint: true });
  return `${ino}-${birthtimeNs}`;
}

function* walk(path: string): Generator<string> {
  yield path;
  if (!fs.lstatSync(path).isDirectory()) return;
  for (const name of fs.readdirSync(path)) yield* walk(join(path, name));
}

type Sync = (this: { fd: number }) => Promise<void>;

// For good: files that nobody watches are synced as ever, and crash points may come and go above it.
for (const name of ['sync', 'datasync'] as const) {
  const original = Reflect.get(FILE_HANDLE, name) as Sync;
  const watching: Sync = function () {
    for (const one of watched) if (one.sync(this.fd)) return Promise.resolve();
    return original.call(this);
  };
  Reflect.set(FILE_HANDLE, name, watching);
}
