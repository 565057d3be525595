/**
 * Would the campaign notice? Takes the guards away, one at a time, in a copy of the project, and runs the campaign of the
 * hand-over on it, which must fail each time; and first on the copy as it is, where it must not.
 *
 *   npm run test:mutation [-- --only TEXT] [--seconds N] [--seed N] [--keep]
 *
 * `--seconds`: how long schedules are made by chance after those with a name. `--keep` leaves docs/safety.md as it is; a run of
 * some alone does so anyway. Exit code 1: a guard was not missed, a mutation is stale, or the campaign failed without one.
 */
import { cp, mkdir, mkdtemp, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { parseArgs } from 'node:util';
import { execa } from 'execa';
import { writeDurable } from '../../../activities/records/durable.ts';
import { MUTATIONS, type Edit } from './mutations.ts';

const ROOT = join(import.meta.dirname, '../../..');
const PAGE = join(ROOT, 'docs/safety.md');
const BEGIN = '<!-- made by `npm run test:mutation`: begin -->';
const END = '<!-- made by `npm run test:mutation`: end -->';
/** Longer than any campaign takes that comes to an end at all. */
const PATIENCE_MS = 20 * 60_000;

const { values } = parseArgs({
  options: {
    only: { type: 'string', default: '' },
    seconds: { type: 'string', default: '60' },
    seed: { type: 'string', default: '1' },
    keep: { type: 'boolean', default: false },
  },
});

interface Caught {
  /** Name of the schedule, or the seed. */
  by: string;
  violation: string;
}

/** A process that was killed cannot remove it: it is where the system clears up. */
const copy = await mkdtemp(join(tmpdir(), 'vmferry-mutation-'));
try {
  await copyProject(copy);
  process.exitCode = await campaigns();
} finally {
  await rm(copy, { recursive: true });
}

async function campaigns(): Promise<number> {
  const control = await campaign(copy);
  if (control.caught) {
    console.error(`The campaign fails as things are, by “${control.caught.by}”: ${control.caught.violation}`);
    return 1;
  }
  console.log(`nothing taken away: passed in ${control.seconds} s`);
  const rows: string[] = [`| nothing | passed | | ${control.seconds} |`];
  const chosen = MUTATIONS.filter(({ guard }) => guard.includes(values.only));
  const unnoticed: string[] = [];
  for (const { guard, edits } of chosen) {
    const undo = await mutate(copy, guard, edits);
    const { caught, seconds } = await campaign(copy);
    await undo();
    console.log(`${guard}: ${caught ? `caught by “${caught.by}”: ${caught.violation}` : 'NOT NOTICED'} (${seconds} s)`);
    if (!caught) unnoticed.push(guard);
    rows.push(
      `| ${guard} | ${caught ? `“${caught.by}”` : '**not noticed**'} | ${caught?.violation ?? ''} | ${seconds} |`,
    );
  }
  const table = ['| Taken away | Caught by | It said | s |', '|---|---|---|---|', ...rows].join('\n');
  console.log(`\n${table}\n\n${chosen.length - unnoticed.length} of ${chosen.length} were noticed`);
  if (values.only === '' && !values.keep) await updatePage(table);
  return unnoticed.length > 0 ? 1 : 0;
}

/** All that is the project's own; what is installed is shared, for nothing of it is changed. */
async function copyProject(target: string): Promise<void> {
  const { stdout } = await execa('git', ['ls-files', '-z', '--cached', '--others', '--exclude-standard'], {
    cwd: ROOT,
  });
  for (const file of stdout.split('\0').filter((name) => /\.(ts|json|xml)$/.test(name))) {
    await mkdir(dirname(join(target, file)), { recursive: true });
    await cp(join(ROOT, file), join(target, file));
  }
  await symlink(join(ROOT, 'node_modules'), join(target, 'node_modules'));
}

/**
 * @returns puts back what was there
 * @throws if the mutation is stale
 */
async function mutate(project: string, guard: string, edits: readonly Edit[]): Promise<() => Promise<void>> {
  const before = new Map<string, string>();
  for (const { file, from, to } of edits) {
    const text = await readFile(join(project, file), 'utf8');
    if (!before.has(file)) before.set(file, text);
    const found = text.split(from).length - 1;
    if (found !== 1) throw new Error(`The mutation “${guard}” is stale: ${file} has ${found} times\n${from}`);
    await writeFile(
      join(project, file),
      text.replace(from, () => to),
    );
  }
  return async () => {
    for (const [file, text] of before) await writeFile(join(project, file), text);
  };
}

/** @throws if the campaign comes to no verdict: code that does not run proves nothing */
async function campaign(project: string): Promise<{ caught: Caught | null; seconds: number }> {
  const begun = performance.now();
  const arguments_ = ['test/safety/handover/main.ts', '--known', '--seconds', values.seconds, '--seed', values.seed];
  const { exitCode, stdout, stderr } = await execa(process.execPath, arguments_, {
    ...{ cwd: project, reject: false, timeout: PATIENCE_MS },
  });
  const seconds = Math.round((performance.now() - begun) / 1000);
  if (exitCode === 0) return { caught: null, seconds };
  const by = /^FAILED (.*)$/m.exec(stdout)?.[1];
  const violation = /^VIOLATION (.*)$/m.exec(stdout)?.[1];
  if (exitCode === 1 && by !== undefined && violation !== undefined) {
    return { caught: { by, violation: readable(violation, project) }, seconds };
  }
  throw new Error(
    `The campaign came to no verdict (${exitCode ?? 'killed'}):\n${stdout.slice(-2000)}\n${stderr.slice(-2000)}`,
  );
}

/** For a table that is the same from run to run, and of this machine nothing. */
function readable(violation: string, project: string): string {
  return violation
    .replaceAll(project, '…')
    .replaceAll(/\/\S+\/vmferry-handover-\w+/g, '…')
    .replaceAll(/[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}/g, '…')
    .replaceAll('|', '\\|');
}

async function updatePage(table: string): Promise<void> {
  const page = await readFile(PAGE, 'utf8');
  const [begin, end] = [page.indexOf(BEGIN), page.indexOf(END)];
  if (begin < 0 || end < begin) throw new Error(`${PAGE} has no place for the table`);
  await writeDurable(PAGE, `${page.slice(0, begin + BEGIN.length)}\n\n${table}\n\n${page.slice(end)}`);
}
