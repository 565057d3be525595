/** Where an instance's state lay on a disk: complete save files, sealed packages. Each is of use until the guest runs on. */
import type { Between, Time } from '../history.ts';
import { fencesOf, intersection, once, possiblyOwned, type Interval, type View } from './view.ts';

export interface StateCopy {
  what: string;
  /** When it may have been there, whole, and the newest state. */
  possible: Interval[];
  /** When it certainly was. Empty (from > to) if that cannot be said. */
  certain: Interval;
}

export const stateCopies = once((view: View): StateCopy[] => [...saveFiles(view), ...sealedPackages(view)]);

/** A disk of the instance on a host. */
export function disksOn(view: View, host: string): Interval[] {
  return view.things
    .filter((thing) => thing.host === host && /^instances\/[^/]+\/g\d+\/[^/]+\.qcow2$/.test(thing.path))
    .map(({ appeared, gone }) => [appeared.after, gone?.by ?? Infinity] as const);
}

/** With the working copy's disk beside it, for whoever owns the instance. */
function saveFiles(view: View): StateCopy[] {
  const found: StateCopy[] = [];
  for (const { host, path, complete, gone } of view.things) {
    if (!complete || !/^moves\/[^/]+\/snapshot$/.test(path)) continue;
    const stale = staleAfter(view, complete);
    const until = Math.min(gone?.by ?? Infinity, stale.certainly);
    const owned = intersection([[complete.after, until]], possiblyOwned(view, host));
    found.push({
      what: `the save file on ${host}`,
      possible: intersection(owned, disksOn(view, host)),
      certain: [complete.by, Math.min(gone?.after ?? Infinity, stale.possibly, keptUntil(view, host, complete))],
    });
  }
  return found;
}

/**
 * How long the owner who made a save file may have gone on from it: he may have taken the instance back meanwhile, but when he
 * has it again later, the file is none of his.
 */
function keptUntil({ tenures }: View, host: string, complete: Between): Time {
  let index = tenures.findLastIndex((tenure) => tenure.host === host && tenure.from.after <= complete.by);
  if (index < 0) return 0;
  while (tenures[index]?.decision === 'return' && tenures[index + 1]?.host === host) index += 1;
  return tenures[index]?.until?.after ?? Infinity;
}

function sealedPackages(view: View): StateCopy[] {
  const found: StateCopy[] = [];
  for (const { id, host, appeared, gone, changes } of view.history.packages) {
    const generation = view.packages.get(id);
    if (generation === undefined) continue;
    // A copy of it that was fetched later is as old as the first.
    const [first = appeared] = view.history.packages
      .filter((other) => other.id === id)
      .map((other) => other.appeared)
      .sort((a, b) => a.by - b.by);
    const stale = staleAfter(view, first);
    const overtaken = view.tenures.find((tenure) => tenure.generation > generation)?.from;
    const damaged = changes.find(({ file, what }) => !isEnvelope(file) || what !== 'added')?.at;
    // Written just before the vCPUs run; from then on nobody restores from the package.
    const resumed = view.records.find(({ path }) => path.endsWith(`/resumed-${generation}.json`))?.at;
    const end = (which: keyof Between): Time =>
      Math.min(
        gone?.[which] ?? Infinity,
        overtaken?.[which] ?? Infinity,
        damaged ?? Infinity,
        resumed?.[which] ?? Infinity,
      );
    // The operator may say that the instance goes on from here, whatever else it did since.
    const named = view.history.ledger.some((entry) => entry.kind === 'fence' && entry.packageId === id);
    const fenced = fencesOf(view.history, view.instance.id).map(
      ({ at }) => [Math.max(at, appeared.after), Math.min(end('by'), nextRun(view, at))] as const,
    );
    found.push({
      what: `package ${id} on ${host}`,
      possible: [[appeared.after, Math.min(end('by'), stale.certainly)], ...(named ? fenced : [])],
      certain: [appeared.by, Math.min(end('after'), stale.possibly)],
    });
  }
  return found;
}

const nextRun = (view: View, at: Time): Time => view.runs.find(({ run }) => run.first > at)?.run.first ?? Infinity;

/** Files that may be added to a package: envelopes and signed statements, by way of a name that tells that they are not whole. */
export const isEnvelope = (file: string): boolean =>
  /^(\.tmp-[^/]*|(to-[0-9A-F]{64}\.pgp|[a-z0-9-]+\.asc)(\.partial)?)$/.test(file);

/** When the guest rightly ran on after a state of it was complete, which made that state an old one. */
function staleAfter(view: View, complete: Between): { certainly: Time; possibly: Time } {
  let [certainly, possibly] = [Infinity, Infinity];
  for (const { life, run } of view.runs) {
    const [owned] = intersection([[run.after, run.by]], possiblyOwned(view, life.host));
    if (!owned) continue;
    const first = Math.max(run.first, owned[0]);
    if (run.by > complete.after) possibly = Math.min(possibly, Math.max(run.after, complete.after));
    if (run.after >= complete.by) certainly = Math.min(certainly, first);
    else if (run.last > complete.by) certainly = Math.min(certainly, Math.max(first, complete.by));
  }
  return { certainly, possibly };
}
