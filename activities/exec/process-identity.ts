/** Which process is meant, and whether it still lives: the kernel gives pids away again, the start time tells. */
import { readFileSync } from 'node:fs';
import { readFile } from 'node:fs/promises';

/** The pid alone may be given to another program, the start time (clock ticks since boot) tells. */
export interface ProcessIdentity {
  pid: number;
  startTime: number;
}

/** False also for a zombie: it has closed its files and runs nothing. */
export async function processAlive({ pid, startTime }: ProcessIdentity): Promise<boolean> {
  return (await readStartTime(pid)) === startTime;
}

/** Null if there is no such process, or only what is left of it until its parent looks. */
export async function readStartTime(pid: number): Promise<number | null> {
  const stat = await readProc(pid, 'stat');
  return stat === null ? null : startTimeIn(stat);
}

/** A file of /proc/<pid>; null if there is no such process. */
export async function readProc(pid: number, file: string): Promise<string | null> {
  try {
    return await readFile(`/proc/${pid}/${file}`, 'utf8');
  } catch (error) {
    const code = error instanceof Error && 'code' in error ? error.code : undefined;
    if (code === 'ENOENT' || code === 'ESRCH') return null;
    throw error;
  }
}

let own: ProcessIdentity | undefined;

/** This process. */
export function ownIdentity(): ProcessIdentity {
  own ??= { pid: process.pid, startTime: startTimeIn(readFileSync('/proc/self/stat', 'utf8')) ?? 0 };
  return own;
}

/**
 * A process that is killed loses its command line first, then its files; its first thread may be a zombie while another
 * still finishes a write to the disk.
 */
function startTimeIn(stat: string): number | null {
  // The second field is the program's name in parentheses, which may hold any character.
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  const [state, threads, startTime] = [fields[0], fields[17], fields[19]];
  if (state === undefined || startTime === undefined) return null;
  return /[ZX]/.test(state) && Number(threads) <= 1 ? null : Number(startTime);
}
