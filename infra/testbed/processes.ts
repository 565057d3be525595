/**
 * The testbed's processes. Each one that it starts carries a mark in its environment: the testbed's directory, what the
 * process is, and its own pid in its own PID namespace. Children inherit the mark but not the pid, so the mark tells the
 * daemon itself from what it started, a reused pid is never mistaken for it, and there are no pid files that could lie
 * after a crash of the testbed itself.
 */
import { spawn, type StdioOptions } from 'node:child_process';
import { closeSync, existsSync, openSync, readdirSync, readFileSync, readlinkSync, statSync } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import { constants, homedir } from 'node:os';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { VmferryError } from '../../workflows/failures.ts';

const MARK = 'VMFERRY_TESTBED_PART';
const HELPER = 'helper';

/** Program and arguments. */
export type Argv = readonly [string, ...string[]];

/** A process as seen from outside its namespaces. The start time (clock ticks since boot) guards against pid reuse. */
export interface Process {
  pid: number;
  startTime: number;
  /** What it is in the testbed, e.g. `alpha/libvirtd`. */
  part: string;
  /** Started by the testbed itself, not a child of such a process. */
  leader: boolean;
  /** Base name of its program. */
  program: string;
}

/** Prepends the mark to a command. The mark must be set by the process itself, because only it knows its pid. */
function marked(directory: string, part: string, command: Argv): Argv {
  return ['bash', '-c', `export ${MARK}="$0#$$"; exec "$@"`, `${directory}//${part}`, ...command];
}

/**
 * Environment of a helper that works for a while in the testbed's directory. The mark is that of a child: `down` ends it
 * if the command that started it was killed.
 */
export const helperEnvironment = (directory: string): Record<string, string> => ({
  [MARK]: `${directory}//${HELPER}#0`,
});

/** Helpers whose command was killed: they would go on writing into what the next command makes anew. */
export const orphanedHelpers = (directory: string): Process[] =>
  markedProcesses(directory).filter(({ part }) => part === HELPER);

/** Lets Node keep what it has compiled: a worker starts in two thirds of the time. */
export const quickStart = {
  NODE_COMPILE_CACHE: join(process.env['XDG_CACHE_HOME'] || join(homedir(), '.cache'), 'vmferry/compiled'),
};

/** A clean environment for daemons: nothing of the caller's shell may change how the testbed behaves. */
function daemonEnvironment(extra: Record<string, string> = {}): Record<string, string> {
  return {
    PATH: process.env['PATH'] ?? '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin',
    HOME: process.env['HOME'] ?? '/root',
    LC_ALL: 'C.UTF-8',
    ...quickStart,
    ...extra,
  };
}

/** Nothing takes longer to be executed, and to serve, even where many tests share two cores. */
const START_MS = 20_000;
const SERVE_MS = 120_000;

export interface Daemon {
  /** The testbed's directory. */
  directory: string;
  /** What it is, e.g. `alpha/libvirtd`. */
  part: string;
  command: Argv;
  /** Puts the command into its namespaces; `launched` is the command with its mark. Default: the machine's own. */
  within?: (launched: Argv) => Argv;
  /** Receives standard output and error, appended. */
  log: string;
  env?: Record<string, string>;
  /** A line that it prints once it serves, or a question that it answers then. */
  ready: RegExp | (() => Promise<boolean>);
}

/**
 * Starts a program that outlives this process, waits until it serves, and answers its identity. No-op for one that runs.
 * Throws CommandFailed with the end of its log if it ends or does not serve within two minutes.
 */
export async function startDaemon(daemon: Daemon): Promise<Process> {
  const { directory, part, log, ready } = daemon;
  const running = find(directory, part);
  if (running) return running;
  await mkdir(dirname(log), { recursive: true });
  const offset = existsSync(log) ? statSync(log).size : 0;
  const launched = marked(directory, part, daemon.command);
  const [program, ...args] = daemon.within?.(launched) ?? launched;
  const failedAtOnce = spawnDetached(program, args, log, {
    ...daemonEnvironment(daemon.env),
    [MARK]: `${directory}//launcher#0`,
  });
  const text = (): string => readFileSync(log).subarray(offset).toString();
  const failed = (how: string): string => `${part} ${how}: ${excerpt(text()) || `nothing in ${log}`}`;
  const started = await until(
    () => {
      const found = find(directory, part);
      if (!found && failedAtOnce()) throw new VmferryError('CommandFailed', failed('did not start'));
      return found;
    },
    START_MS,
    () => failed('did not start'),
  );
  await until(
    () => {
      if (!alive(started)) throw new VmferryError('CommandFailed', failed('ended at its start'));
      return typeof ready === 'function' ? ready() : ready.test(text());
    },
    SERVE_MS,
    () => failed('does not serve'),
  );
  return started;
}

/** Starts a program, and answers a question: has it failed? To end well is to leave a process in the background. */
function spawnDetached(program: string, args: string[], log: string, env: Record<string, string>): () => boolean {
  const output = openSync(log, 'a');
  try {
    const stdio: StdioOptions = ['ignore', output, output];
    const child = spawn(program, args, { detached: true, cwd: '/', stdio, env });
    let failed = false;
    child.on('error', () => (failed = true));
    child.on('exit', (code) => (failed = code !== 0));
    child.unref();
    return () => failed;
  } finally {
    closeSync(output);
  }
}

/** Enough of a log to understand a failure: programs name the cause first or last. */
function excerpt(text: string): string {
  const trimmed = text.trim();
  return trimmed.length <= 1000 ? trimmed : `${trimmed.slice(0, 500)} … ${trimmed.slice(-500)}`;
}

const NUMBER = /^\d+$/;

/** Null for a process that has ended. */
function read(path: string): string | null {
  try {
    return readFileSync(path, 'latin1');
  } catch {
    return null;
  }
}

/** State and what follows it of a process or a thread; empty once it has ended. */
function statOf(path: string): string[] {
  const stat = read(`${path}/stat`) ?? '';
  // The program's name stands in parentheses and may hold anything.
  return stat.slice(stat.lastIndexOf(')') + 2).split(' ');
}

function startTimeOf(pid: number): number | null {
  const [state, ...fields] = statOf(`/proc/${pid}`);
  return state === '' || state === 'Z' ? null : Number(fields[18]);
}

function programOf(pid: number): string {
  try {
    return readlinkSync(`/proc/${pid}/exe`).split('/').at(-1) ?? '';
  } catch {
    return '';
  }
}

/** Program and arguments; empty once it has ended. */
export const commandLine = ({ pid }: Process): string[] => (read(`/proc/${pid}/cmdline`) ?? '').split('\0');

const processIds = (): number[] =>
  readdirSync('/proc')
    .filter((name) => NUMBER.test(name))
    .map(Number);

/** All processes that carry the mark of this testbed, children of daemons included. */
export function markedProcesses(directory: string): Process[] {
  const prefix = `${MARK}=${directory}//`;
  return processIds().flatMap((pid) => {
    const entry = read(`/proc/${pid}/environ`)
      ?.split('\0')
      .findLast((line) => line.startsWith(prefix));
    const startTime = startTimeOf(pid);
    if (entry === undefined || startTime === null) return [];
    const [part, own] = entry.slice(prefix.length).split('#');
    const innerPid = read(`/proc/${pid}/status`)?.match(/^NSpid:.*?(\d+)$/m)?.[1];
    return [{ pid, startTime, part: part ?? '', leader: own === innerPid, program: programOf(pid) }];
  });
}

/** The daemon that the testbed started as `part`, or null if it does not run. */
export function find(directory: string, part: string): Process | null {
  return markedProcesses(directory).find((process) => process.leader && process.part === part) ?? null;
}

/** A daemon that the testbed started as `part`, and what it has started itself. */
export const family = (directory: string, part: string): Process[] =>
  markedProcesses(directory).filter((process) => process.part === part);

/** Processes in the same PID namespace as this one, itself included. */
export function namespaceOf(init: Process): Process[] {
  const namespace = (pid: number): string | null => {
    try {
      return readlinkSync(`/proc/${pid}/ns/pid`);
    } catch {
      return null;
    }
  };
  const own = namespace(init.pid);
  if (own === null) return [];
  return processIds()
    .filter((pid) => namespace(pid) === own)
    .flatMap((pid) => {
      const startTime = startTimeOf(pid);
      return startTime === null ? [] : [{ pid, startTime, part: '', leader: false, program: programOf(pid) }];
    });
}

/**
 * The `nsenter`s that brought some of these into their namespaces, and wait for them. One stops when its process stops, goes
 * on only when it is told to itself, and as long as it does not, an ended process is not reaped and its namespace does not end.
 */
export function entriesOf(processes: Process[]): Process[] {
  const parents = new Set(processes.map(({ pid }) => Number(statOf(`/proc/${pid}`)[1] ?? 0)));
  return [...parents].flatMap((pid) => {
    const startTime = startTimeOf(pid);
    const program = programOf(pid);
    return startTime !== null && program === 'nsenter' ? [{ pid, startTime, part: '', leader: false, program }] : [];
  });
}

/** Is this very process still there (a zombie is not)? */
export const alive = (process: Process): boolean => startTimeOf(process.pid) === process.startTime;

/** Sends a signal, unless the process has ended. */
export function signal(target: Process, name: NodeJS.Signals): void {
  if (!alive(target)) return;
  try {
    process.kill(target.pid, name);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
  }
}

/**
 * Does a process stand still? A thread that waits in the kernel, be it for a disk or for a child that is frozen before its
 * exec, stops on its way out and does nothing of its own until then.
 */
export function frozen({ pid }: Process): boolean {
  let threads: string[];
  try {
    threads = readdirSync(`/proc/${pid}/task`);
  } catch {
    return false; // it has ended
  }
  const states = threads.map((thread) => statOf(`/proc/${pid}/task/${thread}`)[0] ?? '');
  if (!states.every((state) => /^[TDZ]?$/.test(state))) return false;
  return states.includes('T') || stopPends(pid);
}

function stopPends(pid: number): boolean {
  const pending = /^ShdPnd:\s*([0-9a-f]+)$/m.exec(read(`/proc/${pid}/status`) ?? '')?.[1] ?? '0';
  return ((BigInt(`0x${pending}`) >> BigInt(constants.signals.SIGSTOP - 1)) & 1n) === 1n;
}

/** Stops processes where they are, and those that they start meanwhile. Resolves when all of them stand still. */
export async function freeze(processes: () => Process[]): Promise<void> {
  await until(
    () => {
      const moving = processes().filter((process) => !frozen(process));
      for (const process of moving) signal(process, 'SIGSTOP');
      return moving.length === 0;
    },
    30_000,
    () => `${names(processes().filter((process) => !frozen(process)))} did not stop`,
  );
}

/** Lets frozen processes go on. No-op for others. */
export async function thaw(processes: () => Process[]): Promise<void> {
  for (const process of [...entriesOf(processes()), ...processes()]) signal(process, 'SIGCONT');
  await until(
    () => !processes().some(frozen),
    30_000,
    () => `${names(processes().filter(frozen))} did not go on`,
  );
}

const names = (processes: Process[]): string => processes.map(({ program, pid }) => `${program} (${pid})`).join(', ');

/** Polls until `check` answers something other than null, undefined or false. Throws `message()` after `millis`. */
export async function until<T>(
  check: () => T | null | undefined | false | Promise<T | null | undefined | false>,
  millis: number,
  message: () => string,
): Promise<T> {
  const deadline = performance.now() + millis;
  for (let pause = 10; ; pause = Math.min(pause * 1.5, 200)) {
    const answer = await check();
    if (answer !== null && answer !== undefined && answer !== false) return answer;
    if (performance.now() > deadline) throw new VmferryError('CommandFailed', message());
    await sleep(pause);
  }
}

/**
 * Sends SIGKILL, or another signal that ends them, and waits until all of them are gone. A frozen one is thawed, for it
 * would notice no other signal.
 */
export async function end(targets: Process[], name: NodeJS.Signals = 'SIGKILL'): Promise<void> {
  for (const target of targets) {
    signal(target, name);
    signal(target, 'SIGCONT');
  }
  await until(
    () => targets.every((target) => !alive(target)),
    30_000,
    () => `${names(targets.filter(alive))} did not end after ${name}`,
  );
}
