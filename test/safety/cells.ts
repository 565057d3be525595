/** Every case of the sweep, in an order that is the same in every run. */
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
