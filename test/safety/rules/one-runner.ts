/** Invariant 1: at no instant do two QEMU processes run the same instance. */
import type { Violation } from '../history.ts';
import { when, type View } from './view.ts';

export function oneRunner(view: View): Violation[] {
  const { history, instance } = view;
  const found: Violation[] = [];
  const runs = view.runs;
  for (const [index, one] of runs.entries()) {
    for (const other of runs.slice(index + 1)) {
      if (one.life === other.life) continue;
      const from = Math.max(one.run.first, other.run.first);
      const to = Math.min(one.run.last, other.run.last);
      if (from >= to) continue;
      const [first, second] = [one.life, other.life];
      found.push({
        invariant: 1,
        instance: instance.id,
        hosts: [...new Set([first.host, second.host])],
        at: from,
        text:
          `${instance.name} ran twice for ${Math.ceil(to - from)} ms from ${when(history, from)}: ` +
          `on ${first.host} (process ${first.pid}) and on ${second.host} (process ${second.pid})`,
      });
    }
  }
  return found;
}
