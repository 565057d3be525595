/** What tests leave when they are interrupted, or fail before they could clean up: processes, testbeds, files. */
import { existsSync, globSync, readdirSync, readFileSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { dirname } from 'node:path';
import { Testbed } from '../infra/testbed/testbed.ts';

/**
 * Removes all of it. Every test file makes what it needs below `folder`, because its environment says `TMPDIR=<folder>`;
 * what it starts inherits that, and the daemons of a testbed, which have a clean environment, carry the testbed's mark.
 */
export async function removeLeftovers(folder: string): Promise<void> {
  for (const pid of startedWith(`TMPDIR=${folder}`)) {
    try {
      process.kill(pid, 'SIGKILL');
    } catch (error) {
      if (existsSync(`/proc/${pid}`)) throw error;
    }
  }
  // A test within a simulated host has its testbed one folder further down.
  for (const state of globSync(['*/testbed.json', '*/*/testbed.json'].map((pattern) => `${folder}/${pattern}`))) {
    const directory = dirname(state);
    console.log(`taking down ${directory}`);
    await Testbed.down(directory);
  }
  await rm(folder, { recursive: true, force: true });
}

/** Processes other than this one that were started with the variable. */
function startedWith(variable: string): number[] {
  return readdirSync('/proc')
    .filter((name) => /^[0-9]+$/.test(name) && Number(name) !== process.pid)
    .filter((pid) => environmentOf(pid).includes(variable))
    .map(Number);
}

function environmentOf(pid: string): string[] {
  try {
    return readFileSync(`/proc/${pid}/environ`, 'utf8').split('\0');
  } catch {
    return []; // it has ended
  }
}
