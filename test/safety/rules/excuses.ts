/**
 * What the campaign did to the pool excuses that a process lost its console, and that an instance lost its RAM, if it lay
 * nowhere else: then, and only then, its guest may boot anew. A power loss never excuses two copies, and not the loss of a state that was on a disk.
 */
import type { Between, Disturbance, History, Outage, QemuLife, Time } from '../history.ts';
import { stateCopies } from './copies.ts';
import { intersection, once, possiblyOwned, type View } from './view.ts';

/** A campaign says what it is about to do; the process must end within this time. */
const TAKES_MS = 30_000;
/** The campaign may also say it in the same breath. */
const LATE_MS = 1_000;

export interface RamLoss {
  host: string;
  disturbance: Disturbance;
  /** It was there before the one, and gone at the other. */
  after: Time;
  by: Time;
}

export const ramLosses = once((view: View): RamLoss[] => {
  const runs = view.runs.map(({ run }) => run.first);
  return [...endedProcesses(view), ...unsyncedSaves(view)]
    .filter(({ host, after, by }) => {
      // A copy at a host that does not own the instance is nothing to lose.
      if (intersection([[after, by]], possiblyOwned(view, host)).length === 0) return false;
      const next = runs.find((first) => first > by) ?? Infinity;
      // What turned out to be whole was so by then: nobody can have completed it without the process.
      return !stateCopies(view).some(({ certain: [from, to] }) => from <= next && to >= by);
    })
    .sort((a, b) => a.by - b.by);
});

/** A disk that is full, or takes no more, is so for less. */
const DISK_BAD_MS = 60_000;

/**
 * May one of these processes have lost its console, when nothing was told between the two instants? virtlogd gives it up for
 * good when a line cannot be written. One that told something after its disk was mended has not lost it.
 */
export function consoleLost({ disturbances }: History, lives: readonly QemuLife[], from: Time, to: Time): boolean {
  return disturbances
    .filter(({ kind }) => kind === 'disk-full' || kind === 'read-only')
    .some(({ host, at }) => {
      const bad = { from: at, to: at + DISK_BAD_MS };
      if (bad.to < from || bad.from > to) return false;
      return lives.some((life) => life.host === host && life.began.after <= bad.to && (life.ended?.by ?? at) >= at);
    });
}

/** May this be why the process ended? */
export function strikes(disturbance: Disturbance, life: QemuLife): boolean {
  const { kind, host, ids, at } = disturbance;
  if ((kind !== 'power-loss' && kind !== 'qemu-killed') || host !== life.host) return false;
  if (ids !== null && !ids.includes(life.instance)) return false;
  return life.began.after <= at && life.ended !== null && isAbout(disturbance, life.ended);
}

/** The power loss that is why something on a host's disk was gone at the first look after the host had been off. */
export function tookUnsynced(history: History, host: string, gone: Between): Disturbance | undefined {
  const outage = history.outages.find(
    (one) => one.host === host && gone.after <= one.from && gone.by >= one.from && gone.by <= (one.to ?? Infinity),
  );
  return outage && powerLossOf(history, outage);
}

/** What the campaign said about an outage; undefined: nothing. */
export const powerLossOf = (history: History, { host, from }: Outage): Disturbance | undefined =>
  history.disturbances.find(
    (one) => one.kind === 'power-loss' && one.host === host && isAbout(one, { after: from, by: from }),
  );

const isAbout = ({ at }: Disturbance, { after, by }: Between): boolean => by >= at - LATE_MS && after <= at + TAKES_MS;

function endedProcesses(view: View): RamLoss[] {
  return view.lives.flatMap((life) => {
    const disturbance = view.history.disturbances.find((candidate) => strikes(candidate, life));
    return life.ended && disturbance ? [{ host: life.host, disturbance, ...life.ended }] : [];
  });
}

/** Save files that nobody had synced yet: their process had ended well, and there was an instant in which all was in a cache. */
function unsyncedSaves(view: View): RamLoss[] {
  return view.things.flatMap(({ host, path, complete, gone }) => {
    const move = /^moves\/([^/]+)\/snapshot$/.exec(path)?.[1];
    if (move === undefined || !complete || !gone) return [];
    const disturbance = tookUnsynced(view.history, host, gone);
    const synced = view.records.some(({ host: where, content }) => {
      const { moveId, saved } = (content ?? {}) as { moveId?: string; saved?: unknown };
      return where === host && moveId === move && saved !== null && saved !== undefined;
    });
    return disturbance && !synced ? [{ host, disturbance, ...gone }] : [];
  });
}
