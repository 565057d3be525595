/** The save and restore workflows on a real server, with pretended hosts; and the short workflows beside them. */
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { WorkflowUpdateFailedError } from '@temporalio/client';
import { progressQuery, retryUpdate, returnUpdate, type SpawnInput } from '../../workflows/contract.ts';
import { IMAGE } from '../fakes/control-activities.ts';
import { recordOf, SIZES } from '../fakes/host-activities.ts';
import type { Call, Scenario } from '../fakes/scenario.ts';
import { temporalMissing } from '../support/temporal.ts';
import { failureOf, Harness } from './harness.ts';

const skip = await temporalMissing();
let harness: Harness;
/** Takes as long as an absent worker is waited for, so it is begun first and looked at last. */
let toAbsentHost: Promise<string[]>;
before(async () => {
  if (skip !== false) return;
  harness = await Harness.start(['alpha', 'beta', 'gamma']);
  toAbsentHost = failureOf(harness.run('describeNode', { host: 'absent' }));
});
after(async () => {
  if (skip === false) await harness.stop();
});

const typesOf = async (result: Promise<unknown>): Promise<string[]> =>
  (await failureOf(result)).map((line) => line.split(':', 1)[0] ?? '');

async function saved(): Promise<Scenario> {
  const scenario = harness.pool.scenario();
  await (await harness.start('save', scenario)).result();
  scenario.calls.length = 0;
  return scenario;
}

function assertSaved(scenario: Scenario): void {
  assert.deepEqual(scenario.violations, []);
  assert.equal(scenario.runningOn, null);
  assert.equal(scenario.owner, 'alpha');
  assert.deepEqual(scenario.recorded, { host: 'alpha', state: 'saved', generation: 1 });
  assert.equal(scenario.openMove, null);
}

describe('the stages of an instance', { skip, concurrency: 3 }, () => {
  describe('save', { skip, concurrency: 4 }, () => {
    test('leaves a package with the host, which still owns the instance', async () => {
      const scenario = harness.pool.scenario();
      const handle = await harness.start('save', scenario);
      const result = await handle.result();
      assert.deepEqual(result, {
        instanceId: scenario.instanceId,
        packageId: scenario.packageId,
        host: 'alpha',
        packageBytes: SIZES.sealed,
      });
      assertSaved(scenario);
      assert.deepEqual([...scenario.packageHosts], ['alpha']);
      assert.equal(scenario.inputOf('alpha', 'encryptPackage').destination, null);
      assert.equal(scenario.inputOf('alpha', 'settleMove').outcome, 'saved');
      assert.deepEqual(
        scenario.calls.filter((call) => call.startsWith('beta.')),
        [],
      );
    });

    for (const call of ['saveInstance', 'rebaseOverlay', 'buildPackage', 'encryptPackage']) {
      test(`runs the instance again when ${call} fails for good`, async () => {
        const scenario = harness.pool.scenario().fail(`alpha.${call}`, 'UnsupportedDevice');
        const handle = await harness.start('save', scenario);
        assert.deepEqual((await typesOf(handle.result())).slice(0, 2), ['MoveReturned', 'UnsupportedDevice']);
        assert.deepEqual(scenario.violations, []);
        assert.equal(scenario.runningOn, 'alpha');
        assert.deepEqual(scenario.recorded, { host: 'alpha', state: 'running', generation: 2 });
      });
    }

    test('is called off by a cancellation', async () => {
      const scenario = harness.pool.scenario();
      const held = scenario.hold('alpha.buildPackage');
      const handle = await harness.start('save', scenario);
      await held.entered;
      await handle.cancel();
      assert.deepEqual(await typesOf(handle.result()), ['CancelledFailure']);
      assert.equal(scenario.runningOn, 'alpha');
    });

    test('cannot be called off once the package is kept', async () => {
      const scenario = harness.pool.scenario();
      const held = scenario.hold('alpha.settleMove');
      const handle = await harness.start('save', scenario);
      await held.entered;
      await assert.rejects(handle.executeUpdate(returnUpdate), WorkflowUpdateFailedError);
      await handle.cancel();
      held.goOn();
      await handle.result();
      assertSaved(scenario);
    });
  });

  describe('restore by the owner', { skip, concurrency: 4 }, () => {
    test('takes the instance back and runs it from its package', async () => {
      const scenario = await saved();
      const handle = await harness.start('restore', scenario);
      const result = await handle.result();
      assert.deepEqual(
        scenario.calls.filter((call) => call.startsWith('alpha.')),
        ['preflightSource', 'reserve', 'openPackage', 'rewriteXml', 'returnInstance', 'settleMove'].map(
          (step) => `alpha.${step}`,
        ),
      );
      assert.deepEqual(scenario.violations, []);
      assert.equal(scenario.runningOn, 'alpha');
      assert.deepEqual(scenario.recorded, { host: 'alpha', state: 'running', generation: 2 });
      assert.equal(result.packageId, scenario.packageId);
      assert.equal(result.moveId, handle.firstExecutionRunId);
      assert.equal(result.destination, 'alpha');
      assert.equal((await handle.query(progressQuery)).phase, 'moved');
    });

    test('leaves the instance saved when its package does not open', async () => {
      const scenario = (await saved()).fail('alpha.openPackage', 'SegmentMisplaced');
      const handle = await harness.start('restore', scenario);
      assert.equal((await typesOf(handle.result()))[0], 'SegmentMisplaced');
      assertSaved(scenario);
      assert.equal(scenario.count('alpha.returnInstance'), 0);
      assert.equal(scenario.count('alpha.discardCopy'), 0);
    });

    test('needs a package', async () => {
      const scenario = harness.pool.scenario();
      assert.equal((await typesOf((await harness.start('restore', scenario)).result()))[0], 'PackageNotFound');
    });
  });

  describe('restore elsewhere', { skip, concurrency: 4 }, () => {
    test('goes the way of a move, from the package that is there', async () => {
      const scenario = await saved();
      const result = await (await harness.start('restore', scenario, { destination: 'beta' })).result();
      assert.deepEqual(scenario.calls.filter((call) => !call.startsWith('control.')).slice(0, 10), [
        'alpha.preflightSource',
        'beta.preflightDestination',
        'beta.reserve',
        'alpha.readdressPackage',
        'beta.transferPackage',
        'beta.openPackage',
        'beta.rewriteXml',
        'beta.restoreInstance',
        'alpha.releaseInstance',
        'beta.resumeInstance',
      ]);
      assert.equal(scenario.inputOf('alpha', 'readdressPackage').destination, recordOf('beta'));
      assert.deepEqual(scenario.violations, []);
      assert.equal(scenario.runningOn, 'beta');
      assert.deepEqual(scenario.recorded, { host: 'beta', state: 'running', generation: 2 });
      assert.deepEqual([...scenario.packageHosts], ['alpha', 'beta']);
      assert.equal(result.generation, 2);
      assert.equal(result.blackoutSeconds > 0, true);
    });

    for (const call of [
      'alpha.readdressPackage',
      'beta.transferPackage',
      'beta.restoreInstance',
      'alpha.releaseInstance',
    ] as Call[]) {
      test(`leaves the instance saved when ${call} fails for good`, async () => {
        const scenario = (await saved()).fail(call, 'WrongDestination');
        const handle = await harness.start('restore', scenario, { destination: 'beta' });
        assert.equal((await typesOf(handle.result()))[0], 'WrongDestination');
        assertSaved(scenario);
        assert.equal(scenario.count('beta.discardCopy'), 1);
        assert.equal(scenario.count('alpha.returnInstance'), 0);
      });
    }

    test('leaves the instance saved when it is called off', async () => {
      const scenario = await saved();
      const held = scenario.hold('beta.transferPackage');
      const handle = await harness.start('restore', scenario, { destination: 'beta' });
      await held.entered;
      assert.equal((await handle.query(progressQuery)).phase, 'blackout');
      await handle.cancel();
      assert.deepEqual(await typesOf(handle.result()), ['CancelledFailure']);
      await held.cancelled;
      assertSaved(scenario);
    });

    test('can be parked, and goes on', async () => {
      const scenario = (await saved()).fail('beta.openPackage', 'PackageMalformed', { times: 1 });
      const handle = await harness.start('restore', scenario, { destination: 'beta', options: { onFailure: 'park' } });
      while ((await handle.query(progressQuery)).phase !== 'parked')
        await new Promise((resolve) => setTimeout(resolve, 100));
      await handle.executeUpdate(retryUpdate);
      await handle.result();
      assert.equal(scenario.runningOn, 'beta');
    });
  });
});

describe('spawn', { skip }, () => {
  const inputFor = ({ instanceId, name }: Scenario): SpawnInput => ({
    instanceId,
    name,
    host: 'beta',
    imageId: IMAGE.id,
    memoryBytes: 1 << 28,
    vcpus: 1,
    domainType: 'auto',
  });
  const unborn = (imageHosts: string[]): Scenario => {
    const scenario = harness.pool.scenario({ imageHosts });
    scenario.owner = scenario.runningOn = null;
    return scenario;
  };

  test('boots an instance and tells the catalog', async () => {
    const scenario = unborn(['beta']);
    const result = await harness.run('spawn', inputFor(scenario));
    assert.equal(result.address.ip, '10.77.0.2');
    assert.deepEqual(scenario.calls, ['control.reserveInstance', 'beta.spawnInstance', 'control.recordInstance']);
    assert.deepEqual(scenario.recorded, { host: 'beta', state: 'running', generation: 1 });
    assert.deepEqual(scenario.violations, []);
  });

  test('fetches the image first if the host lacks it', async () => {
    const scenario = unborn(['alpha']);
    const { common } = harness.pool;
    common.calls.length = 0;
    await harness.run('spawn', inputFor(scenario));
    assert.deepEqual(
      common.calls.filter((call) => call !== 'absent.describeHost'),
      ['beta.pullImage', 'control.recordImage'],
    );
  });

  test('leaves nothing behind when the boot fails for good', async () => {
    const scenario = unborn(['beta']).fail('beta.spawnInstance', 'IncompatibleHost');
    assert.equal((await typesOf(harness.run('spawn', inputFor(scenario))))[0], 'IncompatibleHost');
    assert.deepEqual(scenario.calls.slice(-2), ['beta.deleteInstance', 'control.forgetInstance']);
  });

  test('is not forgotten while the host cannot say that nothing runs', async () => {
    const scenario = unborn(['beta'])
      .fail('beta.spawnInstance', 'IncompatibleHost')
      .fail('beta.deleteInstance', 'ImageDamaged');
    assert.equal((await typesOf(harness.run('spawn', inputFor(scenario))))[0], 'IncompatibleHost');
    assert.equal(scenario.count('control.forgetInstance'), 0);
  });
});

describe('the short workflows', { skip }, () => {
  test('pull brings an image to another host', async () => {
    const { common } = harness.pool;
    common.imageHosts = ['alpha', 'gamma'];
    const result = await harness.run('pull', { kind: 'image', id: IMAGE.id, destination: 'beta' });
    assert.equal(result.bytes, IMAGE.bytes);
    const pulled = common.inputs.findLast(({ call }) => call === 'beta.pullImage')?.input as { sources: string[] };
    assert.deepEqual(pulled.sources, [recordOf('alpha'), recordOf('gamma')]);
  });

  test('pull asks the next holder of a package when the first cannot give it', async () => {
    const scenario = await saved();
    scenario.packageHosts.add('gamma');
    scenario.fail('alpha.readdressPackage', 'PackageNotFound');
    const id = scenario.packageId ?? '';
    const result = await harness.run('pull', { kind: 'package', id, destination: 'beta' });
    assert.equal(result.bytes, SIZES.sealed);
    assert.equal(scenario.inputOf('gamma', 'readdressPackage').destination, recordOf('beta'));
    assert.equal(scenario.inputOf('beta', 'pullPackage').source, recordOf('gamma'));
    assert.deepEqual([...scenario.packageHosts], ['alpha', 'gamma', 'beta']);

    scenario.fail('gamma.readdressPackage', 'ImageDamaged');
    scenario.packageHosts.delete('beta');
    assert.equal(
      (await typesOf(harness.run('pull', { kind: 'package', id, destination: 'beta' })))[0],
      'PackageNotFound',
    );
  });

  test('deleteInstance forgets after the owner has ended it, not before', async () => {
    const scenario = harness.pool.scenario().fail('alpha.deleteInstance', 'NotOwner', { times: 1 });
    assert.equal((await typesOf(harness.run('deleteInstance', { instanceId: scenario.instanceId })))[0], 'NotOwner');
    assert.equal(scenario.count('control.forgetInstance'), 0);
    await harness.run('deleteInstance', { instanceId: scenario.instanceId });
    assert.deepEqual(scenario.calls.slice(-2), ['alpha.deleteInstance', 'control.forgetInstance']);
  });

  test('deletePackage refuses the only package of a saved instance', async () => {
    const scenario = await saved();
    const packageId = scenario.packageId ?? '';
    assert.equal((await typesOf(harness.run('deletePackage', { packageId })))[0], 'InUse');
    assert.equal(scenario.count('alpha.deletePackage'), 0);
  });

  test('deletePackage does its work on the others when one host fails', async () => {
    const scenario = await saved();
    const packageId = scenario.packageId ?? '';
    scenario.recorded.state = 'running';
    scenario.packageHosts.add('beta').add('gamma');
    scenario.fail('alpha.deletePackage', 'InUse');
    assert.equal((await typesOf(harness.run('deletePackage', { packageId })))[0], 'InUse');
    assert.deepEqual([...scenario.packageHosts], ['alpha']);
  });

  test('verifyPackage answers what the host read', async () => {
    const scenario = await saved();
    const facts = await harness.run('verifyPackage', { packageId: scenario.packageId ?? '', host: 'alpha' });
    assert.equal(facts.bytes, SIZES.sealed);
  });

  test('f20: deleteImage refuses while an instance needs it', async () => {
    const { pool } = harness;
    pool.common.imageHosts = ['alpha', 'beta'];
    pool.common.calls.length = 0;
    pool.imageUsers = ['one'];
    assert.equal((await typesOf(harness.run('deleteImage', { imageId: IMAGE.id })))[0], 'InUse');
    assert.equal(pool.common.count('alpha.deleteImage'), 0);
    pool.imageUsers = [];
    await harness.run('deleteImage', { imageId: IMAGE.id });
    assert.equal(pool.common.count('alpha.deleteImage'), 1);
    assert.equal(pool.common.count('control.forgetImage'), 2);
  });

  test('addImage keeps the file and tells the catalog; an unknown host is refused by name', async () => {
    const image = await harness.run('addImage', { host: 'alpha', path: '/srv/debian.qcow2', name: 'debian' });
    assert.equal(image.name, 'debian');
    const recorded = harness.pool.common.inputs.findLast(({ call }) => call === 'control.recordImage');
    assert.deepEqual(recorded?.input, { image, host: 'alpha' });
    const unknown = harness.run('addImage', { host: 'nowhere', path: '/srv/debian.qcow2' });
    assert.equal((await typesOf(unknown))[0], 'HostNotFound');
  });

  test('addNode lets the host check its record before the catalog hears of it', async () => {
    const { common } = harness.pool;
    common.calls.length = 0;
    const host = await harness.run('addNode', { host: 'beta', record: recordOf('beta') });
    assert.equal(host.id, 'beta');
    assert.deepEqual(
      common.calls.filter((call) => call !== 'absent.describeHost'),
      ['beta.describeHost', 'beta.keepRecord', 'control.recordHost'],
    );
    const foreign = harness.run('addNode', { host: 'beta', record: recordOf('gamma') });
    assert.equal((await typesOf(foreign))[0], 'HostNotCertified');
    assert.equal(common.count('control.recordHost'), 1);
  });

  test('a host whose worker is absent is named', async () => {
    const chain = await toAbsentHost;
    assert.match(chain[0] ?? '', /^HostUnreachable: The worker of host absent is absent/);
  });
});

test('all of this would have gone the same way after a crash of the control worker', { skip }, async () => {
  assert.deepEqual(await harness.replayAll(), []);
});
