/**
 * Decides whether a pool kept what the design promises (docs/architecture.md), from what was observed of it:
 *
 *   1  at no instant do two hosts run the same instance                                   rules/one-runner.ts
 *   2  at every instant it runs, or can be run from a disk                                rules/runnable-copy.ts
 *   3  a sealed package is never modified                                                 rules/packages.ts
 *      and so nothing of a guest is lost or happens twice: its counter, its disk          rules/counter.ts, disk.ts
 *   4  what was begun is finished                                                         rules/end-state.ts
 *   5  nothing is left over that no record knows, nothing deleted that no move made       rules/end-state.ts, packages.ts
 *   6  a host runs an instance only while it holds the chain of releases                  rules/ownership.ts
 *   0  the observers saw enough to tell                                                   rules/coverage.ts
 *
 * What the campaign says it did to the pool excuses a loss of RAM that lay nowhere else, and nothing more: rules/excuses.ts.
 * No rule looks at the world, and none has a tolerance but for what the history says is imprecise about itself.
 */
import type { History, Violation } from './history.ts';
import { counter } from './rules/counter.ts';
import { coverage, poolCoverage } from './rules/coverage.ts';
import { disk } from './rules/disk.ts';
import { bystanders, endState, unknownThings } from './rules/end-state.ts';
import { oneRunner } from './rules/one-runner.ts';
import { ownership } from './rules/ownership.ts';
import { sealedPackages } from './rules/packages.ts';
import { runnableCopy } from './rules/runnable-copy.ts';
import { viewOf } from './rules/view.ts';

const RULES = [oneRunner, runnableCopy, counter, disk, endState, ownership, coverage];

export interface JudgeOptions {
  /** Only these, while others still move. Without it all, and the pool as a whole. */
  instances?: readonly string[];
}

/** Empty if nothing is wrong. In the order of time. */
export function judge(history: History, options: JudgeOptions = {}): Violation[] {
  const views = history.instances.map((instance) => viewOf(history, instance));
  const judged = views.filter(({ instance }) => options.instances?.includes(instance.id) ?? true);
  const unwatched = (options.instances ?? []).filter((id) => !history.instances.some((instance) => instance.id === id));
  if (unwatched.length > 0) throw new Error(`the history does not watch ${unwatched.join(', ')}`);

  const owners = new Map(judged.flatMap((view) => [...view.packages.keys()].map((id) => [id, view.instance.id])));
  const found = [
    ...judged.flatMap((view) => RULES.flatMap((rule) => rule(view))),
    ...sealedPackages(history, options.instances ? owners : null),
    ...bystanders(history),
    ...poolCoverage(history),
    ...(options.instances ? [] : unknownThings(history, views)),
  ];
  return found.sort((a, b) => a.at - b.at);
}
