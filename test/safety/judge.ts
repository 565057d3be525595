/** `node test/safety/judge.ts HISTORY.json [INSTANCE…]`: the verdict on a recorded history. Exit code 1 if it is violated. */
import { readFileSync } from 'node:fs';
import { judge } from './checker.ts';
import type { History } from './history.ts';
import { describeVerdict } from './verdict.ts';

const [path, ...instances] = process.argv.slice(2);
if (path === undefined) {
  console.error('judge: give the file of a history, and instances if not all are to be judged');
  process.exit(2);
}
const history = JSON.parse(readFileSync(path, 'utf8')) as History;
if (history.version !== 1) {
  console.error(`judge: ${path} is no history of version 1`);
  process.exit(2);
}
const violations = judge(history, instances.length > 0 ? { instances } : {});
console.log(describeVerdict(history, violations));
process.exitCode = violations.length > 0 ? 1 : 0;
