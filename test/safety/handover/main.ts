/**
 * Tries schedules of hand-overs until the time is over or one fails.
 *
 *   node test/safety/handover/main.ts [--known] [--hosts 2|3] [--seed N] [--runs N] [--seconds N]
 *   node test/safety/handover/main.ts --replay FILE [--shorten]
 *
 * `--known` takes the schedules with a name first. Without a seed one is taken by chance. A failing schedule is printed as JSON, which `--replay` takes, with the story of
 * what happened; `--shorten` leaves out whatever it fails without. Exit code 1: something that must never happen did.
 * 2: it was called wrongly.
 */
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { runThreadsInline } from '../../support/inline-threads.ts';
import { carryOut, type Schedule } from './campaign.ts';
import { KNOWN } from './known.ts';
import { search, shorten, tell } from './search.ts';
import { closeRig, makeRig } from './world.ts';

const { values } = parseArgs({
  options: {
    known: { type: 'boolean', default: false },
    hosts: { type: 'string', default: '3' },
    seed: { type: 'string' },
    runs: { type: 'string' },
    seconds: { type: 'string' },
    replay: { type: 'string' },
    shorten: { type: 'boolean', default: false },
  },
});

runThreadsInline();
const directory = await mkdtemp(join(tmpdir(), 'vmferry-handover-'));
const rig = await makeRig(directory, ['alpha', 'beta', 'gamma']);
try {
  process.exitCode = values.replay === undefined ? await look() : await replay(values.replay);
} finally {
  await closeRig(rig);
  await rm(directory, { recursive: true });
}

/** Exit code of a search. */
async function look(): Promise<number> {
  const seed = Number(values.seed ?? process.env['VMFERRY_SEED'] ?? Date.now() % 1_000_000);
  const hosts = values.hosts === '2' ? 2 : 3;
  const runs = Number(values.runs ?? Infinity);
  const seconds = Number(values.seconds ?? (runs === Infinity ? 40 : Infinity));
  if (values.known) {
    for (const [name, schedule] of Object.entries(KNOWN)) {
      const failure = await carryOut(rig, schedule, new Map());
      console.log(`${failure ? 'FAILED' : 'passed'} ${name}`);
      if (!failure) continue;
      console.log(tell({ schedule, failure }));
      return 1;
    }
  }
  const { summary, coverage, failed } = await search(rig, { seed, hosts, runs, seconds });
  console.log(`${failed ? 'FAILED' : 'passed'} ${summary}`);
  for (const [key, count] of [...coverage].sort()) console.log(`  ${String(count).padStart(6)}  ${key}`);
  if (failed) console.log(tell(failed));
  return failed ? 1 : 0;
}

async function replay(path: string): Promise<number> {
  const schedule = JSON.parse(await readFile(path, 'utf8')) as Schedule;
  const failure = await carryOut(rig, schedule, new Map());
  const failed =
    failure && values.shorten ? await shorten(rig, { schedule, failure }) : failure && { schedule, failure };
  console.log(failed ? tell(failed) : 'nothing went wrong');
  return failed ? 1 : 0;
}
