/**
 * What the campaign did to the pool excuses that an instance lost its RAM, if it lay nowhere else: then, and only then, its
 * guest may boot anew. A power loss never excuses two copies, and not the loss of a state that was on a disk.
 */
import type { Disturbance, QemuLife, Time } from '../history.ts';
import { stateCopies } from './copies.ts';
import { once, type View } from './view.ts';

/** A campaign says what it is about to do; the process must end within this time. */
const TAKES_MS = 30_000;
/** The campaign may also say it in the same breath. */
const LATE_MS = 1_000;

export interface RamLoss {
  life: QemuLife;
  disturbance: Disturbance;
  /** The process was there before the one, and was gone at the other. */
  after: Time;
  by: Time;
}

export const ramLosses = once((view: View): RamLoss[] => {
  const losses: RamLoss[] = [];
  const runs = view.runs.map(({ run }) => run.first);
  for (const life of view.lives) {
    const { ended } = life;
    if (!ended) continue;
    const disturbance = view.history.disturbances.find((candidate) => strikes(candidate, life));
    if (!disturbance) continue;
    const next = runs.find((first) => first > ended.by) ?? Infinity;
    // What turned out to be whole was so by then: nobody can have completed it without the process.
    const elsewhere = stateCopies(view).some(({ certain: [from, to] }) => from <= next && to >= ended.by);
    if (!elsewhere) losses.push({ life, disturbance, ...ended });
  }
  return losses.sort((a, b) => a.by - b.by);
});

/** May this be why the process ended? */
export function strikes({ kind, host, ids, at }: Disturbance, life: QemuLife): boolean {
  const { host: where, instance, began, ended } = life;
  if ((kind !== 'power-loss' && kind !== 'qemu-killed') || host !== where || !ended) return false;
  if (ids !== null && !ids.includes(instance)) return false;
  return began.after <= at && ended.by >= at - LATE_MS && ended.after <= at + TAKES_MS;
}
