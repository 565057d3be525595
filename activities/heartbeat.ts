/** Progress and cancellation of the running activity, in the form that the mechanisms take. */
import { AsyncLocalStorage } from 'node:async_hooks';
import { Context } from '@temporalio/activity';
import type { Heartbeat } from '../workflows/contract.ts';

/** Told by a mechanism as it works; cheap, may be called for every buffer. */
export type OnProgress = (bytesDone: number, bytesTotal: number) => void;

export interface Work {
  /** Aborts when Temporal cancels the activity; mechanisms throw `signal.reason`. */
  signal: AbortSignal;
  onProgress: OnProgress;
}

const INTERVAL_MS = 1000;
const current = new AsyncLocalStorage<Work>();

/**
 * Runs a step that tells Temporal every second that it lives, and how far it is. Every activity of a host runs in one
 * (host.ts), so that a dead worker is noticed within the heartbeat timeout; a step that wants the `Work` asks again.
 */
export async function withHeartbeat<T>(step: string, run: (work: Work) => Promise<T>): Promise<T> {
  const outer = current.getStore();
  if (outer) return run(outer);

  const context = Context.current();
  const details: Heartbeat = { step, bytesDone: 0, bytesTotal: 0 };
  const beat = (): void => context.heartbeat({ ...details });
  const timer = setInterval(beat, INTERVAL_MS);
  beat();
  const work: Work = {
    signal: context.cancellationSignal,
    onProgress: (bytesDone, bytesTotal) => {
      const first = details.bytesTotal === 0;
      details.bytesDone = bytesDone;
      details.bytesTotal = bytesTotal;
      if (first) beat();
    },
  };
  try {
    return await current.run(work, () => run(work));
  } finally {
    clearInterval(timer);
  }
}
