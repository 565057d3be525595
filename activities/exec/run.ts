/** The only place where vmferry starts another program. No shell: arguments are passed as they are. */
import { execa } from 'execa';
import { VmferryError } from '../../workflows/failures.ts';

export interface RunOptions {
  /** Aborting sends SIGTERM, and SIGKILL after five seconds; `run` then throws the signal's reason. */
  signal?: AbortSignal;
  /** Given to the program's standard input; without it the program reads end of file at once. */
  input?: string | Uint8Array;
  cwd?: string;
  /** Added to this process's environment. */
  env?: Record<string, string>;
  /** Milliseconds after which the program is ended and `CommandFailed` thrown. Default: none. */
  timeout?: number;
  /** Exit codes that are answers rather than failures. Default: 0 alone. */
  okExitCodes?: readonly number[];
}

export interface RunResult {
  stdout: string;
  stderr: string;
  exitCode: number;
}

/** Output beyond this ends the program: what we run answers in a few lines, whatever file it was pointed at. */
const MAX_OUTPUT = 4 * 1024 * 1024;
const MAX_TAIL = 600;

const tail = (text: string): string => (text.length > MAX_TAIL ? `…${text.slice(-MAX_TAIL)}` : text);

/**
 * Runs a program to its end and answers what it printed. Throws `CommandFailed`, with the end of its error output, if it
 * cannot be started, exits with another code, is killed, prints too much or takes too long.
 */
export async function run(program: string, args: readonly string[], options: RunOptions = {}): Promise<RunResult> {
  const { signal, input, cwd, env, timeout, okExitCodes = [0] } = options;
  signal?.throwIfAborted();
  const result = await execa(program, args, {
    ...(signal && { cancelSignal: signal }),
    ...(input === undefined ? { stdin: 'ignore' as const } : { input }),
    ...(cwd !== undefined && { cwd }),
    ...(timeout !== undefined && { timeout }),
    // Messages for people must not depend on the operator's language.
    env: { LC_ALL: 'C.UTF-8', ...env },
    maxBuffer: MAX_OUTPUT,
    reject: false,
  });
  signal?.throwIfAborted();
  const { stdout, stderr, exitCode } = result;
  if (exitCode !== undefined && okExitCodes.includes(exitCode) && !result.timedOut && !result.isMaxBuffer) {
    return { stdout, stderr, exitCode };
  }
  const how = result.timedOut
    ? `took longer than ${timeout} ms`
    : result.isMaxBuffer
      ? 'printed too much'
      : result.signal !== undefined
        ? `was ended by ${result.signal}`
        : exitCode === undefined
          ? `could not be started (${result.code ?? 'unknown reason'})`
          : `ended with exit code ${exitCode}`;
  const said = tail((stderr || stdout).trim());
  const message = `${tail([program, ...args].join(' '))} ${how}${said && `: ${said}`}`;
  throw new VmferryError('CommandFailed', message, result.cause === undefined ? undefined : { cause: result.cause });
}
