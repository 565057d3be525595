/** Did the observers see enough for the silence of the other rules to mean anything? What one of them saw, others must have. */
import type { History, Violation } from '../history.ts';
import { powerLossOf } from './excuses.ts';
import { union, when, type View } from './view.ts';

/** Counts that were told in one go, without any vCPU that was seen to run near them. */
const COUNTS = 20;
const NEAR_MS = 5_000;
/** Longest pause between two looks at the vCPUs. */
const PAUSE_MS = 5_000;

export function coverage(view: View): Violation[] {
  const { history, instance, lives, consoles, tenures } = view;
  const found: Violation[] = [];
  const report = (hosts: string[], at: number, text: string): unknown =>
    found.push({ invariant: 0, instance: instance.id, hosts, at, text: `${instance.name}: ${text}` });

  if (lives.length === 0) report([], instance.from, 'no QEMU process of it was ever seen');
  if (tenures.length === 0) report([], instance.from, 'no ledger that knows it was ever seen');
  if (lives.some(({ runs }) => runs.length > 0) && consoles.length === 0) {
    report([], instance.from, 'it ran, and its console was never seen');
  }
  for (const log of consoles) {
    const running = union(
      lives
        .filter(({ host }) => host === log.host)
        .flatMap(({ runs }) => runs.map(({ after, by }) => [after - NEAR_MS, by + NEAR_MS] as const)),
    );
    for (const { from, to, firstAt, lastAt } of log.spans) {
      if (to - from < COUNTS || running.some(([start, end]) => start <= firstAt && lastAt <= end)) continue;
      report(
        [log.host],
        firstAt,
        `it told counts ${from} to ${to} on ${log.host} from ${when(history, firstAt)}, while no vCPU was seen to run`,
      );
    }
  }
  return found;
}

/** Of the pool as a whole. */
export function poolCoverage(history: History): Violation[] {
  const { count, longestPause } = history.looks;
  const report = (hosts: string[], at: number, text: string): Violation => ({
    invariant: 0,
    instance: null,
    hosts,
    at,
    text,
  });
  const off = history.outages
    .filter((outage) => !powerLossOf(history, outage))
    .map(({ host, from }) =>
      report([host], from, `${host} went off at ${when(history, from)}, and nobody had said so`),
    );
  if (count > 0 && longestPause <= PAUSE_MS) return off;
  const text =
    count === 0 ? 'nobody looked at the vCPUs' : `nobody looked at the vCPUs for ${Math.round(longestPause)} ms`;
  return [...off, report(history.hosts, history.from, text)];
}
