/** The library that makes the clock of a simulated host wrong: compiled once, then taken from the cache. */
import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { mkdir, readFile, rename } from 'node:fs/promises';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { run } from '../../../activities/exec/run.ts';

const SOURCE = join(import.meta.dirname, 'clock.c');

/** Where clock.c looks for the seconds by which the clock is ahead. */
export const OFFSET_FILE = '/etc/clock-offset';

/** Compiles the library if it is not in the cache, and answers where it is. */
export async function ensureClock(): Promise<string> {
  const hash = createHash('sha256')
    .update(process.arch)
    .update(await readFile(SOURCE));
  const cache = join(process.env['XDG_CACHE_HOME'] || join(homedir(), '.cache'), 'vmferry');
  const target = join(cache, `clock-${hash.digest('hex').slice(0, 16)}.so`);
  if (existsSync(target)) return target;
  await mkdir(cache, { recursive: true });
  const partial = `${target}.${process.pid}`;
  await run('gcc', ['-O2', '-Wall', '-Wextra', '-Werror', '-shared', '-fPIC', '-o', partial, SOURCE]);
  await rename(partial, target);
  return target;
}
