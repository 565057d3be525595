/** What the logs of a testbed say last about trouble: it is gone with the testbed. */
import { existsSync, readFileSync } from 'node:fs';
import type { Testbed } from '../testbed/testbed.ts';

const LINES = 3;
const WIDTH = 300;

/** A few lines of each log that has any; empty if none has. */
export function lastWords(testbed: Testbed): string {
  return testbed
    .status()
    .flatMap(({ where, what, log }) => {
      if (log === null || !existsSync(log)) return [];
      const lines = readFileSync(log, 'utf8').split('\n');
      const troubled = lines.filter((line) => /error|fatal|fail/i.test(line)).slice(-LINES);
      return troubled.length === 0 ? [] : [`${where} ${what}:`, ...troubled.map((line) => `  ${line.slice(0, WIDTH)}`)];
    })
    .join('\n');
}
