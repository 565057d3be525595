/**
 * Invariant 2: at every instant the owner holds the instance in a QEMU process, or a complete save file with its disk, or
 * there is a sealed package of its newest state. Where a disturbance took its RAM, its disk must be left.
 */
import type { Time, Violation } from '../history.ts';
import { disksOn, stateCopies } from './copies.ts';
import { ramLosses } from './excuses.ts';
import { intersection, possiblyOwned, uncovered, when, type Interval, type View } from './view.ts';

/** Less is the error of the clocks. */
const INSTANT_MS = 1;

export function runnableCopy(view: View): Violation[] {
  const { history, instance, lives, tenures } = view;
  const ended = tenures.find(({ decision }) => decision === 'end')?.until?.after ?? Infinity;
  const span: Interval = [instance.from, Math.min(history.to, ended)];

  const held: Interval[] = lives.flatMap(({ host, began, ended: end }) =>
    intersection([[began.after, end?.by ?? Infinity]], possiblyOwned(view, host)),
  );
  const copies = [...held, ...stateCopies(view).flatMap(({ possible }) => possible), ...bootable(view)];
  return uncovered(span, copies)
    .filter(([from, to]) => to - from > INSTANT_MS)
    .map(([from, to]) => ({
      invariant: 2,
      instance: instance.id,
      hosts: [...new Set(lives.filter((life) => (life.ended?.by ?? 0) <= from).map(({ host }) => host))].slice(-1),
      at: from,
      text:
        `for ${to >= history.to ? 'good' : `${Math.ceil(to - from)} ms`} from ${when(history, from)} there was nothing ` +
        `from which ${instance.name} could go on: ${lastLost(view, from)}`,
    }));
}

/** From the loss of the RAM until the guest runs again. */
function bootable(view: View): Interval[] {
  return ramLosses(view).flatMap(({ host, after, by }) => {
    const runs = view.runs.map(({ run }) => run.first);
    const next: Time = runs.find((first) => first > by) ?? Infinity;
    return intersection(intersection([[after, next]], disksOn(view, host)), possiblyOwned(view, host));
  });
}

function lastLost(view: View, at: Time): string {
  const life = view.lives.filter(({ ended }) => ended && ended.by <= at + INSTANT_MS).at(-1);
  const end = life
    ? `its process on ${life.host} had ended at ${when(view.history, life.ended?.by ?? 0)}`
    : 'no process';
  const copies = stateCopies(view).map(({ what }) => what);
  return `${end}; ${copies.length > 0 ? `of no use any more: ${copies.join(', ')}` : 'its state was saved nowhere'}`;
}
