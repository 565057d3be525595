/** The cases of the sweep, in an order that is the same in every run: all of them, a shard of them, a chosen part. */
import type { Role } from './expectation.ts';
import { FAULTS } from './faults.ts';
import { POINTS } from './points.ts';
import type { Cell } from './wave.ts';

/** Every fault at every point; a fault of one host for it as source and as destination. */
export function allCells(): Cell[] {
  return FAULTS.flatMap((fault) =>
    (fault.on === 'host' ? (['source', 'destination'] as const) : (['shared'] as const)).flatMap((role) =>
      POINTS.map((point) => ({ fault, role, point })),
    ),
  );
}

/** Part `part` of `parts`, counted from 1; every part has some of every fault. */
export function shard(cells: readonly Cell[], part: number, parts: number): Cell[] {
  return cells.filter((_, index) => index % parts === part - 1);
}

/** What dies most often, and what is the hardest to bear. */
const CHOSEN = [
  'host worker killed',
  'zombie attempt',
  'libvirtd killed',
  'host rebooted',
  'control worker killed',
  'Temporal killed',
];
/** Each fault strikes another part of the points. */
const TURNS = 8;
/** Enough for every wave of the chosen part. */
export const CHOSEN_GUESTS = 8;

/** One wave of each chosen fault: a host is struck at points of its own steps, what all share at half as many of any. */
export function chosenCells(): Cell[] {
  return CHOSEN.flatMap((name, turn) => {
    const byTurns = (role: Role): Cell[] => {
      const every = role === 'shared' ? 2 * TURNS : TURNS;
      return allCells()
        .filter((cell) => cell.fault.name === name && cell.role === role)
        .filter(({ point }) => role === 'shared' || point.place === role)
        .filter((_, index) => index % every === turn % every);
    };
    const cells = (['source', 'destination', 'shared'] as const).map(byTurns);
    if (cells.every((some) => some.length === 0)) throw new Error(`there is no fault ${name}`);
    return cells.flat();
  });
}
