/** The migrate workflow on a real server, with pretended hosts. */
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import type { ApplicationFailure } from '@temporalio/common';
import {
  MOVE_STEPS,
  readdressUpdate,
  retryUpdate,
  cancelUpdate,
  returnUpdate,
  searchAttributes,
  workflowId,
} from '../../workflows/contract.ts';
import type { FailureType } from '../../workflows/failures.ts';
import { recordOf, SIZES } from '../fakes/host-activities.ts';
import type { Call, Scenario } from '../fakes/scenario.ts';
import { temporalMissing } from '../support/temporal.ts';
import {
  assertMoved,
  assertReturned,
  assertUntouched,
  BEFORE_SAVE,
  DESTINATION_STEPS,
  details,
  inOrder,
  refusal,
  SOURCE_STEPS,
  STEPS,
} from './assertions.ts';
import { Harness, type Migration } from './harness.ts';

const skip = await temporalMissing();
let harness: Harness;
before(async () => {
  if (skip === false) harness = await Harness.start(['alpha', 'beta', 'gamma']);
});
after(async () => {
  if (skip === false) await harness.stop();
});

// Most of the time they wait: for retry intervals, and for workers that are meant to be absent.
describe('migrate', { skip, concurrency: 4 }, () => {
  describe('a move without trouble', { skip, concurrency: 4 }, () => {
    test('goes through its steps in order and answers what it did', async () => {
      const scenario = harness.pool.scenario();
      const move = await harness.move(scenario);
      const result = await move.result();

      assert.deepEqual(inOrder(scenario), STEPS);
      assertMoved(scenario);
      assert.equal(result.moveId, move.handle.firstExecutionRunId);
      assert.equal(result.packageId, scenario.packageId);
      assert.equal(result.generation, 2);
      assert.equal(result.packageBytes, SIZES.sealed);
      assert.equal(result.wireBytes, SIZES.sealed + 5000);
      assert.deepEqual([...scenario.packageHosts], ['alpha', 'beta']);
      assert.deepEqual(Object.keys(result.stepSeconds), MOVE_STEPS.slice(0, 13));

      const progress = await move.progress();
      assert.deepEqual([...new Set(progress.steps.map(({ step }) => step))], [...MOVE_STEPS]);
      assert.equal(progress.phase, 'moved');
      assert.equal(progress.step, null);
      assert.equal(progress.generation, 2);
      assert.equal(progress.blackoutSeconds, result.blackoutSeconds);
    });

    test('keeps everything that can wait out of the blackout', async () => {
      const scenario = harness.pool.scenario();
      const move = await harness.move(scenario);
      const { blackoutSeconds, totalSeconds } = await move.result();

      const { events } = await move.handle.fetchHistory();
      const scheduled = new Map<string, string>();
      const at = new Map<string, number>();
      const waitedFor: string[] = [];
      for (const event of events ?? []) {
        const { activityTaskScheduledEventAttributes: begun, activityTaskCompletedEventAttributes: ended } = event;
        if (begun) {
          scheduled.set(String(event.eventId), begun.activityType?.name ?? '');
          waitedFor.push(begun.activityType?.name ?? '');
        }
        if (ended) {
          const seconds = Number(event.eventTime?.seconds ?? 0) + (event.eventTime?.nanos ?? 0) / 1e9;
          at.set(scheduled.get(String(ended.scheduledEventId)) ?? '', seconds);
        }
      }
      const first = waitedFor.indexOf('saveInstance');
      const last = waitedFor.indexOf('resumeInstance');
      const beside = waitedFor
        .slice(first, last + 1)
        .filter((name) => !STEPS.some((step) => step.endsWith(`.${name}`)));
      assert.deepEqual(beside, ['recordPackage']);

      const measured = (at.get('resumeInstance') ?? 0) - (at.get('saveInstance') ?? 0) + 0.25;
      assert.ok(Math.abs(blackoutSeconds - measured) < 0.2, `${blackoutSeconds} is not about ${measured}`);
      assert.ok(blackoutSeconds < totalSeconds);
    });

    test('can be found by its search attributes and read in its history', async () => {
      const scenario = harness.pool.scenario();
      const move = await harness.move(scenario);
      await move.result();

      const { typedSearchAttributes: found } = await move.handle.describe();
      assert.equal(found.get(searchAttributes.instance), scenario.instanceId);
      assert.equal(found.get(searchAttributes.source), 'alpha');
      assert.equal(found.get(searchAttributes.destination), 'beta');
      assert.equal(found.get(searchAttributes.phase), 'moved');

      const { events } = await move.handle.fetchHistory();
      const activities = (events ?? []).filter((event) => event.activityTaskScheduledEventAttributes);
      assert.ok(activities.length > 20);
      for (const event of activities) {
        const { name } = event.activityTaskScheduledEventAttributes?.activityType ?? {};
        assert.ok(event.userMetadata?.summary, `${name} has no summary`);
      }

      const story = await details(move);
      assert.match(
        story,
        new RegExp(`^Move of \\*\\*${scenario.name}\\*\\* from \\*\\*alpha\\*\\* to \\*\\*beta\\*\\* is done\\.`),
      );
      assert.match(story, /Blackout: \d+\.\d\d s\./);
      assert.match(story, /1\. `saveInstance` on alpha: \d+\.\d\d s · 98\.2 MB/);
    });

    test('tells while it goes on where it is', async () => {
      const scenario = harness.pool.scenario();
      const held = scenario.hold('beta.transferPackage');
      const move = await harness.move(scenario);
      await held.entered;

      const progress = await move.progress();
      assert.equal(progress.phase, 'blackout');
      assert.equal(progress.step, 'transferPackage');
      assert.equal(progress.packageBytes, SIZES.sealed);
      assert.equal(progress.blackoutSeconds, undefined);
      assert.equal(progress.steps.at(-1)?.endedAt, undefined);
      assert.match(await details(move), /Blackout since \d\d:\d\d:\d\d\.[^]*`transferPackage` on beta: since/);

      held.goOn();
      await move.result();
      assertMoved(scenario);
    });

    test('pulls a missing base image while the guest still runs', async () => {
      const scenario = harness.pool.scenario({ imageHosts: ['alpha', 'gamma'] });
      const move = await harness.move(scenario);
      await move.result();

      const { input } = harness.pool.common.inputs.find(({ call }) => call === 'beta.pullImage') ?? {};
      assert.deepEqual((input as { sources: string[] }).sources, [recordOf('alpha'), recordOf('gamma')]);
      const steps = (await move.progress()).steps.map(({ step }) => step);
      assert.ok(steps.indexOf('pullImage') < steps.indexOf('saveInstance'));
      assertMoved(scenario);
    });
  });

  describe('a request that cannot be', { skip, concurrency: 4 }, () => {
    const refused: [string, string, object, FailureType][] = [
      ['to the host where it is', 'alpha', {}, 'SameHost'],
      ['to a host that nobody knows', 'nowhere', {}, 'HostNotFound'],
      ['with a level that zstd does not have', 'beta', { compressionLevel: 20 }, 'InvalidInput'],
      ['with a negative retry window', 'beta', { retryWindowSeconds: -1 }, 'InvalidInput'],
    ];
    for (const [what, destination, options, type] of refused) {
      test(`a move ${what} is refused before any host hears of it`, async () => {
        const scenario = harness.pool.scenario();
        const move = await harness.move(scenario, options, destination);
        assert.equal((await move.failureTypes())[0], type);
        assert.deepEqual(
          scenario.calls.filter((call) => call !== 'control.planMove'),
          [],
        );
        assert.equal((await move.progress()).phase, 'failed');
      });
    }

    test('an unknown instance is refused', async () => {
      const move = await harness.begin('migrate', 'instance:unknown', { instanceId: 'unknown', destination: 'beta' });
      await assert.rejects(
        move.result(),
        ({ cause }: { cause: ApplicationFailure }) => cause.type === 'InstanceNotFound',
      );
    });
  });

  describe('failing for good', { skip, concurrency: 6 }, () => {
    for (const call of BEFORE_SAVE.filter((step) => step !== 'alpha.announceMove')) {
      test(`${call}: nothing was touched, and the failure is the step's own`, async () => {
        const scenario = harness.pool.scenario().fail(call, 'IncompatibleHost');
        const move = await harness.move(scenario);
        assert.equal((await move.failureTypes())[0], 'IncompatibleHost');
        assertUntouched(scenario);
        assert.equal(scenario.count(call), 1);
        assert.equal((await move.progress()).phase, 'failed');
        if (call === 'beta.reserve') {
          assert.equal(scenario.count('beta.discardCopy'), 1);
          assert.deepEqual(scenario.recorded, { host: 'alpha', state: 'running', generation: 1 });
          assert.equal(scenario.closed, 'failed');
        }
      });
    }

    test('alpha.announceMove: the move goes on', async () => {
      const scenario = harness.pool.scenario().fail('alpha.announceMove', 'CommandFailed');
      const move = await harness.move(scenario);
      await move.result();
      assert.equal(scenario.count('alpha.announceMove'), 1);
      assert.match(await details(move), /The guest could not be told: alpha\.announceMove/);
      assertMoved(scenario);
    });

    for (const call of [...SOURCE_STEPS, ...DESTINATION_STEPS]) {
      test(`${call}: the instance runs at its source again`, async () => {
        const scenario = harness.pool.scenario().fail(call, 'ImageDamaged');
        const move = await harness.move(scenario);

        const chain = await move.failure();
        assert.match(
          chain[0] ?? '',
          new RegExp(`^MoveReturned: Instance ${scenario.name} runs on alpha again .*${call}`),
        );
        assert.match(chain[1] ?? '', new RegExp(`^ImageDamaged: ${call}`));
        assertReturned(scenario);
        assert.equal(scenario.count(call), 1, 'what cannot succeed is not repeated');
        assert.equal(scenario.count('beta.discardCopy'), 1);
        const progress = await move.progress();
        assert.equal(progress.phase, 'returned');
        assert.ok(progress.blackoutSeconds !== undefined);
        assert.equal(progress.steps.at(-1)?.step, 'returnInstance');
      });
    }

    test('a failure that may pass is repeated for the retry window, then the instance returns', async () => {
      const scenario = harness.pool.scenario().fail('beta.restoreInstance', 'LibvirtFailed');
      const move = await harness.move(scenario, { retryWindowSeconds: 2 });
      assert.deepEqual((await move.failureTypes()).slice(0, 2), ['MoveReturned', 'LibvirtFailed']);
      assert.equal(scenario.count('beta.restoreInstance'), 3);
      assertReturned(scenario);
      assert.deepEqual([...scenario.packageHosts], ['alpha', 'beta'], 'the catalog knows what lies where');
    });

    test('a source that refuses the release keeps the instance', async () => {
      const scenario = harness.pool.scenario().fail('alpha.releaseInstance', 'SourceRanOn');
      const move = await harness.move(scenario);
      assert.deepEqual((await move.failureTypes()).slice(0, 2), ['MoveReturned', 'SourceRanOn']);
      assertReturned(scenario);
      assert.equal(scenario.count('beta.resumeInstance'), 0);
    });

    test('the first error is told, whatever fails on the way back', async () => {
      const scenario = harness.pool
        .scenario()
        .fail('beta.openPackage', 'SignatureInvalid')
        .fail('alpha.returnInstance', 'LibvirtFailed', { times: 3 })
        .fail('alpha.settleMove', 'CommandFailed', { times: 1 })
        .fail('beta.discardCopy', 'OwnershipDecided')
        .fail('control.closeMove', 'CatalogUnreachable', { times: 1 });
      const move = await harness.move(scenario);
      assert.deepEqual((await move.failureTypes()).slice(0, 2), ['MoveReturned', 'SignatureInvalid']);
      assertReturned(scenario);
      assert.equal(scenario.count('alpha.returnInstance'), 4);
      assert.match(await details(move), /beta was not told to give up its copy/);
    });
  });

  describe('failing for a while', { skip, concurrency: 6 }, () => {
    const REPEATED = STEPS.filter((step) => step !== 'alpha.announceMove');

    test('every step is repeated until it succeeds', async () => {
      const scenario = harness.pool.scenario();
      for (const call of REPEATED) scenario.fail(call, 'LibvirtFailed', { times: 1 });
      const move = await harness.move(scenario);
      await move.result();
      for (const call of REPEATED) assert.equal(scenario.count(call), 2, call);
      assertMoved(scenario);
    });

    test('every step whose answer was lost is asked again', async () => {
      const scenario = harness.pool.scenario();
      for (const call of REPEATED) scenario.fail(call, 'Internal', { times: 1, when: 'after' });
      const move = await harness.move(scenario);
      await move.result();
      for (const call of REPEATED) assert.equal(scenario.count(call), 2, call);
      assertMoved(scenario);
    });

    for (const call of ['alpha.releaseInstance', 'beta.resumeInstance', 'control.closeMove'] as Call[]) {
      test(`${call} is repeated however small the retry window is`, async () => {
        const scenario = harness.pool.scenario().fail(call, 'SourceStillRunning', { times: 2 });
        const move = await harness.move(scenario, { retryWindowSeconds: 0 });
        await move.result();
        assert.equal(scenario.count(call), 3);
        assertMoved(scenario);
      });
    }

    for (const call of ['alpha.settleMove', 'control.closeMove'] as Call[]) {
      test(`${call}: even a refusal does not end a move that has been released`, async () => {
        const scenario = harness.pool.scenario().fail(call, 'NotOwner', { times: 1 });
        const move = await harness.move(scenario);
        await move.until(() => scenario.count(call) === 1);
        await sleep(300);
        assert.match(await details(move), /refuses, and is asked again in 5 s: /);
        await move.result();
        assert.equal(scenario.count(call), 2);
        assert.equal(scenario.count('alpha.returnInstance'), 0);
        assertMoved(scenario);
      });
    }
  });

  describe('an absent worker', { skip, concurrency: 6 }, () => {
    test('of the destination, before anything was touched: the move fails after the retry window', async () => {
      const scenario = harness.pool.scenario();
      const move = await harness.move(scenario, { retryWindowSeconds: 2 }, 'absent1');
      const { waitingFor } = await move.until('waiting');
      assert.equal(waitingFor, 'absent1');
      const chain = await move.failure();
      assert.match(chain[0] ?? '', /^HostUnreachable: The worker of host absent1 is absent/);
      assertUntouched(scenario);
    });

    /** The move waits in encryptPackage when the destination's worker ends. */
    async function destinationGone(host: string, retryWindowSeconds: number): Promise<[Scenario, Migration]> {
      await harness.startHost(host);
      const scenario = harness.pool.scenario({ imageHosts: ['alpha', host] });
      const held = scenario.hold('alpha.encryptPackage');
      const move = await harness.move(scenario, { retryWindowSeconds }, host);
      await held.entered;
      await harness.stopHost(host);
      held.goOn();
      return [scenario, move];
    }

    test('of the destination, in the blackout: it is waited for, then the instance returns', async () => {
      const [scenario, move] = await destinationGone('absent2', 2);
      const progress = await move.until('waiting');
      assert.equal(progress.waitingFor, 'absent2');
      assert.match(await details(move), /The worker of \*\*absent2\*\* is absent/);
      assert.deepEqual((await move.failureTypes()).slice(0, 2), ['MoveReturned', 'HostUnreachable']);
      assertReturned(scenario);
    });

    test('of the destination, that comes back in time: the move goes on', async () => {
      const [scenario, move] = await destinationGone('absent3', 20);
      await move.until('waiting');
      await harness.startHost('absent3');
      await move.result();
      assertMoved(scenario, 'absent3');
      await harness.stopHost('absent3');
      const progress = await move.progress();
      assert.equal(progress.waitingFor, undefined);
    });

    test('of the source is waited for without limit', async () => {
      await harness.startHost('absent4');
      const scenario = harness.pool.scenario({ source: 'absent4' });
      const held = scenario.hold('beta.reserve');
      const move = await harness.move(scenario, { retryWindowSeconds: 1 });
      await held.entered;
      await harness.stopHost('absent4');
      held.goOn();
      await move.until(({ phase, step }) => phase === 'waiting' && step === 'saveInstance');
      await sleep(3000); // well over the retry window
      assert.equal((await move.progress()).waitingFor, 'absent4');
      await harness.startHost('absent4');
      await move.result();
      assertMoved(scenario);
      await harness.stopHost('absent4');
    });

    test('of the source, after the release: the guest runs, and it clears up whenever it comes back', async () => {
      await harness.startHost('absent5');
      const scenario = harness.pool.scenario({ source: 'absent5' });
      const held = scenario.hold('beta.resumeInstance');
      const move = await harness.move(scenario, { retryWindowSeconds: 8 });
      await held.entered;
      await harness.stopHost('absent5');
      held.goOn();
      const progress = await move.until(({ waitingFor }) => waitingFor === 'absent5');
      assert.equal(progress.phase, 'settling');
      assert.ok(progress.blackoutSeconds !== undefined);
      assert.ok(progress.waitingSince !== undefined);
      assert.equal(scenario.runningOn, 'beta');
      await move.result();
      assert.equal(scenario.closed, 'moved', 'the instance is free for its next move');
      assert.equal(scenario.count('absent5.settleMove'), 0);
      await harness.startHost('absent5');
      await harness.client.workflow.getHandle(workflowId.clearUp(move.handle.firstExecutionRunId, 'absent5')).result();
      assertMoved(scenario);
      await harness.stopHost('absent5');
    });

    test('of the destination does not hold up the return', async () => {
      await harness.startHost('absent6');
      const scenario = harness.pool
        .scenario({ imageHosts: ['alpha', 'absent6'] })
        .fail('alpha.encryptPackage', 'PackageMalformed');
      const held = scenario.hold('alpha.buildPackage');
      const move = await harness.move(scenario, {}, 'absent6');
      await held.entered;
      await harness.stopHost('absent6');
      held.goOn();
      assert.deepEqual((await move.failureTypes()).slice(0, 2), ['MoveReturned', 'PackageMalformed']);
      assertReturned(scenario);
      assert.match(await details(move), /absent6 was not told to give up its copy/);
    });
  });

  describe('a parked move', { skip, concurrency: 6 }, () => {
    async function parked(call: Call, type: FailureType = 'SegmentMisplaced'): Promise<[Scenario, Migration]> {
      const scenario = harness.pool.scenario().fail(call, type);
      const move = await harness.move(scenario, { onFailure: 'park' });
      await move.until('parked');
      return [scenario, move];
    }

    for (const call of DESTINATION_STEPS) {
      test(`${call}: retry goes on from the package`, async () => {
        const [scenario, move] = await parked(call);
        const { parked: state, step } = await move.progress();
        assert.equal(state?.failure, 'SegmentMisplaced');
        assert.match(state?.reason ?? '', new RegExp(call));
        assert.deepEqual(state?.choices, ['retry', 'return', 'readdress', 'abandon']);
        assert.equal(state.released, false);
        assert.equal(step, call.split('.')[1]);
        assert.match(
          await details(move),
          /is parked\.[^]*Decide with `vmferry moves …`: `retry`, `return`, `readdress`, `abandon`\./,
        );
        assert.equal((await move.handle.describe()).typedSearchAttributes.get(searchAttributes.phase), 'parked');
        assert.equal(scenario.runningOn, null);

        scenario.mend(call);
        await move.handle.executeUpdate(retryUpdate);
        await move.result();
        assertMoved(scenario);
        assert.equal(scenario.count('alpha.saveInstance'), 1);
        assert.equal(scenario.count('alpha.encryptPackage'), 1);
        assert.equal((await move.progress()).parked, undefined);
      });
    }

    test('parks again when the retry fails', async () => {
      const [scenario, move] = await parked('beta.openPackage');
      await move.handle.executeUpdate(retryUpdate);
      await move.until(({ phase }) => phase === 'parked' && scenario.count('beta.openPackage') === 2);
      await move.handle.executeUpdate(returnUpdate);
      assert.deepEqual((await move.failureTypes())[0], 'MoveReturned');
      assertReturned(scenario);
    });

    test('returns when the operator says so', async () => {
      const [scenario, move] = await parked('beta.restoreInstance');
      await move.handle.executeUpdate(returnUpdate);
      assert.match((await move.failure())[0] ?? '', /^MoveReturned: .*The operator asked for the return/);
      assertReturned(scenario);
    });

    test('is cancelled into a return', async () => {
      const [scenario, move] = await parked('beta.restoreInstance');
      await move.handle.cancel();
      assert.deepEqual(await move.failureTypes(), ['CancelledFailure']);
      assertReturned(scenario);
    });

    test('goes elsewhere when the operator names another host', async () => {
      const [scenario, move] = await parked('beta.restoreInstance');
      await move.handle.executeUpdate(readdressUpdate, { args: [{ destination: 'gamma' }] });
      const result = await move.result();
      assert.equal(result.destination, 'gamma');
      assertMoved(scenario, 'gamma');
      assert.equal(scenario.inputOf('alpha', 'readdressPackage').destination, recordOf('gamma'));
      assert.deepEqual(
        scenario.calls.filter((call) => call.startsWith('gamma.')),
        [
          'preflightDestination',
          'reserve',
          'transferPackage',
          'openPackage',
          'rewriteXml',
          'restoreInstance',
          'resumeInstance',
          'settleMove',
        ].map((step) => `gamma.${step}`),
      );
      assert.equal(scenario.count('beta.discardCopy'), 1);
      assert.equal(scenario.count('alpha.encryptPackage'), 1);
      assert.deepEqual([...scenario.packageHosts].sort(), ['alpha', 'beta', 'gamma']);
      const { typedSearchAttributes } = await move.handle.describe();
      assert.equal(typedSearchAttributes.get(searchAttributes.destination), 'gamma');
    });

    test('stays parked when the other host is not in the pool, and may still be retried where it was', async () => {
      const [scenario, move] = await parked('beta.rewriteXml');
      await move.handle.executeUpdate(readdressUpdate, { args: [{ destination: 'nowhere' }] });
      const { destination } = await move.until(({ parked: state }) => state?.failure === 'HostNotFound');
      assert.equal(destination, 'beta');
      scenario.mend('beta.rewriteXml');
      await move.handle.executeUpdate(retryUpdate);
      await move.result();
      assertMoved(scenario);
    });

    test('parks again when the other host cannot take it; retry tries that host again', async () => {
      const [scenario, move] = await parked('beta.rewriteXml');
      scenario.fail('gamma.preflightDestination', 'IncompatibleHost', { times: 1 });
      await move.handle.executeUpdate(readdressUpdate, { args: [{ destination: 'gamma' }] });
      const { destination } = await move.until(({ parked: state }) => state?.failure === 'IncompatibleHost');
      assert.equal(destination, 'gamma');
      await move.handle.executeUpdate(retryUpdate);
      await move.result();
      assertMoved(scenario, 'gamma');
    });

    test('cannot be sent to its source', async () => {
      const [scenario, move] = await parked('beta.openPackage');
      const update = move.handle.executeUpdate(readdressUpdate, { args: [{ destination: 'alpha' }] });
      assert.equal(await refusal(update), 'SameHost');
      await move.handle.executeUpdate(returnUpdate);
      await move.failure();
      assertReturned(scenario);
    });
  });

  describe('an operator', { skip, concurrency: 6 }, () => {
    test('is refused retry and readdress while nothing is parked', async () => {
      const scenario = harness.pool.scenario();
      const held = scenario.hold('beta.transferPackage');
      const move = await harness.move(scenario);
      await held.entered;
      assert.equal(await refusal(move.handle.executeUpdate(retryUpdate)), 'NotParked');
      assert.equal(
        await refusal(move.handle.executeUpdate(readdressUpdate, { args: [{ destination: 'gamma' }] })),
        'NotParked',
      );
      held.goOn();
      await move.result();
      assertMoved(scenario);
    });

    for (const call of ['alpha.releaseInstance', 'beta.resumeInstance', 'alpha.settleMove'] as Call[]) {
      test(`is refused everything from ${call} on`, async () => {
        const scenario = harness.pool.scenario();
        const held = scenario.hold(call);
        const move = await harness.move(scenario);
        await held.entered;
        assert.equal(await refusal(move.handle.executeUpdate(returnUpdate)), 'PointOfNoReturn');
        assert.equal(await refusal(move.handle.executeUpdate(retryUpdate)), 'PointOfNoReturn');
        const readdress = move.handle.executeUpdate(readdressUpdate, { args: [{ destination: 'gamma' }] });
        assert.equal(await refusal(readdress), 'PointOfNoReturn');
        held.goOn();
        await move.result();
        assertMoved(scenario);
      });

      test(`cancels in vain from ${call} on, and is told why`, async () => {
        const scenario = harness.pool.scenario();
        const held = scenario.hold(call);
        const move = await harness.move(scenario);
        await held.entered;
        await move.handle.cancel();
        await sleep(300);
        assert.match(await details(move), /Cancel was asked for and not followed: alpha releases the instance to beta/);
        held.goOn();
        await move.result();
        assertMoved(scenario);
      });
    }

    for (const call of BEFORE_SAVE) {
      test(`cancels in ${call}: nothing happened`, async () => {
        const scenario = harness.pool.scenario();
        const held = scenario.hold(call);
        const move = await harness.move(scenario);
        await held.entered;
        await move.handle.cancel();
        if (call.startsWith('control.')) held.goOn(); // what the catalog does is waited for
        assert.deepEqual(await move.failureTypes(), ['CancelledFailure']);
        assert.equal((await move.handle.describe()).status.name, 'CANCELLED');
        assertUntouched(scenario);
        held.goOn();
      });
    }

    for (const call of [...SOURCE_STEPS, ...DESTINATION_STEPS]) {
      test(`cancels in ${call}: the step stops and the instance runs at its source again`, async () => {
        const scenario = harness.pool.scenario();
        const held = scenario.hold(call);
        const move = await harness.move(scenario);
        await held.entered;
        await move.handle.cancel();
        assert.deepEqual(await move.failureTypes(), ['CancelledFailure']);
        await held.cancelled;
        assert.equal((await move.handle.describe()).status.name, 'CANCELLED');
        assertReturned(scenario);
        assert.equal((await move.progress()).phase, 'returned');
      });
    }

    test('called off, it ends as such, whatever the step that was ended has to say', async () => {
      const scenario = harness.pool.scenario().fail('alpha.saveInstance', 'LibvirtFailed', { when: 'cancelled' });
      const held = scenario.hold('alpha.saveInstance');
      const move = await harness.move(scenario);
      await held.entered;
      await move.handle.executeUpdate(cancelUpdate);
      await held.cancelled;
      assert.match((await move.failure())[0] ?? '', /^Cancelled: Instance .* runs on alpha again .*: The operator/);
      assertReturned(scenario);
    });

    test('returns a running move in the middle of the transfer', async () => {
      const scenario = harness.pool.scenario();
      const held = scenario.hold('beta.transferPackage');
      const move = await harness.move(scenario);
      await held.entered;
      await move.handle.executeUpdate(returnUpdate);
      assert.match(
        (await move.failure())[0] ?? '',
        /^MoveReturned: Instance .* runs on alpha again \(restored\): The operator/,
      );
      await held.cancelled;
      assertReturned(scenario);
    });

    test('who asks for the return while it goes on already changes nothing', async () => {
      const scenario = harness.pool.scenario().fail('beta.rewriteXml', 'DomainXmlRefused');
      const held = scenario.hold('alpha.returnInstance');
      const move = await harness.move(scenario);
      await held.entered;
      assert.equal((await move.progress()).phase, 'returning');
      await move.handle.executeUpdate(returnUpdate);
      held.goOn();
      assert.deepEqual((await move.failureTypes()).slice(0, 2), ['MoveReturned', 'DomainXmlRefused']);
      assertReturned(scenario);
    });

    test('returns a move that has not stopped the guest yet', async () => {
      const scenario = harness.pool.scenario();
      const held = scenario.hold('beta.reserve');
      const move = await harness.move(scenario);
      await held.entered;
      await move.handle.executeUpdate(returnUpdate);
      assert.match((await move.failure())[0] ?? '', /^MoveReturned: Instance .* runs on alpha, where it was/);
      assertUntouched(scenario);
      held.goOn();
    });
  });
});

test('all of this would have gone the same way after a crash of the control worker', { skip }, async () => {
  assert.deepEqual(await harness.replayAll(), []);
});
