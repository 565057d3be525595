/** What was observed where something went wrong, kept for `judge.ts` after its testbed is gone. */
import { writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { History } from './history.ts';

/** Answers where the history is. */
export async function keepHistory(history: History, name: string): Promise<string> {
  const path = join(tmpdir(), `vmferry-${name.replaceAll(/[^A-Za-z0-9]+/g, '-')}.json`);
  await writeFile(path, JSON.stringify(history));
  return path;
}
