/**
 * Invariant 3, the guest's RAM: its counter tells every number exactly once, whoever runs it; it begins anew only where a
 * disturbance has cost it its RAM; nothing that it has told the world is ever taken back.
 */
import type { ConsoleLog, Span, Time, Violation } from '../history.ts';
import { countOf } from '../observe/consoles.ts';
import { consoleLost, ramLosses, type RamLoss } from './excuses.ts';
import { fencesOf, once, when, type View } from './view.ts';

/** A console's text may reach its file so much later than it was printed: virtlogd is a process like others. */
const DELAY_MS = 5_000;

interface Told {
  log: ConsoleLog;
  span: Span;
}

/** A boot of the guest, as its console shows it. */
export interface Boot {
  /** When its first count was seen. */
  at: Time;
  /** When it began to count on from where it is: later than `at` if a fence took it back to a package. */
  since: Time;
  /** Its highest count, and when that was seen. */
  count: number;
  until: Time;
}

export interface Counted {
  boots: Boot[];
  violations: Violation[];
}

export function counter(view: View): Violation[] {
  return [...counted(view).violations, ...reported(view)];
}

/** Follows the counts over all consoles in the order in which they came. */
export const counted = once((view: View): Counted => {
  const { history, instance } = view;
  const boots: Boot[] = [];
  const violations: Violation[] = [];
  const losses = [...ramLosses(view)];
  const fences = fencesOf(history, instance.id);
  const violate = (at: Time, hosts: string[], text: string): unknown =>
    violations.push({ invariant: 3, instance: instance.id, hosts: [...new Set(hosts)], at, text });

  let before: Told | null = null;
  for (const told of inOrder(view)) {
    const { log, span } = told;
    const boot: Boot | undefined = boots.at(-1);
    if (!boot || !before) {
      boots.push(bootOf(span));
    } else if (span.from === 1) {
      const excuse = losses.findIndex(
        ({ after, by }) => after <= span.firstAt && by >= boot.until - DELAY_MS && by <= span.firstAt + DELAY_MS,
      );
      if (excuse < 0) {
        violate(
          span.firstAt,
          [before.log.host, log.host],
          `${instance.name} booted anew on ${log.host} at ${when(history, span.firstAt)}, though nothing had cost it its RAM; ` +
            `it had counted to ${boot.count} on ${before.log.host}`,
        );
      } else losses.splice(0, excuse + 1);
      boots.push(bootOf(span));
    } else {
      const next = boot.count + 1;
      // Where no console tells it, its disk and what it says over HTTP do.
      const unheard = span.from !== next && consoleLost(history, view.lives, before.span.lastAt, span.firstAt);
      const lost = losses.findIndex(({ after, by }) => after <= span.firstAt && by >= boot.until - DELAY_MS);
      if (unheard && lost >= 0) {
        losses.splice(0, lost + 1);
        boots.push(bootOf(span));
        before = told;
        continue;
      }
      if (span.from < next && fences.some(({ at }) => at >= boot.since && at <= span.firstAt)) {
        // The operator gave up what it did since: also boots, of which it counts on one that had come as far.
        while (boots.length > 1 && (boots.at(-1)?.count ?? 0) < span.from - 1) boots.pop();
        Object.assign(boots.at(-1) ?? boot, { since: span.firstAt, count: span.to, until: span.lastAt });
        before = told;
        continue;
      }
      if (span.from < next) {
        violate(
          span.firstAt,
          [...whoTold(view, span.from, boot), log.host],
          `${instance.name} told ${range(span.from, Math.min(span.to, boot.count))} twice: ` +
            `again on ${log.host} at ${when(history, span.firstAt)}`,
        );
      } else if (span.from > next && !unheard && !(span.from === next + 1 && joined(before.log, log) === next)) {
        violate(
          span.firstAt,
          [before.log.host, log.host],
          `${instance.name} never told ${range(next, span.from - 1)}, between ${before.log.host} at ` +
            `${when(history, before.span.lastAt)} and ${log.host} at ${when(history, span.firstAt)}`,
        );
      }
      boot.count = Math.max(boot.count, span.to);
      boot.until = span.lastAt;
    }
    before = told;
  }
  return { boots, violations };
});

/** The same by what it has told over HTTP, which does not depend on any console. */
function reported(view: View): Violation[] {
  const { history, instance, checkpoints } = view;
  const found: Violation[] = [];
  const losses = ramLosses(view);
  const givenUp = (from: Time, to: Time): boolean =>
    fencesOf(history, instance.id).some(({ at }) => at >= from && at <= to);
  const bootedUnheard = (from: Time, to: Time): boolean => {
    const heard = inOrder(view).flatMap(({ span }) => (span.lastAt <= from ? [span.lastAt] : []));
    const since = Math.max(history.from, ...heard);
    return losses.some((loss) => isBetween(loss, from, to)) && consoleLost(history, view.lives, since, to);
  };
  const violate = (at: Time, hosts: string[], text: string): unknown =>
    found.push({ invariant: 3, instance: instance.id, hosts: [...new Set(hosts)], at, text });

  for (const [index, now] of checkpoints.entries()) {
    const before = checkpoints[index - 1];
    if (!before || givenUp(before.asked, now.answered)) continue;
    const hosts = [before.host, now.host];
    if (before.token === now.token && now.counter < before.counter) {
      violate(
        now.answered,
        hosts,
        `${instance.name} had told ${before.counter} on ${before.host} at ${when(history, before.answered)}, ` +
          `and ${now.counter} on ${now.host} at ${when(history, now.answered)}`,
      );
    }
    if (before.token === now.token) continue;
    if (checkpoints.slice(0, index).some(({ token }) => token === now.token)) {
      violate(
        now.answered,
        hosts,
        `on ${now.host} an earlier boot of ${instance.name} is back at ${when(history, now.answered)}`,
      );
    } else if (!losses.some((loss) => isBetween(loss, before.asked, now.answered))) {
      violate(
        now.answered,
        hosts,
        `${instance.name} on ${now.host} has another token at ${when(history, now.answered)} than on ${before.host} before, ` +
          `though nothing had cost it its RAM`,
      );
    }
  }
  for (const { host, answered, counter: value } of checkpoints) {
    // What a copy tells that began to run later, up to the next boot.
    for (const { log, span } of inOrder(view)) {
      if (span.firstAt <= answered) continue;
      if (span.from === 1 || givenUp(answered, span.firstAt) || bootedUnheard(answered, span.firstAt)) break;
      if ((log.spans[0]?.firstAt ?? 0) <= answered || span.from > value) continue;
      violate(
        span.firstAt,
        [host, log.host],
        `${instance.name} had told ${value} over HTTP on ${host} at ${when(history, answered)}; ` +
          `on ${log.host} it went on from ${span.from} at ${when(history, span.firstAt)}`,
      );
      break;
    }
  }
  return found;
}

const bootOf = ({ firstAt, lastAt, to }: Span): Boot => ({ at: firstAt, since: firstAt, count: to, until: lastAt });

function inOrder(view: View): Told[] {
  return view.consoles
    .flatMap((log) => log.spans.map((span) => ({ log, span })))
    .sort((a, b) => a.span.firstAt - b.span.firstAt);
}

/** A line that a move has cut in two is whole again when its halves are put together. */
function joined(before: ConsoleLog, after: ConsoleLog): number | null {
  return before === after || !after.head.endsWith('\n') ? null : countOf(before.tail + after.head.slice(0, -1));
}

function whoTold(view: View, count: number, { at }: Boot): string[] {
  return inOrder(view)
    .filter(({ span }) => span.firstAt >= at && span.from <= count && count <= span.to)
    .map(({ log }) => log.host);
}

const isBetween = ({ after, by }: RamLoss, from: Time, to: Time): boolean => after <= to && by >= from;

const range = (from: number, to: number): string => (from === to ? `count ${from}` : `counts ${from} to ${to}`);
