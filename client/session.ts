/** What one run of the command line has at hand; every piece can be replaced by a test. */
import { createInterface } from 'node:readline/promises';
import type { Readable } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import { VmferryError } from '../workflows/failures.ts';
import type { Api } from './api.ts';
import { Interrupted } from './failure.ts';
import type { Output } from './output.ts';
import type { Environment, Profile } from './profile.ts';

export interface Clock {
  /** Milliseconds since the epoch. */
  now(): number;
  /** Returns early, without an error, when `signal` aborts. */
  sleep(milliseconds: number, signal: AbortSignal): Promise<void>;
}

export const systemClock: Clock = {
  now: () => Date.now(),
  sleep: async (milliseconds, signal) => {
    try {
      await sleep(milliseconds, undefined, { signal });
    } catch (error) {
      if (!signal.aborted) throw error;
    }
  },
};

export interface Session {
  readonly output: Output;
  readonly env: Environment;
  readonly clock: Clock;
  /** Aborts on Ctrl-C. */
  readonly interrupt: AbortSignal;
  readonly stdin: Readable & { isTTY?: boolean };
  /** VmferryError `ProfileInvalid`. */
  profile(): Promise<Profile>;
  api(): Promise<Api>;
  /** For commands whose answer is that something is wrong, such as `doctor`. */
  exitWith(code: number): void;
}

/**
 * Asks a question that is answered by `yes` or `no`; anything else is asked again, the end of the input means no.
 *
 * @throws Interrupted
 */
export async function confirm(session: Session, question: string): Promise<boolean> {
  const lines = createInterface({ input: session.stdin, terminal: false });
  const stop = (): void => lines.close();
  session.interrupt.addEventListener('abort', stop);
  try {
    session.output.ask(`${question} (yes/no) `);
    for await (const line of lines) {
      const answer = line.trim().toLowerCase();
      if (answer === 'yes') return true;
      if (answer === 'no') return false;
      session.output.ask('Type yes or no: ');
    }
  } finally {
    session.interrupt.removeEventListener('abort', stop);
    lines.close();
  }
  session.output.ask('\n');
  if (session.interrupt.aborted) throw new Interrupted('Nothing was changed');
  return false;
}

/** The user said no. */
export function declined(): VmferryError {
  return new VmferryError('Cancelled', 'Not confirmed; nothing was changed');
}
