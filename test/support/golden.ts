import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

const FOLDER = join(import.meta.dirname, '../unit/golden');

export function readGolden(name: string): string {
  return readFileSync(join(FOLDER, name), 'utf8');
}

/** Compares with the stored text. `UPDATE_GOLDEN=1` stores the new one, to be read before it is committed. */
export function assertGolden(name: string, actual: string): void {
  if (process.env['UPDATE_GOLDEN']) writeFileSync(join(FOLDER, name), actual);
  assert.equal(actual, readGolden(name));
}
