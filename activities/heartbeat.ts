/** Progress and cancellation of the running activity, in the form that the mechanisms take. */
import { Context } from '@temporalio/activity';
import type { Heartbeat } from '../workflows/contract.ts';

/** Told by a mechanism as it works; cheap, may be called for every buffer. */
export type OnProgress = (bytesDone: number, bytesTotal: number) => void;

export interface Work {
  /** Aborts when Temporal cancels the activity; mechanisms throw `signal.reason`. */
  signal: AbortSignal;
  onProgress: OnProgress;
}

/** For the step that runs now. The SDK throttles what is sent. Heartbeats go on while `run` is silent. */
export async function withHeartbeat<T>(step: string, run: (work: Work) => Promise<T>): Promise<T> {
  const context = Context.current();
  const details: Heartbeat = { step, bytesDone: 0, bytesTotal: 0 };
  const beat = (): void => context.heartbeat({ ...details });
  const timer = setInterval(beat, 1000);
  beat();
  try {
    return await run({
      signal: context.cancellationSignal,
      onProgress: (bytesDone, bytesTotal) => {
        const first = details.bytesTotal === 0;
        details.bytesDone = bytesDone;
        details.bytesTotal = bytesTotal;
        if (first) beat();
      },
    });
  } finally {
    clearInterval(timer);
  }
}
