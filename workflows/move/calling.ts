/**
 * How a move calls its hosts: for how long a failing call is repeated, and who waits for an absent worker. Temporal repeats
 * what failed; here is only what its retry policy cannot say.
 */
import { CancellationScope, sleep } from '@temporalio/workflow';
import type { HostActivities, HostId, ParkChoice, StepRecord } from '../contract.ts';
import { absence, failure, isAbsence, isCancellation, mayPass, reasonOf } from '../failing.ts';
import { ABSENT_AFTER, onHost, type Patience } from '../options.ts';
import type { Move } from './move.ts';

/** Seconds. Nothing is at stake yet, and somebody waits for the answer. */
const PREFLIGHT_PATIENCE = 15;

/** Seconds between two calls to a host that refuses, which a person has to mend: doubled from one to the next. */
const FIRST_WAIT = 5;
/** Long, because each call grows a history that must never be full; `retry` calls at once. */
const LONGEST_WAIT = 3600;

/** What the operator may decide while a move depends on one host for good. */
const RELEASED_CHOICES: ParkChoice[] = ['retry', 'readdress'];

export interface Endurance {
  /** How long a call that fails is repeated. */
  failing: Patience;
  /** How long an absent worker is waited for. */
  absent: Patience;
  /** Seconds of absence after which the move shows itself as parked, though it goes on waiting. */
  parkAfter?: number;
}

type Call<T> = (host: HostActivities) => Promise<T>;
/** Says for people what a step did. */
type Told<T> = (result: T) => string;

/**
 * A step on the host that has the guest, or its package: the source. Nobody could stand in for it, so its absent worker is
 * waited for without limit.
 */
export async function atSource<T>(
  move: Move,
  step: StepRecord['step'],
  summary: string,
  run: Call<T>,
  told?: Told<T>,
): Promise<T> {
  const { id } = move.holder;
  if (move.fenced.size > 0) return enduring(move, step, id, summary, 'bear', run, told);
  const endurance: Endurance = { failing: patienceFor(move, step), absent: 'for ever' };
  return move.story.step(step, id, () => call(move, id, summary, endurance, run), told);
}

/** A step on the destination. There are others: failing and absence are borne for the retry window; after a fence, for ever. */
export async function atDestination<T>(
  move: Move,
  step: StepRecord['step'],
  summary: string,
  run: Call<T>,
  told?: Told<T>,
): Promise<T> {
  const { id } = move.destination;
  if (move.fenced.size > 0) return enduring(move, step, id, summary, 'bear', run, told);
  const endurance: Endurance = { failing: patienceFor(move, step), absent: move.options.retryWindowSeconds };
  return move.story.step(step, id, () => call(move, id, summary, endurance, run), told);
}

/**
 * A step that only this host can do, once the instance is released or may be: tried for as long as it takes. What fails or
 * is absent for longer than the retry window shows itself as parked, with reason and choices, and is tried on all the same.
 *
 * @param refusal what to do when the host says no for good: `bear` asks it again, since a person may mend the cause
 */
export async function enduring<T>(
  move: Move,
  step: StepRecord['step'],
  host: HostId,
  summary: string,
  refusal: 'throw' | 'bear',
  run: Call<T>,
  told?: Told<T>,
): Promise<T> {
  const { retryWindowSeconds } = move.options;
  const { story } = move;
  const endurance: Endurance = { failing: retryWindowSeconds, absent: 'for ever', parkAfter: retryWindowSeconds };
  const persist = async (): Promise<T> => {
    for (let wait = FIRST_WAIT; ; wait = Math.min(wait * 2, LONGEST_WAIT)) {
      try {
        return await call(move, host, summary, endurance, run);
      } catch (error) {
        const passing = mayPass(error);
        if (isCancellation(error) || (refusal === 'throw' && !passing)) throw error;
        story.parked(error, { choices: RELEASED_CHOICES, released: true });
        // Temporal repeats what may pass without end, and the history does not grow.
        endurance.failing = passing ? 'for ever' : retryWindowSeconds;
        if (!passing) await sleep(wait * 1000, { summary: `Ask ${host} again` });
      }
    }
  };
  return story.step(
    step,
    host,
    async () => {
      try {
        return await persist();
      } finally {
        if (story.progress.parked) goOn(move);
      }
    },
    told,
  );
}

/** Calls one host, once its worker is there. */
export async function call<T>(
  move: Move,
  host: HostId,
  summary: string,
  { failing, absent, parkAfter }: Endurance,
  run: Call<T>,
): Promise<T> {
  // Soon enough to be seen waiting before a short window is over.
  const absentAfter = Math.max(1, Math.min(ABSENT_AFTER, move.options.retryWindowSeconds / 4));
  for (;;) {
    try {
      return await run(onHost(host, { summary, patience: failing, absentAfter }));
    } catch (error) {
      const left = absent === 'for ever' ? absent : absent - absentAfter;
      if (!isAbsence(error)) throw error;
      const parkIn = parkAfter === undefined ? undefined : Math.max(0, parkAfter - absentAfter);
      if (!(await workerBack(move, host, left, parkIn))) throw error;
    }
  }
}

/** Calls a host until it has answered, and repeats also what it refuses: a person has to mend the cause, and sees it. */
export async function callForEver<T>(move: Move, host: HostId, summary: string, run: Call<T>): Promise<T> {
  return insist(move, host, () => call(move, host, summary, { failing: 'for ever', absent: 'for ever' }, run));
}

/** A step that must come to its end whatever happens. */
export async function unfailing<T>(
  move: Move,
  step: StepRecord['step'],
  host: HostId,
  summary: string,
  run: Call<T>,
  told?: Told<T>,
): Promise<T> {
  return move.story.step(step, host, () => callForEver(move, host, summary, run), told);
}

/** Repeats also what was refused, whoever cancels: a person has to mend the cause, and sees it. */
export async function insist<T>(move: Move, who: string, run: () => Promise<T>): Promise<T> {
  return CancellationScope.nonCancellable(async () => {
    for (let wait = FIRST_WAIT; ; wait = Math.min(wait * 2, LONGEST_WAIT)) {
      try {
        return await run();
      } catch (error) {
        move.story.note(`${who} refuses, and is asked again in ${wait} s: ${reasonOf(error).message}`);
        move.story.stuck(error, { choices: ['retry'], released: move.operator.beyondReturn !== null });
        await move.operator.retryWithin(wait);
        move.story.unparked();
      }
    }
  });
}

function patienceFor(move: Move, step: StepRecord['step']): number {
  const { retryWindowSeconds } = move.options;
  return step === 'preflight' ? Math.min(retryWindowSeconds, PREFLIGHT_PATIENCE) : retryWindowSeconds;
}

/** What kept it parked is over. */
function goOn(move: Move): void {
  move.story.unparked();
  move.story.phase('blackout');
}

/**
 * Waits for a worker by a small question that stays in its queue: the history does not grow, and the answer comes the
 * moment the worker is back. False if patience ends first.
 *
 * @param parkIn seconds after which the move shows itself as parked meanwhile
 */
async function workerBack(move: Move, host: HostId, patience: Patience, parkIn?: number): Promise<boolean> {
  const { story } = move;
  const question = async (): Promise<boolean> => {
    const asked = onHost(host, { summary: `Wait for the worker of ${host}`, patience: 0, absentAfter: null });
    await asked.describeHost().catch((error: unknown) => {
      if (isCancellation(error)) throw error; // any other failure is an answer too
    });
    return true;
  };
  if (patience !== 'for ever' && patience <= 0) return false;
  const outer = CancellationScope.current();
  const parking = new CancellationScope();
  let parkedHere = false;
  story.waiting(host);
  if (parkIn !== undefined) {
    void parking
      .run(() => sleep(parkIn * 1000, { summary: `Until ${host} has been absent for the retry window` }))
      .then(
        () => {
          parkedHere = true;
          story.parked(failure('HostUnreachable', absence(host)), { choices: RELEASED_CHOICES, released: true });
        },
        () => undefined, // the worker was back before
      );
  }
  try {
    return await (patience === 'for ever' ? question() : CancellationScope.withTimeout(patience * 1000, question));
  } catch (error) {
    if (outer.consideredCancelled) throw error;
    return false;
  } finally {
    parking.cancel();
    story.waitingOver(host);
    if (parkedHere) goOn(move);
  }
}
