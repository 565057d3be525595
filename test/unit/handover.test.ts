/**
 * The hand-over by schedules, over the real records and activities: those that have a name, and as many as chance makes in
 * the time. The seed is printed. `VMFERRY_SEED=N` takes the same again; `node test/safety/handover/main.ts --seed N` takes
 * them for as long as it is told to.
 */
import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { carryOut } from '../safety/handover/campaign.ts';
import { KNOWN } from '../safety/handover/known.ts';
import { search, tell } from '../safety/handover/search.ts';
import { closeRig, makeRig, type Rig } from '../safety/handover/world.ts';
import { runThreadsInline } from '../support/inline-threads.ts';

const SECONDS = 20;
/** A slow machine goes on until it has seen these. */
const SEEN = ['resumeInstance answered', 'returnInstance answered', 'releaseInstance died'];

runThreadsInline();
const directory = await mkdtemp(join(tmpdir(), 'vmferry-handover-'));
const rig: Rig = await makeRig(directory, ['alpha', 'beta', 'gamma']);
try {
  for (const [name, schedule] of Object.entries(KNOWN)) {
    await test(name, async () => {
      const failure = await carryOut(rig, schedule, new Map());
      if (failure) assert.fail(tell({ schedule, failure }));
    });
  }

  await test('nothing that must never happen happens by chance', async (t) => {
    const seed = Number(process.env['VMFERRY_SEED'] ?? Date.now() % 1_000_000);
    const { summary, coverage, failed } = await search(rig, {
      ...{ seed, hosts: 3, runs: Infinity, seconds: SECONDS },
      ...{ until: SEEN, atMostSeconds: 9 * SECONDS },
    });
    t.diagnostic(summary);
    if (failed) assert.fail(`${summary}\n${tell(failed)}`);
    for (const seen of SEEN) assert.ok(coverage.has(seen), `${summary}: no ${seen}`);
  });
} finally {
  await closeRig(rig);
  await rm(directory, { recursive: true });
}
