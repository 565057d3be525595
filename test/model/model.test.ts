/** The model of the hand-over, checked to its last state; and that each of its guards is needed. */
import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { GUARDS } from './guards.ts';
import { check, MODEL, tlcMissing, type Verdict } from './tlc.ts';

const SECONDS = 1000;
/** Each takes less than half a minute on two cores that have nothing else to do; this is for machines that have. */
const TIMEOUT = 600 * SECONDS;

const skip = await tlcMissing();
if (skip) console.log(`The model is not checked: ${skip}`);

const told = ({ states, seconds }: Verdict): string =>
  `${states.toLocaleString('en')} distinct states in ${seconds.toFixed(0)} s`;

describe('with all guards nothing goes wrong', { skip }, () => {
  for (const config of ['TwoHosts', 'ThreeHosts', 'Fence', 'Recovery']) {
    test(config, async (context) => {
      const verdict = await check({ config, workers: 2, timeout: TIMEOUT });
      assert.equal(verdict.violated, null, verdict.output);
      context.diagnostic(told(verdict));
    });
  }
});

describe('without any one guard it does', { skip, concurrency: 2 }, () => {
  for (const [without, [config, invariant]] of Object.entries(GUARDS)) {
    test(`${without}: ${invariant}`, async (context) => {
      const verdict = await check({ config, without, workers: 1, timeout: TIMEOUT });
      assert.equal(verdict.violated, invariant, verdict.output.slice(-4000));
      context.diagnostic(told(verdict));
    });
  }
});

test('every guard is tried, and told of', async () => {
  const module = await readFile(join(MODEL, 'Handover.tla'), 'utf8');
  const list = module.match(/^AllGuards == \{(.*?)\}/ms)?.[1] ?? '';
  const guards = [...list.matchAll(/"([a-z-]+)"/g)].map(([, name = '']) => name);
  assert.ok(guards.length > 30, 'the list was found');
  assert.deepEqual(Object.keys(GUARDS).sort(), guards.sort());
  const readme = await readFile(join(MODEL, 'README.md'), 'utf8');
  for (const guard of guards) {
    assert.ok(readme.includes(`| \`${guard}\` |`), `${guard} has no row in the table of docs/safety/README.md`);
    const condition = new RegExp(`(Guard|Stands)\\("${guard}"`);
    assert.match(module, condition, `nothing depends on ${guard}`);
  }
});
