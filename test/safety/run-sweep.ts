/**
 * The whole sweep: every fault at every point of a move. Takes hours, says where it is, and goes on where it was when it is
 * run again; cases that did not end as they must are tried again.
 *
 *   npm run test:safety -- [--shard I/N] [--only TEXT]… [--anew]
 *
 * `--only` takes the cases whose fault, role or point contain the text. Results go to docs/safety/results.jsonl, and the
 * table in docs/safety.md is made from them.
 */
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { allCells, shard } from './cells.ts';
import { Results } from './results.ts';
import { Sweep } from './sweep.ts';
import { updatePage } from './table.ts';
import type { Cell } from './wave.ts';

const REPOSITORY = new URL('../..', import.meta.url).pathname;
const RESULTS = join(REPOSITORY, 'docs/safety/results.jsonl');
const PAGE = join(REPOSITORY, 'docs/safety.md');

const { values } = parseArgs({
  options: {
    shard: { type: 'string', default: '1/1' },
    only: { type: 'string', multiple: true, default: [] },
    anew: { type: 'boolean', default: false },
  },
});
const [part = NaN, parts = NaN] = values.shard.split('/').map(Number);
if (!(part >= 1 && part <= parts && Number.isInteger(part) && Number.isInteger(parts))) {
  console.error(`test:safety: --shard takes I/N with I from 1 to N, not ${values.shard}`);
  process.exit(2);
}
if (values.anew) await rm(RESULTS, { force: true });
const results = Results.open(RESULTS);
const mine = shard(allCells(), part, parts).filter(({ fault, role, point }) =>
  values.only.every((text) => `${fault.name} ${role} ${point.name}`.includes(text)),
);
const left = mine.filter((cell) => !results.passed(cell));
const begun = performance.now();
const log = (line: string): void => console.log(`${clock(performance.now() - begun)} ${line}`);
log(`${mine.length} cases, ${left.length} of them to be run`);

try {
  if (left.length > 0) await run(left);
} finally {
  // Also with what an interrupted run has left.
  await updatePage(PAGE, results.all());
}
const failed = mine.filter((cell) => !results.passed(cell)).length;
console.log(`\n${mine.length - failed} passed, ${failed} failed, 0 skipped`);
process.exitCode = failed > 0 ? 1 : 0;

async function run(cells: Cell[]): Promise<void> {
  const sweep = await Sweep.up(log);
  let done = 0;
  try {
    await sweep.run(cells, async (outcome) => {
      await results.add(outcome);
      done += 1;
    });
    log(`${done} cases run`);
  } finally {
    await sweep.down();
  }
}

function clock(milliseconds: number): string {
  return new Date(milliseconds).toISOString().slice(11, 19);
}
