/** Waits for a workflow, showing how far it is. The workflow needs no terminal: leaving one ends only the watching. */
import { VmferryError } from '../workflows/failures.ts';
import type { Running } from './api.ts';
import { explain, Interrupted } from './failure.ts';
import { shortMove } from './format.ts';
import { ProgressDisplay, Tracker } from './progress.ts';
import type { Session } from './session.ts';

/** A server that is being started again should not end the watching. */
const LOST_MS = 120_000;

export interface Following {
  /** What the progress line says until the workflow tells more. */
  title: string;
  /** End with `MoveParked` when it waits for a decision; otherwise say so and stay. */
  untilParked?: boolean;
  /** What Ctrl-C is answered with, unless it is a move. */
  farewell?: string;
}

const MOVES = ['migrate', 'save', 'restore'];

/**
 * The workflow's result.
 *
 * @throws Interrupted after Ctrl-C; VmferryError `MoveParked`; whatever the workflow failed with
 */
export async function follow<Result>(session: Session, running: Running<Result>, how: Following): Promise<Result> {
  const { output, clock, interrupt } = session;
  const tracker = new Tracker(how.title);
  const display = new ProgressDisplay(output);
  const leave = new AbortController();
  const stop = AbortSignal.any([leave.signal, interrupt]);
  const result = resultOf(session, running, stop);
  // Observed here although it is awaited below: a failure while a snapshot is taken must not be called unhandled.
  const ended = result.then(
    () => true,
    () => true,
  );
  const interrupted = new Promise<never>((_, reject) => {
    const refuse = (): void => reject(new Interrupted(farewell(running, how)));
    if (interrupt.aborted) refuse();
    else interrupt.addEventListener('abort', refuse, { once: true, signal: leave.signal });
  });
  interrupted.catch(() => undefined);
  try {
    for (;;) {
      const done = await Promise.race([
        ended,
        interrupted,
        clock.sleep(output.live ? 500 : 1000, stop).then(() => false),
      ]);
      if (done) break;
      const change = await snapshotOf(running, tracker, clock.now());
      display.show(change);
      const { parked } = change.view;
      if (parked !== null && how.untilParked === true) {
        throw new VmferryError('MoveParked', `The move ${shortMove(running.runId)} is parked: ${parked.reason}`);
      }
    }
    // The last steps ended between two looks.
    if (MOVES.includes(running.type)) display.show(await snapshotOf(running, tracker, clock.now()));
    return await Promise.race([result, interrupted]);
  } finally {
    display.clear();
    leave.abort();
  }
}

async function snapshotOf(
  running: Running<unknown>,
  tracker: Tracker,
  now: number,
): Promise<ReturnType<Tracker['update']>> {
  try {
    return tracker.update(await running.snapshot(), now);
  } catch (error) {
    // Watching is a courtesy; whether the server is lost is decided by the call that waits for the result.
    return tracker.update({ progress: null, activities: [], trouble: explain(error).message }, now);
  }
}

async function resultOf<Result>(session: Session, running: Running<Result>, stop: AbortSignal): Promise<Result> {
  const { clock } = session;
  for (let lostAt: number | null = null; ;) {
    const began = clock.now();
    try {
      return await running.result(stop);
    } catch (error) {
      if (stop.aborted || explain(error).type !== 'ServerUnreachable') throw error;
      // A call that lived for a while had reached the server: the count starts anew.
      if (lostAt === null || clock.now() - began > LOST_MS / 2) lostAt = began;
      if (clock.now() - lostAt > LOST_MS) throw error;
      await clock.sleep(1000, stop);
    }
  }
}

function farewell({ type, runId }: Running<unknown>, how: Following): string {
  return MOVES.includes(type)
    ? `The move goes on; watch it with \`vmferry moves watch ${shortMove(runId)}\``
    : (how.farewell ?? 'The operation goes on; `vmferry list` shows what becomes of it');
}
