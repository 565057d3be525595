/**
 * Moves and faults at random, for as long as is asked:
 *
 *   npm run chaos -- [--seed S] [--minutes M] [--hosts H] [--guests G]
 *
 * Prints the seed first and the verdict last; the same seed does the same things again. If something is wrong, the history
 * is kept for `judge.ts`.
 */
import { randomInt } from 'node:crypto';
import { parseArgs } from 'node:util';
import { chaos } from './chaos.ts';
import { keepHistory } from './evidence.ts';

const { values } = parseArgs({
  options: {
    seed: { type: 'string', default: String(randomInt(1_000_000)) },
    minutes: { type: 'string', default: '10' },
    hosts: { type: 'string', default: '3' },
    guests: { type: 'string', default: '6' },
  },
});
const options = {
  seed: Number(values.seed),
  minutes: Number(values.minutes),
  hosts: Number(values.hosts),
  guests: Number(values.guests),
};
const wrong = Object.entries(options).find(([, value]) => !(value >= 0));
if (wrong) {
  console.error(`chaos: --${wrong[0]} takes a number`);
  process.exit(2);
}
console.log(
  `chaos: --seed ${options.seed} --minutes ${options.minutes} --hosts ${options.hosts} --guests ${options.guests}`,
);
const begun = performance.now();
const { history, ...report } = await chaos({
  ...options,
  log: (line) => console.log(`${new Date(performance.now() - begun).toISOString().slice(11, 19)} ${line}`),
});
console.log(JSON.stringify(report, null, 2));
const found = report.violations.length + report.problems.length;
if (found > 0) {
  const path = await keepHistory(history, `chaos ${report.seed}`);
  console.log(`chaos: the history is in ${path}; node test/safety/judge.ts ${path}`);
}
console.log(`chaos: seed ${report.seed}: ${found === 0 ? 'no violation' : `${found} things wrong`}`);
process.exitCode = found === 0 ? 0 : 1;
