/**
 * Dying at a chosen instant, without a process: from the chosen call on, every call that could change the file system
 * fails, as if nobody were there to make it. Code that cleans up in `finally` gets no chance to, as after a SIGKILL.
 *
 * It works on what modules imported from `node:fs/promises`, for this whole process: one test at a time.
 */
import fs, { type FileHandle } from 'node:fs/promises';
import { syncBuiltinESMExports } from 'node:module';

/** What a dead process does to its callers. */
export class Died extends Error {
  override readonly name = 'Died';
}

const FUNCTIONS = ['link', 'rename', 'rm', 'mkdir', 'open'] as const;
const METHODS = ['sync', 'datasync', 'writeFile', 'write', 'truncate'] as const;
export type CrashPoint = (typeof FUNCTIONS)[number] | (typeof METHODS)[number];

type Call = (this: unknown, ...args: unknown[]) => unknown;

/**
 * Runs `task`, dying at the `count`-th call of one of these points, counted from 1.
 *
 * @returns whether it came that far
 */
export async function dieAt(
  count: number,
  points: readonly CrashPoint[],
  task: () => Promise<unknown>,
): Promise<boolean> {
  let calls = 0;
  let dead = false;
  const guarded = (point: CrashPoint, call: Call): Call =>
    function (this: unknown, ...args) {
      if (points.includes(point)) calls += 1;
      if (calls >= count && points.includes(point)) dead = true;
      // Reading, and the closing of files, do no harm after death.
      const reading = point === 'open' && (args[1] === 'r' || args[1] === undefined || typeof args[1] === 'number');
      if (dead && !reading) return Promise.reject(new Died(`at ${point}`));
      return call.apply(this, args);
    };

  const prototype = await fileHandlePrototype();
  const restore: (() => void)[] = [];
  const patch = (target: object, name: CrashPoint): void => {
    const original = Reflect.get(target, name) as Call;
    Reflect.set(target, name, guarded(name, original));
    restore.push(() => Reflect.set(target, name, original));
  };
  for (const name of FUNCTIONS) patch(fs, name);
  for (const name of METHODS) patch(prototype, name);
  syncBuiltinESMExports();
  try {
    await task();
    return dead;
  } catch (error) {
    if (!dead) throw error;
    return true;
  } finally {
    for (const undo of restore) undo();
    syncBuiltinESMExports();
  }
}

async function fileHandlePrototype(): Promise<object> {
  const file: FileHandle = await fs.open('/');
  await file.close();
  return Object.getPrototypeOf(file) as object;
}
