/**
 * Runs the whole test suite, group by group, and ends with one line of counts. `node test/run.ts [GROUP…]` runs some.
 */
import { existsSync, globSync } from 'node:fs';
import { chmod, mkdtemp } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { run } from 'node:test';
import { spec as Spec } from 'node:test/reporters';
import { inspect } from 'node:util';
import { removeLeftovers } from './leftovers.ts';

/** `first`: what takes longest, so that no core is idle at the end while it runs alone. */
const GROUPS = {
  unit: { files: 'test/unit/**/*.test.ts', first: ['handover'], concurrency: 2, minutes: 3 },
  workflows: { files: 'test/workflows/**/*.test.ts', first: ['hand-over', 'migrate'], concurrency: 2, minutes: 5 },
  // TLC takes both cores by itself.
  model: { files: 'test/model/**/*.test.ts', first: [], concurrency: 1, minutes: 20 },
  integration: {
    files: 'test/integration/**/*.test.ts',
    first: ['testbed-faults', 'testbed-disk'],
    concurrency: 2,
    minutes: 10,
  },
  // Two testbeds keep two cores busy; three took as long.
  e2e: {
    files: 'test/e2e/**/*.test.ts',
    first: ['known-failures', 'called-off', 'observer', 'worker', 'reconcile'],
    concurrency: 2,
    minutes: 20,
  },
  // Many guests at once fill both cores.
  safety: { files: 'test/safety/*.test.ts', first: [], concurrency: 1, minutes: 20 },
} as const;
type Group = keyof typeof GROUPS;
/** In CI each of these must have run: a skipped one proves nothing. */
const NEVER_SKIPPED: readonly Group[] = ['model', 'e2e', 'safety'];

process.chdir(new URL('..', import.meta.url).pathname);
const wanted = process.argv.slice(2);
const unknown = wanted.find((name) => !Object.hasOwn(GROUPS, name));
if (unknown !== undefined) {
  console.error(`test: there is no group ${unknown}; groups are ${Object.keys(GROUPS).join(', ')}`);
  process.exit(2);
}
const groups = (wanted.length > 0 ? wanted : Object.keys(GROUPS)) as Group[];

if (!existsSync('node_modules')) throw new Error('run `npm test`, which sets everything up');
const folder = await mkdtemp(join(tmpdir(), 'vmferry-test-'));
// As /tmp itself: PostgreSQL runs as a user of its own.
await chmod(folder, 0o1777);
process.env['TMPDIR'] = folder;
const interruption = new AbortController();
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
  process.on(signal, () => {
    if (!interruption.signal.aborted) console.log(`\n${signal}: removing what the tests have made`);
    interruption.abort();
  });
}

const total = { passed: 0, failed: 0, skipped: 0 };
/** Told once more at the end, where they are found: the groups that follow have much to say. */
const failures: string[] = [];
for (const group of groups) {
  if (interruption.signal.aborted) break;
  const { files: pattern, first, concurrency, minutes } = GROUPS[group];
  const files = inOrder(globSync(pattern), first);
  console.log(`\n── ${group}: ${files.length} files`);
  const begun = performance.now();
  const counts = await runFiles(files, concurrency, minutes);
  if (NEVER_SKIPPED.includes(group) && process.env['CI'] === 'true' && counts.skipped > 0) {
    console.log(`✖ ${counts.skipped} tests of ${group} were skipped, which CI does not accept`);
    counts.failed += counts.skipped;
    counts.skipped = 0;
  }
  const seconds = Math.round((performance.now() - begun) / 1000);
  console.log(`── ${group}: ${counts.passed} passed, ${counts.failed} failed, in ${seconds} s`);
  for (const key of ['passed', 'failed', 'skipped'] as const) total[key] += counts[key];
}
if (process.env['VMFERRY_KEEP'] === undefined) await removeLeftovers(folder);
for (const failure of failures) console.log(`\n${failure}`);
if (interruption.signal.aborted) process.exit(130);
console.log(`\n${total.passed} passed, ${total.failed} failed, ${total.skipped} skipped`);
process.exitCode = total.failed > 0 || total.passed === 0 ? 1 : 0;

function inOrder(files: string[], first: readonly string[]): string[] {
  const rank = (file: string): number => {
    const index = first.indexOf(basename(file, '.test.ts'));
    return index < 0 ? first.length : index;
  };
  return files.sort().sort((a, b) => rank(a) - rank(b));
}

function runFiles(files: string[], concurrency: number, minutes: number): Promise<typeof total> {
  const counts = { passed: 0, failed: 0, skipped: 0 };
  if (files.length === 0) return Promise.resolve(counts);
  return new Promise((resolve, reject) => {
    const stream = run({ files, concurrency, timeout: minutes * 60_000, signal: interruption.signal });
    stream.on('test:pass', ({ skip, details }) => {
      if (details.type === 'suite') return;
      counts[skip === undefined || skip === false ? 'passed' : 'skipped'] += 1;
    });
    stream.on('test:fail', ({ name, file, details: { type, error } }) => {
      if (type === 'suite') return;
      counts.failed += 1;
      failures.push(`✖ ${name}\n  ${file ?? 'no file'}\n${shortened(inspect(error.cause ?? error))}`);
    });
    stream.on('error', reject);
    stream.on('end', () => resolve(counts));
    stream.pipe(new Spec()).pipe(process.stdout, { end: false });
  });
}

/** What it is about stands at the beginning of a message, what is to be done with it at the end. */
function shortened(text: string): string {
  const ends = 4000;
  return text.length <= 2 * ends ? text : `${text.slice(0, ends)}\n…\n${text.slice(-ends)}`;
}
