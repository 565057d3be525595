/** Progress and cancellation of the running activity, in the form that the mechanisms take. */
import { AsyncLocalStorage } from 'node:async_hooks';
import { Context } from '@temporalio/activity';
import type { Heartbeat } from '../workflows/contract.ts';
import { VmferryError } from '../workflows/failures.ts';

/** Told by a mechanism as it works; cheap, may be called for every buffer. */
export type OnProgress = (bytesDone: number, bytesTotal: number) => void;

export interface Work {
  /** Aborts when this attempt is to end, for whatever reason; mechanisms throw `signal.reason`. */
  signal: AbortSignal;
  onProgress: OnProgress;
}

/**
 * Has somebody asked for the end of the step, as whoever cancels a move does? Only then may it undo what it did. The signal
 * aborts too when merely this attempt ends: its worker shuts down, it was given up as lost, its workflow is gone.
 */
export function isCalledOff(): boolean {
  return Context.current().cancellationDetails?.cancelRequested === true;
}

const INTERVAL_MS = 1000;
const current = new AsyncLocalStorage<Running>();

interface Running extends Work {
  askedAt: number;
  /** Throws once it has stood still for so long that Temporal has given it up. */
  requirePulse: () => void;
}

/**
 * Runs a step that tells Temporal every second that it lives, and how far it is. Every activity of a host runs in one
 * (host.ts), so that a dead worker is noticed within the heartbeat timeout; a step that wants the `Work` asks again.
 */
export async function withHeartbeat<T>(step: string, run: (work: Work) => Promise<T>): Promise<T> {
  const outer = current.getStore();
  if (outer) return run(outer);

  const context = Context.current();
  const { heartbeatTimeoutMs = Infinity, scheduledTimestampMs } = context.info;
  const details: Heartbeat = { step, bytesDone: 0, bytesTotal: 0 };
  let lastBeat = performance.now();
  let stalled = false;
  const beat = (): void => {
    const now = performance.now();
    // For good: the beat that comes late changes nothing about the attempt that was begun in the meantime.
    stalled ||= now - lastBeat > heartbeatTimeoutMs;
    lastBeat = now;
    context.heartbeat({ ...details });
  };
  const timer = setInterval(beat, INTERVAL_MS);
  beat();
  const work: Running = {
    signal: context.cancellationSignal,
    askedAt: scheduledTimestampMs,
    requirePulse: () => {
      if (!stalled && performance.now() - lastBeat <= heartbeatTimeoutMs) return;
      const seconds = Math.round(heartbeatTimeoutMs / 1000);
      throw new VmferryError(
        'StepStalled',
        `an attempt of ${step} stood still for more than ${seconds} s and goes no further`,
      );
    },
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

/**
 * Asked before anything that another attempt must not find done: an attempt that was frozen, and wakes when another has
 * taken its place, ends here instead of going on with what it knew before. Outside of a step it does nothing.
 *
 * @throws StepStalled
 */
export function requirePulse(): void {
  current.getStore()?.requirePulse();
}

/**
 * When the workflow asked for the running step: milliseconds since the epoch by the clock of Temporal's server, the same for
 * all attempts. Outside of a step it is now.
 */
export const askedAt = (): number => current.getStore()?.askedAt ?? Date.now();
