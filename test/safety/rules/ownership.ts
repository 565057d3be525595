/**
 * Invariant 6: a host lets an instance run only while its own ledger says that it owns the newest generation and has not
 * decided about it; and no two ledgers ever say so together.
 */
import type { Violation } from '../history.ts';
import { fencesOf, intersection, possiblyOwned, uncovered, when, type View } from './view.ts';

/** VIR_DOMAIN_EVENT_STARTED, _RESUMED; started with this detail it was restored, paused for all that is told. */
const STARTED = 2;
const RESUMED = 4;
const STARTED_RESTORED = 2;

export function ownership(view: View): Violation[] {
  return [...runsWithin(view), ...resumesWithin(view), ...oneOwner(view), ...handedOn(view)];
}

function runsWithin(view: View): Violation[] {
  const { history, instance } = view;
  const found: Violation[] = [];
  for (const { life, run } of view.runs) {
    const owned = possiblyOwned(view, life.host);
    // Somewhere in each of these it ran; between the two all the time.
    const outside = ([from, to]: readonly [number, number]): boolean => intersection([[from, to]], owned).length === 0;
    const all = run.first < run.last ? uncovered([run.first, run.last], owned) : [];
    const [from, to] = all[0] ?? [];
    const at = outside([run.after, run.first])
      ? run.first
      : (from ?? (outside([run.last, run.by]) ? run.by : undefined));
    if (at === undefined) continue;
    const howLong = from === undefined || to === undefined ? 'for a moment' : `for ${Math.ceil(to - from)} ms`;
    found.push({
      ...{ invariant: 6, instance: instance.id, hosts: [life.host], at },
      text: `${instance.name} ran on ${life.host} ${howLong} at ${when(history, at)}, while ${life.host} did not own it`,
    });
  }
  return found;
}

/** Too short a run to be seen by its CPU time is still told by libvirt. */
function resumesWithin(view: View): Violation[] {
  const { history, instance } = view;
  const found: Violation[] = [];
  for (const { host, instance: id, event, detail, at } of history.events) {
    const runs = event === RESUMED || (event === STARTED && detail !== STARTED_RESTORED);
    if (id !== instance.id || !runs) continue;
    if (intersection([[at.after, at.by]], possiblyOwned(view, host)).length > 0) continue;
    found.push({
      ...{ invariant: 6, instance: id, hosts: [host], at: at.by },
      text: `libvirt on ${host} let ${instance.name} run at ${when(history, at.by)}, while ${host} did not own it`,
    });
  }
  return found;
}

function oneOwner(view: View): Violation[] {
  const { history, instance, tenures } = view;
  const found: Violation[] = [];
  for (const [index, one] of tenures.entries()) {
    for (const other of tenures.slice(index + 1)) {
      if (one.host === other.host && one.generation !== other.generation) continue;
      const from = Math.max(one.from.by, other.from.by);
      const to = Math.min(one.until?.after ?? history.to, other.until?.after ?? history.to);
      if (from >= to) continue;
      found.push({
        ...{ invariant: 6, instance: instance.id, hosts: [one.host, other.host], at: from },
        text:
          `two hosts own ${instance.name} from ${when(history, from)} on: ` +
          `${one.host} generation ${one.generation}, ${other.host} generation ${other.generation}`,
      });
    }
  }
  return found;
}

/** Every generation but the first follows from what the owner of the one before decided, or from the operator's word. */
function handedOn(view: View): Violation[] {
  const { history, instance, tenures } = view;
  const found: Violation[] = [];
  for (const tenure of tenures) {
    const { host, generation, from } = tenure;
    if (generation === 1) continue;
    const before = tenures.filter((other) => other.generation === generation - 1);
    const given = before.some(
      ({ host: giver, until, decision, to }) =>
        until !== null &&
        until.after <= from.by &&
        (decision === 'return' ? giver === host : decision === 'release' && (to === null || to === host)),
    );
    const byFence = history.ledger.some(
      (entry) =>
        entry.kind === 'fence' &&
        entry.instance === instance.id &&
        entry.generation === generation &&
        entry.to === host &&
        fencesOf(history, instance.id).some(({ at }) => at <= entry.written.by),
    );
    // The one before may have been decided on before the instance was watched.
    if (given || byFence || (before.length === 0 && from.by <= instance.from)) continue;
    found.push({
      ...{ invariant: 6, instance: instance.id, hosts: [host], at: from.by },
      text:
        `${host} owns generation ${generation} of ${instance.name} since ${when(history, from.by)}, ` +
        `though neither an owner of generation ${generation - 1} nor the operator had given it to ${host}`,
    });
  }
  return found;
}
