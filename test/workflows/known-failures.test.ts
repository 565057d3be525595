/** Failures that other movers of VMs are known for (docs/known-failures.md), as far as the workflow decides about them. */
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { returnUpdate } from '../../workflows/contract.ts';
import type { Call, Scenario } from '../fakes/scenario.ts';
import { temporalMissing } from '../support/temporal.ts';
import { Harness } from './harness.ts';

const skip = await temporalMissing();
let harness: Harness;
before(async () => {
  if (skip === false) harness = await Harness.start(['alpha', 'beta']);
});
after(async () => {
  if (skip === false) await harness.stop();
});

/** Every step up to the release. */
const BEFORE_RELEASE: Call[] = [
  ...(['alpha.preflightSource', 'beta.preflightDestination', 'control.reserveMove', 'beta.reserve'] as const),
  ...(['alpha.saveInstance', 'alpha.rebaseOverlay', 'alpha.buildPackage', 'alpha.encryptPackage'] as const),
  ...(['beta.transferPackage', 'beta.openPackage', 'beta.rewriteXml', 'beta.restoreInstance'] as const),
  'alpha.releaseInstance',
];

function runsOn(scenario: Scenario, host: string): void {
  assert.deepEqual(scenario.violations, []);
  assert.equal(scenario.runningOn, host);
  assert.equal(scenario.recorded.host, host);
  assert.equal(scenario.openMove, null);
}

describe('known failures', { skip, concurrency: 4 }, () => {
  test('f2: f5: whichever step fails for good, the move ends and the guest runs where it was', async () => {
    const ended = BEFORE_RELEASE.map(async (call) => {
      const scenario = harness.pool.scenario().fail(call, 'DomainXmlRefused');
      const move = await harness.move(scenario);
      const [outcome = ''] = await move.failure();
      assert.match(outcome, new RegExp(`^(DomainXmlRefused|MoveReturned): .*${call}`));
      runsOn(scenario, 'alpha');
      assert.ok(['failed', 'returned'].includes((await move.progress()).phase), call);
    });
    await Promise.all(ended);
  });

  test('f6: a source that is to release and is absent is waited for, and nobody runs the guest meanwhile', async () => {
    await harness.startHost('silent');
    const scenario = harness.pool.scenario({ source: 'silent' });
    const held = scenario.hold('beta.restoreInstance');
    const move = await harness.move(scenario, { retryWindowSeconds: 1 });
    await held.entered;
    await harness.stopHost('silent');
    held.goOn();
    await move.until(({ waitingFor }) => waitingFor === 'silent');
    await sleep(5000); // five times the retry window
    assert.equal((await move.progress()).step, 'releaseInstance');
    assert.equal(scenario.runningOn, null);
    assert.deepEqual([...scenario.pausedOn], ['beta']);
    assert.equal(scenario.count('beta.resumeInstance'), 0);
    await harness.startHost('silent');
    await move.result();
    runsOn(scenario, 'beta');
    await harness.stopHost('silent');
  });

  test('f12: a parked move keeps no other from the same two hosts, and its own guest is free afterwards', async () => {
    const stuck = harness.pool.scenario().fail('beta.openPackage', 'SegmentMisplaced', { times: 1 });
    const parked = await harness.move(stuck, { onFailure: 'park' });
    await parked.until('parked');
    const others = [harness.pool.scenario(), harness.pool.scenario()];
    for (const other of await Promise.all(others.map((scenario) => harness.move(scenario)))) await other.result();
    for (const other of others) runsOn(other, 'beta');
    await parked.handle.executeUpdate(returnUpdate);
    await parked.failure();
    runsOn(stuck, 'alpha');
    const again = await harness.move(stuck);
    await again.result();
    runsOn(stuck, 'beta');
  });
});

test('all of this would have gone the same way after a crash of the control worker', { skip }, async () => {
  assert.deepEqual(await harness.replayAll(), []);
});
