import { constants } from 'node:fs';
import { access, stat } from 'node:fs/promises';
import { homedir } from 'node:os';
import { delimiter, join } from 'node:path';

/**
 * Path of the `temporal` program: what VMFERRY_TEMPORAL_BIN names, else the one on PATH, else the one that set-up has
 * put into the cache. `infra/setup/temporal.sh` looks in the same places, in the same order. Null if there is none.
 */
export async function temporalBinary(): Promise<string | null> {
  const given = process.env['VMFERRY_TEMPORAL_BIN'];
  const cache = process.env['XDG_CACHE_HOME'] || join(homedir(), '.cache');
  const folders = [...(process.env['PATH'] ?? '').split(delimiter).filter(Boolean), join(cache, 'vmferry', 'bin')];
  for (const path of given ? [given] : folders.map((folder) => join(folder, 'temporal'))) {
    if (await isProgram(path)) return path;
  }
  return null;
}

async function isProgram(path: string): Promise<boolean> {
  try {
    await access(path, constants.X_OK);
    return (await stat(path)).isFile();
  } catch {
    return false;
  }
}
