/** One instance's part of a history, in the terms of the rules. */
import type {
  Between,
  Checkpoint,
  ConsoleLog,
  DiskCheck,
  History,
  LedgerEntry,
  QemuLife,
  RecordVersion,
  Run,
  Thing,
  Time,
  WatchedInstance,
} from '../history.ts';

/** For how long a host owned a generation, by its ledger. */
export interface Tenure {
  host: string;
  generation: number;
  from: Between;
  /** When it decided what becomes of it; null: it has not. */
  until: Between | null;
  decision: LedgerEntry['decision'];
  to: string | null;
}

/** From, to; open at neither end. */
export type Interval = readonly [Time, Time];

export interface View {
  history: History;
  instance: WatchedInstance;
  lives: QemuLife[];
  /** All runs of its vCPUs with the process to which they belong, in order. */
  runs: { life: QemuLife; run: Run }[];
  /** Ascending by generation, then by time. */
  tenures: Tenure[];
  /** By host: see `possiblyOwned`. */
  owned: Map<string, Interval[]>;
  /** In the order in which they began to tell counts; those that told none are left out. */
  consoles: ConsoleLog[];
  checkpoints: Checkpoint[];
  diskChecks: DiskCheck[];
  records: RecordVersion[];
  things: Thing[];
  /** The generation that each of its packages would make, by package id. */
  packages: Map<string, number>;
  moves: Set<string>;
}

export function viewOf(history: History, instance: WatchedInstance): View {
  const { id } = instance;
  const mine = <T extends { instance: string }>(all: readonly T[]): T[] => all.filter((one) => one.instance === id);
  const records = history.records.filter(({ path }) => path.startsWith(`instances/${id}/`));
  // From one package the instance may go on as a later generation, by a fence.
  const packages = new Map<string, number>();
  const makes = (packageId: string, generation: number): unknown =>
    packages.set(packageId, Math.max(generation, packages.get(packageId) ?? 0));
  for (const { kind, packageId, generation } of mine(history.ledger)) {
    if (packageId !== null && kind !== 'decision') makes(packageId, generation);
  }
  const moves = new Set<string>();
  for (const { path, content } of records) {
    const { moveId, packageId } = (content ?? {}) as { moveId?: string; packageId?: string };
    if (moveId !== undefined) moves.add(moveId);
    const saved = /\/save-(\d+)\.json$/.exec(path)?.[1];
    if (saved !== undefined && packageId !== undefined) makes(packageId, Number(saved) + 1);
  }
  const consoles = mine(history.consoles).filter(({ spans }) => spans.length > 0);
  const lives = mine(history.qemus);
  const tenures = tenuresOf(history, id);
  return {
    ...{ history, instance, records, packages, moves, lives, tenures },
    runs: lives.flatMap((life) => life.runs.map((run) => ({ life, run }))).sort((a, b) => a.run.first - b.run.first),
    owned: new Map(history.hosts.map((host) => [host, ownedBy(host, tenures)])),
    consoles: consoles.sort((a, b) => (a.spans[0]?.firstAt ?? 0) - (b.spans[0]?.firstAt ?? 0)),
    checkpoints: mine(history.checkpoints).sort((a, b) => a.asked - b.asked),
    diskChecks: mine(history.diskChecks).sort((a, b) => a.asked - b.asked),
    things: history.things.filter(({ path }) => {
      const [top, name = ''] = path.split('/');
      if (top === 'instances') return name === id;
      return moves.has(name) || packages.has(name.replace(/\.partial$/, ''));
    }),
  };
}

/** When a host may have owned the instance, by its own ledger: nothing outside of it was its right. */
export function possiblyOwned(view: View, host: string): Interval[] {
  return view.owned.get(host) ?? [];
}

/** What many rules ask of a view is worked out once. */
export function once<T>(work: (view: View) => T): (view: View) => T {
  const done = new WeakMap<View, T>();
  return (view) => {
    const known = done.get(view);
    if (known !== undefined) return known;
    const result = work(view);
    done.set(view, result);
    return result;
  };
}

/** What the campaign said about hosts that will not come back with this instance. */
export const fencesOf = (history: History, id: string): { host: string | null; at: Time }[] =>
  history.disturbances.filter(({ kind, ids }) => kind === 'fenced' && (ids === null || ids.includes(id)));

function cut(tenure: Tenure, { after, by }: Between): void {
  tenure.until = { after: Math.min(tenure.until?.after ?? after, after), by: Math.min(tenure.until?.by ?? by, by) };
}

function ownedBy(host: string, tenures: readonly Tenure[]): Interval[] {
  return union(
    tenures
      .filter((tenure) => tenure.host === host)
      .map(({ from, until }) => [from.after, until?.by ?? Infinity] as const),
  );
}

function tenuresOf(history: History, id: string): Tenure[] {
  const entries = history.ledger.filter(({ instance, gone }) => instance === id && gone === null);
  const tenures: Tenure[] = [];
  for (const { host, generation, written } of entries.filter(({ kind }) => kind === 'owned')) {
    const decided = entries.find(
      (entry) => entry.kind === 'decision' && entry.host === host && entry.generation === generation,
    );
    const { decision = null, to = null } = decided ?? {};
    tenures.push({ host, generation, from: written, until: decided?.written ?? null, decision, to });
  }
  // A host that takes its instance back writes two files, and counts as owner of the next generation from the first one on.
  for (const tenure of [...tenures]) {
    if (tenure.decision !== 'return' || !tenure.until) continue;
    const next = tenures.find(({ host, generation }) => host === tenure.host && generation === tenure.generation + 1);
    if (next) next.from = { after: Math.min(next.from.after, tenure.until.after), by: next.from.by };
    else {
      const { host, until: from } = tenure;
      tenures.push({ host, generation: tenure.generation + 1, from, until: null, decision: null, to: null });
    }
  }
  for (const { host, at } of fencesOf(history, id)) {
    for (const tenure of tenures)
      if (tenure.host === host && tenure.from.after <= at) cut(tenure, { after: at, by: at });
  }
  // Whoever owned another history of it owns it no more once the fence is known to anybody.
  for (const { generation, written, to } of entries.filter(({ kind }) => kind === 'fence')) {
    const over = tenures.filter((tenure) => tenure.generation < generation && tenure.host !== to);
    for (const tenure of over) if (tenure.from.after <= written.by) cut(tenure, written);
  }
  return tenures.sort((a, b) => a.generation - b.generation || a.from.by - b.from.by);
}

// ---- Intervals ----

export function union(intervals: readonly Interval[]): Interval[] {
  const merged: [Time, Time][] = [];
  for (const [from, to] of [...intervals].sort((a, b) => a[0] - b[0])) {
    if (to < from) continue;
    const last = merged.at(-1);
    if (last && from <= last[1]) last[1] = Math.max(last[1], to);
    else merged.push([from, to]);
  }
  return merged;
}

export function intersection(some: readonly Interval[], others: readonly Interval[]): Interval[] {
  return union(
    some.flatMap(([from, to]) =>
      others.map(([start, end]) => [Math.max(from, start), Math.min(to, end)] as const).filter(([a, b]) => a <= b),
    ),
  );
}

/** What of an interval none of the others covers. */
export function uncovered([from, to]: Interval, covered: readonly Interval[]): Interval[] {
  const left: Interval[] = [];
  let at = from;
  for (const [start, end] of union(covered)) {
    if (start > at && at < to) left.push([at, Math.min(start, to)]);
    at = Math.max(at, end);
  }
  if (at < to) left.push([at, to]);
  return left;
}

/** For people: seconds since the observation began. */
export const when = (history: History, at: Time): string => `${((at - history.from) / 1000).toFixed(3)} s`;
