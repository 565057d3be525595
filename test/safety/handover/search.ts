/** Looks for a schedule by which something happens that must never happen. */
import fc from 'fast-check';
import { carryOut, type Coverage, type Failure, type Instruction, type Schedule } from './campaign.ts';
import { schedules } from './schedules.ts';
import type { Rig } from './world.ts';

/** Schedules are made by so many at once, of growing size; each batch has the next seed. */
const BATCH = 25;

/** A schedule, and what happened that must never happen. */
export interface Failed {
  schedule: Schedule;
  failure: Failure;
}

export interface Extent {
  seed: number;
  hosts: 2 | 3;
  runs: number;
  seconds: number;
  /** Goes on behind its time until all of this was covered, but not for ever. */
  until?: readonly string[];
  atMostSeconds?: number;
}

/** Tries schedules until one fails, or there were this many, or the time is over. */
export async function search(
  rig: Rig,
  { seed, hosts, runs, seconds, until = [], atMostSeconds = seconds }: Extent,
): Promise<{ summary: string; coverage: Coverage; failed: Failed | null }> {
  const coverage: Coverage = new Map();
  const begun = performance.now();
  let done = 0;
  let instructions = 0;
  let failed: Failed | null = null;
  const over = (): boolean => {
    const passed = (performance.now() - begun) / 1000;
    const seen = until.every((what) => coverage.has(what));
    return failed !== null || done >= runs || passed > atMostSeconds || (passed > seconds && seen);
  };
  for (let batch = 0; !over(); batch++) {
    for (const schedule of fc.sample(schedules(hosts), { seed: seed + batch, numRuns: BATCH })) {
      const failure = await carryOut(rig, schedule, coverage);
      done += 1;
      instructions += schedule.instructions.length;
      if (failure) failed = { schedule, failure };
      if (over()) break;
    }
  }
  const took = ((performance.now() - begun) / 1000).toFixed(0);
  const summary = `${done} schedules of ${hosts} hosts, ${instructions} instructions, ${took} s, seed ${seed}`;
  return { summary, coverage, failed };
}

/** Leaves out longer, then shorter stretches, as long as the same still goes wrong. */
export async function shorten(rig: Rig, { schedule, failure }: Failed): Promise<Failed> {
  const kind = kindOf(failure);
  for (let length = Math.ceil(schedule.instructions.length / 2); length >= 1; length = Math.floor(length / 2)) {
    for (let start = 0; start < schedule.instructions.length;) {
      const instructions: Instruction[] = schedule.instructions.toSpliced(start, length);
      const shorter = { ...schedule, instructions };
      const still = await carryOut(rig, shorter, new Map());
      if (still && kindOf(still) === kind) [schedule, failure] = [shorter, still];
      else start += length;
    }
  }
  return { schedule, failure };
}

/** What goes wrong first, without what differs from one run to the next: ids, folders, numbers. */
function kindOf({ violations }: Failure): string {
  return (violations[0] ?? '').replace(/\/[^ ]*|[0-9a-f]{8}-[0-9a-f-]+|[0-9]+|"[^"]*"/g, '');
}

/** The story, what was wrong at its end, and the schedule as `--replay` takes it. */
export function tell({ schedule, failure }: Failed): string {
  const violations = failure.violations.map((violation) => `VIOLATION ${violation}`);
  return [...failure.story, ...violations, JSON.stringify(schedule)].join('\n');
}
