/**
 * Invariant 3, the guest's disk: each line was appended exactly once, in every boot; a boot that lost its RAM may leave one
 * torn line, and loses nothing that it had synced.
 */
import type { DiskCheck, Violation } from '../history.ts';
import { counted, type Boot } from './counter.ts';
import { ramLosses } from './excuses.ts';
import { when, type View } from './view.ts';

/** The guest syncs its file at every tenth line, before it tells that count. */
const SYNC_EVERY = 10;
const syncedOf = ({ count }: Boot): number => Math.floor(count / SYNC_EVERY) * SYNC_EVERY;

export function disk(view: View): Violation[] {
  const { history, instance } = view;
  const { boots: all } = counted(view);
  const found: Violation[] = [];
  for (const check of view.diskChecks) {
    const boots = all.filter(({ at }) => at <= check.answered);
    const current = boots.at(-1);
    if (!current) continue; // what has no console is told of by the rule for coverage
    const excused = ramLosses(view).filter(({ after }) => after <= check.answered).length;
    for (const text of wrong(check, boots, current, excused, view)) {
      found.push({
        ...{ invariant: 3, instance: instance.id, hosts: [check.host], at: check.answered },
        text: `the disk of ${instance.name} on ${check.host} ${text}, at ${when(history, check.answered)}`,
      });
    }
  }
  return found;
}

function wrong(check: DiskCheck, boots: Boot[], current: Boot, excused: number, view: View): string[] {
  const { lines, first, last, gaps, torn } = check;
  const found: string[] = [];
  if (torn > excused) found.push(`has ${torn} torn lines, of which ${excused} may be`);
  // A boot's first line is lost with the torn one before it, to which it was appended.
  if (gaps > Math.min(torn, excused)) found.push(`has ${gaps} gaps`);
  if (boots.length === 1 && check.boots === 1 && gaps === 0 && torn === 0 && lines !== last - first + 1) {
    found.push(`has ${lines} lines from ${first} to ${last}`);
  }

  // A boot that ended before its first sync may have left nothing.
  const atLeast = boots.filter((boot) => boot === current || syncedOf(boot) > 0).length;
  if (check.boots > boots.length || check.boots < atLeast) {
    found.push(`shows ${check.boots} boots, its console ${boots.length}`);
  }
  const told = Math.max(toldBefore(view, check, current), reportedBefore(view, check, current));
  if (last < told) found.push(`ends with ${last}, though the guest had told ${told} before`);
  const synced = boots.filter((boot) => boot !== current).reduce((sum, boot) => sum + syncedOf(boot), 0);
  const expected = synced + last - gaps - torn;
  if (lines < expected) found.push(`has ${lines} lines, though ${expected} had been synced`);
  return found;
}

/** Highest count of this boot that a console had shown before the question. It is written before it is told. */
function toldBefore(view: View, { asked }: DiskCheck, { since }: Boot): number {
  const spans = view.consoles.flatMap((log) => log.spans).filter(({ firstAt }) => firstAt >= since && firstAt <= asked);
  return Math.max(0, ...spans.map(({ from, to, lastAt }) => (lastAt <= asked ? to : from)));
}

/** The same over HTTP; the line may be written an instant after the count has grown. */
function reportedBefore(view: View, { asked }: DiskCheck, { since }: Boot): number {
  const answers = view.checkpoints.filter((one) => one.asked >= since && one.answered <= asked);
  return Math.max(0, ...answers.map(({ counter }) => counter - 1));
}
