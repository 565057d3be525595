/**
 * Removal of a folder in two steps: it loses its name first, whole, and then its files. So half of it is never taken for all
 * of it. Whoever dies in between leaves the files under a name by which nobody looks for them, but those who end the removal.
 */
import { rename } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { exists, removeDurably, syncDirectory } from './durable.ts';

export const CONDEMNED = '.deleting-';

/** Where the files of a folder lie that has lost its name. */
export const condemned = (folder: string): string => join(dirname(folder), `${CONDEMNED}${basename(folder)}`);

/** Takes the folder's name away; durable. */
export async function condemn(folder: string): Promise<void> {
  // What was left of an earlier one by an attempt that died.
  await removeDurably(condemned(folder));
  await rename(folder, condemned(folder));
  await syncDirectory(dirname(folder));
}

/** Gives the name back; unless another folder has it by now. */
export async function reprieve(folder: string): Promise<void> {
  if (await exists(folder)) return;
  await rename(condemned(folder), folder);
  await syncDirectory(dirname(folder));
}
