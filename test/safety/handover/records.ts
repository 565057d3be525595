/** Records as they lie on a host's disk, read without vmferry. */
import { existsSync, readFileSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';

/** A record that a power loss has torn: whoever comes after can make nothing of it. */
export class TornRecord extends Error {
  override readonly name = 'TornRecord';
}

/** @throws TornRecord */
export function readRecord<T>(path: string): T {
  const text = readFileSync(path, 'utf8');
  try {
    return JSON.parse(text) as T;
  } catch (cause) {
    const name = join(basename(dirname(path)), basename(path));
    throw new TornRecord(`the record ${name} is torn: it is ${JSON.stringify(text.slice(0, 40))}`, { cause });
  }
}

/** Null if there is none. */
export function findRecord<T>(path: string): T | null {
  return existsSync(path) ? readRecord<T>(path) : null;
}
