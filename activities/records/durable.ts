/**
 * Small files that must be there, whole, after a power loss at any instant. What these functions have answered is on
 * the disk: content, name and directory. A crash in the middle leaves at most a file whose name begins with `.tmp-` and
 * tells which process wrote it.
 *
 * Records are JSON that a person can read as it lies there: indented, with a sentence `about` at its head that says who did
 * what and when. The sentence is for people; nothing reads it.
 */
import { randomUUID } from 'node:crypto';
import { access, link, mkdir, open, readFile, rename, rm, stat } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import type { z } from 'zod';
import { VmferryError } from '../../workflows/failures.ts';
import { ownIdentity, processAlive } from '../exec/process-identity.ts';

export interface WriteOptions {
  /** Permission bits; default 0o644. Private keys take 0o600. */
  mode?: number;
}

/** A name that nobody else uses and that tells whose it is: `.<kind>-<pid>.<start time>-<uuid>`. */
export function temporaryName(kind: 'tmp' | 'adding'): string {
  const { pid, startTime } = ownIdentity();
  return `.${kind}-${pid}.${startTime}-${randomUUID()}`;
}

/**
 * Was this left behind by a process that has ended? Then nobody will ever finish it. Null for other names, and for
 * temporary ones that do not say who made them.
 */
export async function isOrphan(name: string): Promise<boolean | null> {
  const [, pid, startTime] = /^\.(?:tmp|adding)-([0-9]+)\.([0-9]+)-/.exec(name) ?? [];
  if (pid === undefined || startTime === undefined) return null;
  return !(await processAlive({ pid: Number(pid), startTime: Number(startTime) }));
}

const codeOf = (error: unknown): unknown => (error instanceof Error && 'code' in error ? error.code : undefined);

/** Turns a full disk into `NoSpace`, naming the file; gives back any other error as it is. */
export function asNoSpace(error: unknown, path: string): unknown {
  const code = codeOf(error);
  return code === 'ENOSPC' || code === 'EDQUOT'
    ? new VmferryError('NoSpace', `No space left to write ${path}`, { cause: error })
    : error;
}

/** Makes the names in a directory durable: files created, renamed or removed there. */
export async function syncDirectory(path: string): Promise<void> {
  const directory = await open(path, 'r');
  try {
    await directory.sync();
  } finally {
    await directory.close();
  }
}

/** Makes the content of a file durable, whoever wrote it. */
export async function syncFile(path: string): Promise<void> {
  await syncDirectory(path);
}

/**
 * Makes a directory and those above it, durably. Idempotent. One after the other, and the name of one that is there is
 * synced too: whoever made it may have died just then, and all that is written into it later would be lost with it.
 */
export async function makeDirectory(path: string, options: WriteOptions = {}): Promise<void> {
  try {
    await mkdir(path, options.mode ?? 0o755);
  } catch (error) {
    if (codeOf(error) === 'ENOENT') {
      await makeDirectory(dirname(path), options);
      return makeDirectory(path, options);
    }
    if (codeOf(error) !== 'EEXIST' || !(await stat(path)).isDirectory()) throw error;
  }
  await syncDirectory(dirname(path));
}

/**
 * Removes a file or folder, so that no power loss brings it back. Idempotent: the names are synced also if it is gone, for
 * whoever removed it may have died before he did that.
 */
export async function removeDurably(path: string): Promise<void> {
  if (await exists(path)) await rm(path, { recursive: true, force: true });
  if (await exists(dirname(path))) await syncDirectory(dirname(path));
}

async function writeTemporary(path: string, data: string | Uint8Array, options: WriteOptions): Promise<string> {
  const temporary = join(dirname(path), `${temporaryName('tmp')}-${basename(path)}`);
  try {
    const file = await open(temporary, 'wx', options.mode ?? 0o644);
    try {
      await file.writeFile(data);
      await file.sync();
    } finally {
      await file.close();
    }
  } catch (error) {
    await rm(temporary, { force: true });
    throw asNoSpace(error, path);
  }
  return temporary;
}

/** Writes a file, replacing one that is there: readers see the old content or the new, never a mixture. */
export async function writeDurable(path: string, data: string | Uint8Array, options: WriteOptions = {}): Promise<void> {
  const temporary = await writeTemporary(path, data, options);
  try {
    await rename(temporary, path);
  } catch (error) {
    await rm(temporary, { force: true });
    throw error;
  }
  await syncDirectory(dirname(path));
}

/**
 * Writes a file unless its name is taken; of several callers, in whatever process, exactly one is told `created`. After
 * `exists` the other's file is durable too, so that whoever acts on it acts on something that stays.
 */
export async function createOnce(
  path: string,
  data: string | Uint8Array,
  options: WriteOptions = {},
): Promise<'created' | 'exists'> {
  const temporary = await writeTemporary(path, data, options);
  try {
    // link(2) fails when the name is taken, rename(2) would replace it.
    await link(temporary, path);
    return 'created';
  } catch (error) {
    if (codeOf(error) === 'EEXIST') return 'exists';
    throw asNoSpace(error, path);
  } finally {
    await rm(temporary, { force: true });
    await syncDirectory(dirname(path));
  }
}

/** As `writeDurable`, of a record. `about`: one sentence for whoever reads the file. */
export async function writeRecord(
  path: string,
  about: string,
  record: object,
  options: WriteOptions = {},
): Promise<void> {
  await writeDurable(path, recordText(about, record), options);
}

/** As `createOnce`, of a record. */
export async function createRecord(
  path: string,
  about: string,
  record: object,
  options: WriteOptions = {},
): Promise<'created' | 'exists'> {
  return createOnce(path, recordText(about, record), options);
}

const recordText = (about: string, record: object): string => `${JSON.stringify({ about, ...record }, null, 2)}\n`;

/** Is there anything of this name? Errors other than absence are thrown. */
export async function exists(path: string): Promise<boolean> {
  try {
    await access(path);
    return true;
  } catch (error) {
    if (codeOf(error) === 'ENOENT' || codeOf(error) === 'ENOTDIR') return false;
    throw error;
  }
}

/**
 * Reads one of this host's own records; null if there is none. Throws `Internal` if it does not fit its schema: our own
 * writes are atomic, so somebody else changed it, and a person must look.
 */
export async function readJson<T>(path: string, schema: z.ZodType<T>): Promise<T | null> {
  let text: string;
  try {
    text = await readFile(path, 'utf8');
  } catch (error) {
    if (codeOf(error) === 'ENOENT') return null;
    throw error;
  }
  try {
    const value: unknown = JSON.parse(text);
    if (typeof value === 'object' && value !== null && 'about' in value) delete value.about;
    return schema.parse(value);
  } catch (error) {
    throw new VmferryError('Internal', `The record ${path} is not what this version wrote`, { cause: error });
  }
}
