/** What becomes of a move from the release on, and what the operator may decide about it: on a real server, with pretended hosts. */
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import {
  abandonUpdate,
  cancelUpdate,
  readdressUpdate,
  retryUpdate,
  returnUpdate,
  searchAttributes,
  workflowId,
  type MoveOptions,
} from '../../workflows/contract.ts';
import type { FailureType } from '../../workflows/failures.ts';
import { fenceTo, recordOf } from '../fakes/host-activities.ts';
import type { Call, Scenario } from '../fakes/scenario.ts';
import { temporalMissing } from '../support/temporal.ts';
import {
  assertMoved,
  assertReturned,
  assertUntouched,
  BEFORE_SAVE,
  DESTINATION_STEPS,
  details,
  refusal,
  SOURCE_STEPS,
} from './assertions.ts';
import { failureOf, Harness, type Migration } from './harness.ts';

const skip = await temporalMissing();
let harness: Harness;
before(async () => {
  if (skip === false) harness = await Harness.start(['alpha', 'beta', 'gamma', 'delta']);
});
after(async () => {
  if (skip === false) await harness.stop();
});

/** As the client does it: the fence follows what the move offers. */
async function readdress(move: Migration, destination: string, fence?: string): Promise<void> {
  const after = (await move.progress()).fence?.last ?? 'nothing';
  const input = { destination, ...(fence !== undefined && { fence: { fence, after } }) };
  await move.handle.executeUpdate(readdressUpdate, { args: [input] });
}

/** What `tellFence` found at a host. */
const told = (scenario: Scenario, generation: number, host: string): Promise<unknown> =>
  harness.client.workflow.getHandle(workflowId.fence(scenario.instanceId, generation, host)).result();

describe('from the release on', { skip, concurrency: 6 }, () => {
  /** The worker of the host that was given the instance ends before it lets it run. */
  async function destinationDies(
    host: string,
    options: MoveOptions = {},
    source = 'alpha',
  ): Promise<[Scenario, Migration]> {
    await harness.startHost(host);
    const scenario = harness.pool.scenario({ source, imageHosts: [source, host, 'gamma', 'delta'] });
    const held = scenario.hold(`${source}.releaseInstance`);
    const move = await harness.move(scenario, { onFailure: 'park', ...options }, host);
    await held.entered;
    await harness.stopHost(host);
    held.goOn();
    return [scenario, move];
  }

  test('a destination that stays absent is told of, with reason, age and choices, and goes on by itself when it is back', async () => {
    const [scenario, move] = await destinationDies('dies1', { retryWindowSeconds: 2 });
    const waiting = await move.until('waiting');
    assert.equal(waiting.waitingFor, 'dies1');
    const { parked, fence } = await move.until('parked');
    assert.deepEqual(
      { ...parked, since: 0 },
      {
        failure: 'HostUnreachable',
        reason: 'The worker of host dies1 is absent',
        since: 0,
        choices: ['retry', 'readdress'],
        released: true,
      },
    );
    assert.ok((parked?.since ?? 0) > (waiting.waitingSince ?? Infinity));
    assert.equal(fence?.host, 'dies1');
    assert.equal(fence.last, `release of ${scenario.packageId} to dies1`);
    assert.equal(fence.packageId, scenario.packageId);
    assert.ok(fence.savedAt <= fence.since);
    assert.match(
      await details(move),
      /goes on by itself once the cause is gone\. Decide with `vmferry moves …`: `retry`, `readdress` \(`readdress` needs a fence/,
    );
    assert.equal((await move.handle.describe()).typedSearchAttributes.get(searchAttributes.phase), 'parked');
    const told = scenario.inputs.findLast(({ call }) => call === 'control.recordMove')?.input;
    assert.deepEqual((told as { failure: object }).failure, {
      type: 'HostUnreachable',
      message: 'The worker of host dies1 is absent',
    });

    await sleep(2000); // no time-out ends it
    assert.equal((await move.progress()).phase, 'parked');
    await harness.startHost('dies1');
    await move.result();
    assertMoved(scenario, 'dies1');
    const progress = await move.progress();
    assert.equal(progress.parked, undefined);
    assert.equal(progress.fence, undefined);
    await harness.stopHost('dies1');
  });

  for (const type of ['LibvirtFailed', 'DiskMalformed'] as FailureType[]) {
    test(`a destination that fails with ${type} is shown; retry asks it at once`, async () => {
      const scenario = harness.pool.scenario().fail('beta.resumeInstance', type);
      const move = await harness.move(scenario);
      const { parked } = await move.until('parked');
      assert.equal(parked?.failure, type);
      assert.equal(parked.reason, 'beta.resumeInstance was told to fail');
      scenario.mend('beta.resumeInstance');
      await move.handle.executeUpdate(retryUpdate);
      await move.result();
      assertMoved(scenario);
    });
  }

  test('a destination that fails goes on by itself when the cause is gone', async () => {
    const scenario = harness.pool.scenario().fail('beta.resumeInstance', 'LibvirtFailed', { times: 3 });
    const move = await harness.move(scenario);
    await move.until('parked');
    await move.result();
    assert.equal(scenario.count('beta.resumeInstance'), 4);
    assertMoved(scenario);
  });

  test('a source that fails to release is told of, and goes on by itself', async () => {
    const scenario = harness.pool.scenario().fail('alpha.releaseInstance', 'LibvirtFailed', { times: 3 });
    const move = await harness.move(scenario);
    const { parked, fence } = await move.until('parked');
    assert.equal(parked?.reason, 'alpha.releaseInstance was told to fail');
    assert.equal(fence?.host, 'alpha');
    assert.equal(fence.last, 'spawn on alpha');
    await move.result();
    assertMoved(scenario);
  });

  test('a destination that died for good is replaced by a fence, and is told when it is back', async () => {
    const [scenario, move] = await destinationDies('dies2');
    await move.until('parked');
    await readdress(move, 'gamma', fenceTo('gamma'));
    const result = await move.result();
    assert.equal(result.destination, 'gamma');
    assert.equal(result.generation, 3);
    assertMoved(scenario, 'gamma', 3);
    const release = `release of ${scenario.packageId} to dies2`;
    for (const step of ['transferPackage', 'openPackage', 'restoreInstance', 'resumeInstance'] as const) {
      const { generation, fence } = scenario.inputOf('gamma', step);
      assert.deepEqual([step, generation, fence], [step, 3, [release, fenceTo('gamma')]]);
    }
    assert.equal(scenario.inputOf('gamma', 'resumeInstance').release, undefined);
    assert.deepEqual(scenario.inputOf('alpha', 'readdressPackage').fence, [release, fenceTo('gamma')]);
    assert.equal(scenario.count('alpha.encryptPackage'), 1);
    assert.equal(scenario.count('dies2.resumeInstance'), 0);

    await harness.startHost('dies2');
    assert.deepEqual(await told(scenario, 3, 'dies2'), { found: 'a paused copy', kept: null });
    assert.equal(scenario.inputOf('dies2', 'obeyFence').final, true);
    assert.deepEqual([...scenario.pausedOn], []);
    await sleep(500);
    assert.equal(scenario.count('dies2.resumeInstance'), 0, 'the late release reaches nobody');
    assert.deepEqual(scenario.violations, []);
    await harness.stopHost('dies2');
  });

  test('the instance goes back to its source by a fence', async () => {
    const [scenario, move] = await destinationDies('dies3');
    await move.until('parked');
    await readdress(move, 'alpha', fenceTo('alpha'));
    assert.match(
      (await move.failure())[0] ?? '',
      /^MoveReturned: Instance .* runs on alpha again: dies3 died for good and was fenced/,
    );
    assert.deepEqual(scenario.violations, []);
    assert.equal(scenario.runningOn, 'alpha');
    assert.equal(scenario.closed, 'returned');
    assert.deepEqual(scenario.recorded, { host: 'alpha', state: 'running', generation: 3 });
    assert.equal(scenario.count('alpha.transferPackage'), 0);
    assert.equal(scenario.count('alpha.readdressPackage'), 0);
    assert.equal((await move.progress()).phase, 'returned');
  });

  test('a host that took the place of another and fails is replaced by the next fence', async () => {
    const [scenario, move] = await destinationDies('dies4');
    await move.until('parked');
    scenario.fail('gamma.restoreInstance', 'IncompatibleHost');
    await readdress(move, 'gamma', fenceTo('gamma'));
    const { fence } = await move.until(({ parked }) => parked?.failure === 'IncompatibleHost');
    assert.equal(fence?.host, 'gamma');
    assert.equal(fence.last, fenceTo('gamma'));
    await readdress(move, 'delta', fenceTo('delta'));
    const result = await move.result();
    assert.equal(result.generation, 4);
    assertMoved(scenario, 'delta', 4);
    const asked = scenario.inputOf('gamma', 'obeyFence');
    assert.deepEqual(asked.fence?.slice(1), [fenceTo('gamma'), fenceTo('delta')]);
    assert.deepEqual(await told(scenario, 4, 'gamma'), { found: 'nothing', kept: null });
  });

  test('a source that died for good before it answered is replaced by the destination that has its package', async () => {
    await harness.startHost('dies5');
    const scenario = harness.pool.scenario({ source: 'dies5', imageHosts: ['dies5', 'beta'] });
    const held = scenario.hold('beta.restoreInstance');
    const move = await harness.move(scenario);
    await held.entered;
    await harness.stopHost('dies5');
    held.goOn();
    const { fence } = await move.until('parked');
    assert.equal(fence?.host, 'dies5');
    await readdress(move, 'beta', fenceTo('beta'));
    const result = await move.result();
    assert.equal(result.generation, 2);
    assertMovedWithoutSource(scenario, 'beta');
    assert.deepEqual(scenario.inputOf('beta', 'resumeInstance').fence, [fenceTo('beta')]);
    assert.equal(scenario.inputOf('beta', 'openPackage').source, recordOf('dies5'));
    assert.equal(scenario.count('beta.transferPackage'), 1);
    await harness.startHost('dies5');
    await told(scenario, 2, 'dies5');
    assert.equal(scenario.count('dies5.releaseInstance'), 0);
    await harness.stopHost('dies5');
  });

  test('a source that died for good before it answered is replaced by a third host, from the destination’s package', async () => {
    await harness.startHost('dies6');
    const scenario = harness.pool.scenario({ source: 'dies6', imageHosts: ['dies6', 'beta', 'gamma'] });
    const held = scenario.hold('beta.restoreInstance');
    const move = await harness.move(scenario);
    await held.entered;
    await harness.stopHost('dies6');
    held.goOn();
    await move.until('parked');
    await readdress(move, 'gamma', fenceTo('gamma'));
    await move.result();
    assertMovedWithoutSource(scenario, 'gamma');
    assert.deepEqual(scenario.inputOf('beta', 'readdressPackage').fence, [fenceTo('gamma')]);
    assert.equal(scenario.inputOf('gamma', 'transferPackage').source, recordOf('beta'));
    assert.equal(scenario.inputOf('gamma', 'openPackage').source, recordOf('beta'));
    assert.deepEqual(await told(scenario, 2, 'beta'), { found: 'a paused copy', kept: null });
    await harness.startHost('dies6');
    await told(scenario, 2, 'dies6');
    await harness.stopHost('dies6');
  });

  function assertMovedWithoutSource(scenario: Scenario, destination: string): void {
    assert.deepEqual(scenario.violations, []);
    assert.equal(scenario.runningOn, destination);
    assert.equal(scenario.closed, 'moved');
    assert.deepEqual(scenario.recorded, { host: destination, state: 'running', generation: 2 });
    assert.equal(scenario.count(`${scenario.source}.settleMove`), 0, 'who was fenced holds up nothing');
  }

  test('a fence is not used while the host lives and says no', async () => {
    const scenario = harness.pool
      .scenario()
      .fail('beta.resumeInstance', 'LibvirtFailed')
      .fail('beta.obeyFence', 'FenceRefused');
    const move = await harness.move(scenario);
    await move.until('parked');
    assert.equal(await refusal(readdress(move, 'gamma', fenceTo('gamma'))), 'FenceRefused');
    assert.match(await details(move), /The fence of beta is not used: beta\.obeyFence was told to fail/);
    assert.equal(scenario.count('gamma.transferPackage'), 0);
    assert.equal(scenario.count('alpha.readdressPackage'), 0);
    await move.until('parked');
    scenario.mend('beta.resumeInstance');
    await move.handle.executeUpdate(retryUpdate);
    await move.result();
    assertMoved(scenario);
  });

  test('a host that fails but lives may give the instance up itself', async () => {
    const scenario = harness.pool.scenario().fail('beta.resumeInstance', 'DiskMalformed');
    const move = await harness.move(scenario);
    await move.until('parked');
    await readdress(move, 'gamma', fenceTo('gamma'));
    await move.result();
    assertMoved(scenario, 'gamma', 3);
    assert.equal(scenario.inputs.find(({ call }) => call === 'beta.obeyFence') !== undefined, true);
  });

  test('a fence is not used if the other host cannot go on', async () => {
    const [scenario, move] = await destinationDies('dies7');
    await move.until('parked');
    scenario.fail('gamma.preflightDestination', 'NoSpace');
    assert.equal(await refusal(readdress(move, 'gamma', fenceTo('gamma'))), 'NoSpace');
    await move.until('parked');
    assert.equal(await refusal(readdress(move, 'nowhere', fenceTo('nowhere'))), 'HostNotFound');
    await move.until('parked');
    assert.equal(scenario.count('dies7.obeyFence'), 0);
    await readdress(move, 'delta', fenceTo('delta'));
    await move.result();
    assertMoved(scenario, 'delta', 3);
  });

  test('whoever asks for a fence is told why not', async () => {
    const [scenario, move] = await destinationDies('dies8');
    await move.until('parked');
    assert.equal(await refusal(readdress(move, 'gamma')), 'FenceMissing');
    assert.equal(await refusal(readdress(move, 'dies8', fenceTo('dies8'))), 'SameHost');
    const stale = { destination: 'gamma', fence: { fence: fenceTo('gamma'), after: 'spawn on alpha' } };
    assert.equal(await refusal(move.handle.executeUpdate(readdressUpdate, { args: [stale] })), 'FenceConflict');
    for (const update of [returnUpdate, abandonUpdate, cancelUpdate]) {
      assert.equal(await refusal(move.handle.executeUpdate(update)), 'PointOfNoReturn');
    }
    await harness.startHost('dies8');
    await move.result();
    assertMoved(scenario, 'dies8');
    await harness.stopHost('dies8');
  });

  test('no fence of a host that is at work', async () => {
    const scenario = harness.pool.scenario();
    const held = scenario.hold('beta.resumeInstance');
    const move = await harness.move(scenario);
    await held.entered;
    assert.equal(await refusal(readdress(move, 'gamma', fenceTo('gamma'))), 'PointOfNoReturn');
    held.goOn();
    await move.result();
    assertMoved(scenario);
  });

  test('a catalog that is away does not hold up the guest', async () => {
    const [scenario, move] = await destinationDies('dies9');
    await move.until('parked');
    scenario.fail('control.redirectMove', 'InvalidInput', { times: 1 });
    await readdress(move, 'gamma', fenceTo('gamma'));
    await move.result();
    assertMoved(scenario, 'gamma', 3);
    assert.equal(scenario.count('control.redirectMove'), 2);
    assert.match(await details(move), /The catalog was not told where the move goes/);
  });
});

describe('an operator who gives a parked move up', { skip, concurrency: 6 }, () => {
  for (const call of DESTINATION_STEPS) {
    test(`${call}: the instance stays down, saved at its source`, async () => {
      const scenario = harness.pool.scenario().fail(call, 'SegmentMisplaced');
      const move = await harness.move(scenario, { onFailure: 'park' });
      await move.until('parked');
      await move.handle.executeUpdate(abandonUpdate);
      assert.match(
        (await move.failure())[0] ?? '',
        /^MoveAbandoned: Instance .* is saved on alpha as package .*: The operator abandoned it/,
      );
      assert.deepEqual(scenario.violations, []);
      assert.equal(scenario.runningOn, null);
      assert.equal(scenario.owner, 'alpha');
      assert.equal(scenario.closed, 'saved');
      assert.deepEqual(scenario.recorded, { host: 'alpha', state: 'saved', generation: 1 });
      assert.equal(scenario.count('alpha.returnInstance'), 0);
      assert.equal(scenario.inputOf('alpha', 'settleMove').outcome, 'saved');
      assert.deepEqual([...scenario.pausedOn], []);
      assert.equal((await move.progress()).phase, 'abandoned');
    });
  }

  test('can only give up what is parked', async () => {
    const scenario = harness.pool.scenario();
    const held = scenario.hold('beta.transferPackage');
    const move = await harness.move(scenario);
    await held.entered;
    assert.equal(await refusal(move.handle.executeUpdate(abandonUpdate)), 'NotParked');
    held.goOn();
    await move.result();
  });

  test('leaves a parked restore saved', async () => {
    const scenario = harness.pool.scenario();
    await (await harness.start('save', scenario)).result();
    scenario.fail('beta.openPackage', 'SegmentMisplaced');
    const handle = await harness.start('restore', scenario, { destination: 'beta', options: { onFailure: 'park' } });
    for (let tries = 0; scenario.count('beta.openPackage') === 0; tries++) {
      assert.ok(tries < 100);
      await sleep(100);
    }
    for (let tries = 0; ; tries++) {
      try {
        await handle.executeUpdate(abandonUpdate);
        break;
      } catch (error) {
        if (tries > 50) throw error;
        await sleep(100);
      }
    }
    assert.match((await failureOf(handle.result()))[0] ?? '', /^MoveAbandoned: Instance .* stays saved on alpha/);
    assert.equal(scenario.recorded.state, 'saved');
    assert.deepEqual(scenario.violations, []);
  });
});

describe('an operator who cancels', { skip, concurrency: 6 }, () => {
  const cancel = (move: Migration): Promise<void> => move.handle.executeUpdate(cancelUpdate);

  for (const call of BEFORE_SAVE) {
    test(`in ${call}: nothing happened`, async () => {
      const scenario = harness.pool.scenario();
      const held = scenario.hold(call);
      const move = await harness.move(scenario);
      await held.entered;
      await cancel(move);
      if (call.startsWith('control.')) held.goOn(); // what the catalog does is waited for
      assert.match((await move.failure())[0] ?? '', /^Cancelled: .*: The operator cancelled it/);
      assertUntouched(scenario);
      held.goOn();
    });
  }

  for (const call of [...SOURCE_STEPS, ...DESTINATION_STEPS]) {
    test(`in ${call}: the step stops and the instance runs at its source again`, async () => {
      const scenario = harness.pool.scenario();
      const held = scenario.hold(call);
      const move = await harness.move(scenario);
      await held.entered;
      await cancel(move);
      assert.match(
        (await move.failure())[0] ?? '',
        /^Cancelled: Instance .* runs on alpha again \((restored|never stopped)\): The operator cancelled it/,
      );
      await held.cancelled;
      assertReturned(scenario);
    });
  }

  for (const call of ['alpha.releaseInstance', 'beta.resumeInstance', 'alpha.settleMove'] as Call[]) {
    test(`in ${call}: is refused, and why`, async () => {
      const scenario = harness.pool.scenario();
      const held = scenario.hold(call);
      const move = await harness.move(scenario);
      await held.entered;
      assert.equal(await refusal(cancel(move)), 'PointOfNoReturn');
      held.goOn();
      await move.result();
      assertMoved(scenario);
    });
  }

  test('a move that is on its way back already changes nothing', async () => {
    const scenario = harness.pool.scenario().fail('beta.rewriteXml', 'DomainXmlRefused');
    const held = scenario.hold('alpha.returnInstance');
    const move = await harness.move(scenario);
    await held.entered;
    await cancel(move);
    held.goOn();
    assert.deepEqual((await move.failureTypes()).slice(0, 2), ['MoveReturned', 'DomainXmlRefused']);
    assertReturned(scenario);
  });

  test('a parked move brings the instance back', async () => {
    const scenario = harness.pool.scenario().fail('beta.rewriteXml', 'DomainXmlRefused');
    const move = await harness.move(scenario, { onFailure: 'park' });
    await move.until('parked');
    await cancel(move);
    assert.equal((await move.failureTypes())[0], 'Cancelled');
    assertReturned(scenario);
  });
});

describe('a source that is absent before the release', { skip }, () => {
  test('is waited for without limit, visibly, and can be told to return meanwhile', async () => {
    await harness.startHost('away1');
    const scenario = harness.pool.scenario({ source: 'away1' });
    const held = scenario.hold('beta.reserve');
    const move = await harness.move(scenario);
    await held.entered;
    await harness.stopHost('away1');
    held.goOn();
    const { waitingSince } = await move.until(({ phase, step }) => phase === 'waiting' && step === 'saveInstance');
    assert.ok(waitingSince !== undefined);
    assert.match(
      await details(move),
      /The worker of \*\*away1\*\* is absent since \d\d:\d\d:\d\d; this goes on when it is back/,
    );
    await move.handle.executeUpdate(returnUpdate);
    await move.until(({ phase, waitingFor }) => phase === 'returning' && waitingFor === 'away1');
    await harness.startHost('away1');
    assert.equal((await move.failureTypes())[0], 'MoveReturned');
    assertReturned(scenario);
    await harness.stopHost('away1');
  });

  test('that refuses to take the instance back is asked again at once when the operator says retry', async () => {
    const scenario = harness.pool
      .scenario()
      .fail('beta.openPackage', 'SignatureInvalid')
      .fail('alpha.returnInstance', 'DiskMalformed');
    const move = await harness.move(scenario);
    const { parked } = await move.until(({ phase, parked }) => phase === 'returning' && parked !== undefined);
    assert.deepEqual(parked?.choices, ['retry']);
    assert.equal(parked.failure, 'DiskMalformed');
    scenario.mend('alpha.returnInstance');
    await move.handle.executeUpdate(retryUpdate);
    assert.deepEqual((await move.failureTypes()).slice(0, 2), ['MoveReturned', 'SignatureInvalid']);
    assertReturned(scenario);
  });
});

test('all of this would have gone the same way after a crash of the control worker', { skip }, async () => {
  assert.deepEqual(await harness.replayAll(), []);
});
