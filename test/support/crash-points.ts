/**
 * Dying at a chosen instant, without a process: from the chosen call on, every call that could change the world fails, as
 * if nobody were there to make it. Code that cleans up in `finally` gets no chance to, as after a SIGKILL.
 *
 * It works on what modules imported from `node:fs/promises`, and on fakes that ask `mortalCall`. A life is what one task
 * does, followed through its awaits: other tasks of this process live on.
 */
import { AsyncLocalStorage } from 'node:async_hooks';
import { lstatSync, readdirSync, rmSync } from 'node:fs';
import fs, { type FileHandle } from 'node:fs/promises';
import { syncBuiltinESMExports } from 'node:module';
import { join } from 'node:path';

/** What a dead process does to its callers. */
export class Died extends Error {
  override readonly name = 'Died';
}

const FUNCTIONS = ['link', 'rename', 'rm', 'mkdir', 'open', 'copyFile'] as const;
const METHODS = ['sync', 'datasync', 'writeFile', 'write', 'truncate'] as const;
/** `port`: a call to something outside of this process, made through a fake that says so. */
export type CrashPoint = (typeof FUNCTIONS)[number] | (typeof METHODS)[number] | 'port';
export const CRASH_POINTS: readonly CrashPoint[] = [...FUNCTIONS, ...METHODS, 'port'];

/** One process's worth of calls. */
export interface Life {
  readonly points: readonly CrashPoint[];
  /** It dies at this call of one of its points, counted from 1; Infinity for a life that is only counted or ended. */
  readonly dieAt: number;
  calls: number;
  dead: boolean;
}

const current = new AsyncLocalStorage<Life>();

export const newLife = (dieAt = Infinity, points = CRASH_POINTS): Life => ({ points, dieAt, calls: 0, dead: false });

/** Runs `task` as a life of its own. */
export async function live<T>(life: Life, task: () => Promise<T>): Promise<T> {
  patch();
  try {
    return await current.run(life, task);
  } finally {
    unpatch();
  }
}

/** Counts a call of the life that makes it. Throws `Died` if it is over, or ends with this call. */
export function mortalCall(point: CrashPoint): void {
  const life = current.getStore();
  if (!life) return;
  if (life.points.includes(point)) life.calls += 1;
  if (life.calls >= life.dieAt && life.points.includes(point)) life.dead = true;
  if (life.dead) throw new Died(`at ${point}`);
}

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
  const life = newLife(count, points);
  try {
    await live(life, task);
    return life.dead;
  } catch (error) {
    if (!life.dead) throw error;
    return true;
  }
}

type Call = (this: unknown, ...args: unknown[]) => unknown;

/** Of every file that `node:fs/promises` opens. */
export const FILE_HANDLE = await fileHandlePrototype();

let users = 0;
let undo: (() => void)[] = [];

function patch(): void {
  if (users++ > 0) return;
  const replace = (target: object, name: CrashPoint): void => {
    const original = Reflect.get(target, name) as Call;
    Reflect.set(target, name, guarded(name, original));
    undo.push(() => Reflect.set(target, name, original));
  };
  for (const name of FUNCTIONS) replace(fs, name);
  for (const name of METHODS) replace(FILE_HANDLE, name);
  syncBuiltinESMExports();
}

function unpatch(): void {
  if (--users > 0) return;
  for (const restore of undo) restore();
  undo = [];
  syncBuiltinESMExports();
}

const guarded = (point: CrashPoint, call: Call): Call =>
  function (this: unknown, ...args) {
    // Reading, and the closing of files, do no harm after death.
    const reading = point === 'open' && (args[1] === 'r' || args[1] === undefined || typeof args[1] === 'number');
    if (reading) return call.apply(this, args);
    const alive = current.getStore()?.dead !== true;
    try {
      mortalCall(point);
    } catch {
      if (alive && point === 'rm') removeHalf(String(args[0]));
      return Promise.reject(new Died(`at ${point}`));
    }
    return call.apply(this, args);
  };

/** What a removal leaves that is cut off: some of what was in the folder, and that under its name. */
function removeHalf(path: string): void {
  if (!lstatSync(path, { throwIfNoEntry: false })?.isDirectory()) return;
  readdirSync(path)
    .filter((_, index) => index % 2 === 0)
    .forEach((name) => rmSync(join(path, name), { recursive: true }));
}

async function fileHandlePrototype(): Promise<object> {
  const file: FileHandle = await fs.open('/');
  await file.close();
  return Object.getPrototypeOf(file) as object;
}
