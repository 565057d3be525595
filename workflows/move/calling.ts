/**
 * How a move calls its hosts: for how long a failing call is repeated, and who waits for an absent worker. Temporal repeats
 * what failed; here is only what its retry policy cannot say.
 */
import { CancellationScope, sleep } from '@temporalio/workflow';
import type { HostActivities, HostId, StepRecord } from '../contract.ts';
import { isAbsence, isCancellation, reasonOf } from '../failing.ts';
import { ABSENT_AFTER, onHost, type Patience } from '../options.ts';
import type { Move } from './move.ts';

/** Seconds. Nothing is at stake yet, and somebody waits for the answer. */
const PREFLIGHT_PATIENCE = 15;

export interface Endurance {
  /** How long a call that fails is repeated. */
  failing: Patience;
  /** How long an absent worker is waited for. */
  absent: Patience;
}

type Call<T> = (host: HostActivities) => Promise<T>;
/** Says for people what a step did. */
type Told<T> = (result: T) => string;

/** A step on the source. It is the only host that has the guest, so its absent worker is waited for without limit. */
export async function atSource<T>(
  move: Move,
  step: StepRecord['step'],
  summary: string,
  run: Call<T>,
  told?: Told<T>,
): Promise<T> {
  const { id } = move.source;
  const endurance: Endurance = { failing: patienceFor(move, step), absent: 'for ever' };
  return move.story.step(step, id, () => call(move, id, summary, endurance, run), told);
}

/** A step on the destination. There are others: failing and absence are borne for the retry window. */
export async function atDestination<T>(
  move: Move,
  step: StepRecord['step'],
  summary: string,
  run: Call<T>,
  told?: Told<T>,
): Promise<T> {
  const { id } = move.destination;
  const endurance: Endurance = { failing: patienceFor(move, step), absent: move.options.retryWindowSeconds };
  return move.story.step(step, id, () => call(move, id, summary, endurance, run), told);
}

/** A step that must come to its end, whoever cancels; only the host's refusal ends it otherwise. */
export async function shielded<T>(
  move: Move,
  step: StepRecord['step'],
  host: HostId,
  summary: string,
  run: Call<T>,
  told?: Told<T>,
): Promise<T> {
  const endurance: Endurance = { failing: 'for ever', absent: 'for ever' };
  return CancellationScope.nonCancellable(() =>
    move.story.step(step, host, () => call(move, host, summary, endurance, run), told),
  );
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

/** Calls one host, once its worker is there. */
export async function call<T>(
  move: Move,
  host: HostId,
  summary: string,
  { failing, absent }: Endurance,
  run: Call<T>,
): Promise<T> {
  // Soon enough to be seen waiting before a short window is over.
  const absentAfter = Math.max(1, Math.min(ABSENT_AFTER, move.options.retryWindowSeconds / 4));
  for (;;) {
    try {
      return await run(onHost(host, { summary, patience: failing, absentAfter }));
    } catch (error) {
      const left = absent === 'for ever' ? absent : absent - absentAfter;
      if (!isAbsence(error) || !(await workerBack(move, host, left))) throw error;
    }
  }
}

/** Like `call`, but it comes to its end whatever happens. */
export async function callForEver<T>(move: Move, host: HostId, summary: string, run: Call<T>): Promise<T> {
  return insist(move, host, () => call(move, host, summary, { failing: 'for ever', absent: 'for ever' }, run));
}

/** Repeats also what was refused, whoever cancels: a person has to mend the cause, and sees it. */
export async function insist<T>(move: Move, who: string, run: () => Promise<T>): Promise<T> {
  return CancellationScope.nonCancellable(async () => {
    for (let wait = 5; ; wait = Math.min(wait * 2, 300)) {
      try {
        return await run();
      } catch (error) {
        move.story.note(`${who} refuses, and is asked again in ${wait} s: ${reasonOf(error).message}`);
        await sleep(wait * 1000, { summary: `Ask ${who} again` });
      }
    }
  });
}

function patienceFor(move: Move, step: StepRecord['step']): number {
  const { retryWindowSeconds } = move.options;
  return step === 'preflight' ? Math.min(retryWindowSeconds, PREFLIGHT_PATIENCE) : retryWindowSeconds;
}

/**
 * Waits for a worker by a small question that stays in its queue: the history does not grow, and the answer comes the
 * moment the worker is back. False if patience ends first.
 */
async function workerBack(move: Move, host: HostId, patience: Patience): Promise<boolean> {
  const question = async (): Promise<boolean> => {
    const asked = onHost(host, { summary: `Wait for the worker of ${host}`, patience: 0, absentAfter: null });
    await asked.describeHost().catch((error: unknown) => {
      if (isCancellation(error)) throw error; // any other failure is an answer too
    });
    return true;
  };
  if (patience !== 'for ever' && patience <= 0) return false;
  const outer = CancellationScope.current();
  move.story.waiting(host);
  try {
    return await (patience === 'for ever' ? question() : CancellationScope.withTimeout(patience * 1000, question));
  } catch (error) {
    if (outer.consideredCancelled) throw error;
    return false;
  } finally {
    move.story.waitingOver(host);
  }
}
