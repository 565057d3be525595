/** Which files a disk stands on: the overlay itself, its base, and so on down to one that stands alone. */
import { dirname, resolve } from 'node:path';
import { VmferryError } from '../../workflows/failures.ts';
import { exists } from '../records/durable.ts';
import { inspectQcow2, isQcow2 } from './qcow2.ts';

export interface BackingChain {
  /** Absolute paths, the disk itself first. */
  files: string[];
  /** Why the chain is known no further; null if its last file stands alone. */
  broken: { path: string; why: 'missing' | 'malformed' } | null;
}

/** Longer chains are not made by anybody on purpose; a file that names itself has no end. */
const MAX_LINKS = 64;

/** Follows the names in the headers. Reads nothing else, and opens no file by what a guest wrote. */
export async function backingChain(disk: string): Promise<BackingChain> {
  const files: string[] = [];
  for (let path = disk; ;) {
    if (files.length === MAX_LINKS || files.includes(path)) return { files, broken: { path, why: 'malformed' } };
    if (!(await exists(path))) return { files, broken: { path, why: 'missing' } };
    files.push(path);
    if (!(await isQcow2(path))) return { files, broken: null };
    try {
      const { backingFile } = await inspectQcow2(path);
      if (backingFile === null) return { files, broken: null };
      path = resolve(dirname(path), backingFile);
    } catch (error) {
      if (!(error instanceof VmferryError) || error.type !== 'DiskMalformed') throw error;
      return { files, broken: { path, why: 'malformed' } };
    }
  }
}
