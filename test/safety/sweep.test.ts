/** The part of the sweep that every test run has: the faults that come most often, and those that are the hardest to bear. */
import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { cannotRun } from '../support/pool.ts';
import { CHOSEN_GUESTS, chosenCells } from './cells.ts';
import { Sweep } from './sweep.ts';

describe('moves that are struck', { skip: cannotRun }, () => {
  let sweep: Sweep;
  before(async () => {
    sweep = await Sweep.up(console.log, CHOSEN_GUESTS);
  });
  after(() => sweep.down());

  const cells = chosenCells();
  for (const fault of new Set(cells.map((cell) => cell.fault))) {
    const mine = cells.filter((cell) => cell.fault === fault);
    it(`${fault.name}: ${mine.length} moves end as they must, and break none of the promises`, async () => {
      let ended = 0;
      const problems: string[] = [];
      await sweep.run(mine, ({ cell, problems: found }) => {
        ended += 1;
        problems.push(...found.map((text) => `${cell.role}, ${cell.point.name}: ${text}`));
      });
      assert.deepEqual(problems, []);
      assert.equal(ended, mine.length);
    });
  }

  it('f2: leave no move that has not come to an end', async () => {
    assert.deepEqual(await sweep.openMoves(), []);
  });
});
