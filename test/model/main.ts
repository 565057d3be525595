/**
 * Checks one configuration of the model by hand: `node test/model/main.ts CONFIG [GUARD]`, for instance
 * `node test/model/main.ts TwoHosts suspend-first` to see what happens without that guard.
 */
import { check, tlcMissing } from './tlc.ts';

const [config, without] = process.argv.slice(2);
const missing = await tlcMissing();
if (config === undefined || missing) {
  console.error(missing || 'model: name a configuration of docs/safety, without `.cfg`');
  process.exit(2);
}
const verdict = await check({ config, ...(without !== undefined && { without }), workers: 2, timeout: 24 * 3_600_000 });
console.log(verdict.output);
process.exitCode = verdict.violated === null ? 0 : 1;
