/** What the operator may decide about a move that does not go on, as commands with what each of them means. */
import type { MoveProgress, ParkChoice } from '../workflows/contract.ts';
import { shortMove } from './format.ts';

export interface Choice {
  command: string;
  meaning: string;
}

/** The commands for a parked move, in the order in which the move offers them. */
export function choicesOf(progress: Pick<MoveProgress, 'moveId' | 'source' | 'parked'>): Choice[] {
  const { moveId, source, parked } = progress;
  if (parked === undefined) return [];
  const { choices, released } = parked;
  const meanings: Record<ParkChoice, string> = {
    retry: 'try again at once',
    return: source === '' ? 'run again at its source' : `run again on ${source}`,
    readdress: released
      ? 'go on on another host, by a fence that the pool key signs; asks first'
      : 'go to another host',
    abandon: source === '' ? 'stay down, saved at its source' : `stay down, saved on ${source}`,
  };
  return choices.map((choice) => ({
    command: `vmferry moves ${choice} ${shortMove(moveId)}${choice === 'readdress' ? ' HOST' : ''}`,
    meaning: meanings[choice],
  }));
}

/** The commands for a move that waits for an absent host, before anything is released. */
export function choicesWhileWaiting({ moveId, source, fence }: MoveProgress): Choice[] {
  if (fence !== undefined) return [];
  return [{ command: `vmferry moves cancel ${shortMove(moveId)}`, meaning: `call it off; it runs on ${source} then` }];
}
