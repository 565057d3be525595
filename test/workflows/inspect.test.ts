/** The workflows that look at the whole pool, on a real server, with pretended hosts and a pretended comparison. */
import assert from 'node:assert/strict';
import { after, afterEach, before, describe, test } from 'node:test';
import { workflowId, type InspectInput, type Inspected } from '../../workflows/contract.ts';
import { finding, type Finding, type InstanceReport, type Repair } from '../../workflows/findings.ts';
import type { Scenario } from '../fakes/scenario.ts';
import { instanceReport } from '../support/instance-report.ts';
import { temporalMissing } from '../support/temporal.ts';
import { failureOf, Harness } from './harness.ts';

const skip = await temporalMissing();

describe('looking at the whole pool', { skip }, () => {
  let harness: Harness;
  before(async () => {
    harness = await Harness.start(['alpha', 'beta', 'gamma']);
  });
  after(() => harness.stop());
  afterEach(async () => {
    const { pool } = harness;
    pool.reports.clear();
    pool.common.calls.length = 0;
    pool.hosts = ['alpha', 'beta', 'gamma'];
    pool.compared = ({ reports }) => reports.flatMap(({ findings }) => findings);
    assert.deepEqual(await harness.replayAll(), []);
  });

  const inspect = (input: InspectInput = { mend: false }): Promise<Inspected> => harness.run('inspect', input);
  const account = ({ instanceId }: Scenario, rest: Partial<InstanceReport>): InstanceReport =>
    instanceReport(instanceId, rest);
  const found = (scenario: Scenario, repair: Repair, rest: Partial<Finding> = {}): Finding =>
    finding('catalogBehind', {
      ...{ host: 'alpha', subject: 'web', instanceId: scenario.instanceId, found: 'this', expected: 'that', repair },
      ...rest,
    });
  const follow = ({ instanceId }: Scenario): Repair => ({
    ...{ kind: 'followOwner', instanceId, host: 'beta', generation: 2, savedAs: null },
  });

  test('asks every host, and tells what each finds and what the comparison finds', async () => {
    const one = finding('strangeDhcpEntry', { host: 'beta', subject: 'entry', found: 'this', expected: 'that' });
    harness.pool.reports.set('beta', { findings: [one] });
    const { findings } = await inspect();
    assert.deepEqual(findings, [one]);
    for (const host of ['alpha', 'beta', 'gamma'] as const)
      assert.equal(harness.pool.common.count(`${host}.inspectHost`), 1);
    assert.deepEqual(harness.pool.common.inputOf('beta', 'inspectHost'), { instanceId: null, mend: false });
  });

  test('does not wait for a host that is known to be absent', async () => {
    harness.pool.hosts = ['alpha', 'delta'];
    let silent: unknown;
    harness.pool.compared = (input) => {
      silent = input.silent;
      return [];
    };
    await inspect({ mend: false, absent: ['delta'] });
    assert.deepEqual(silent, [{ host: 'delta', why: 'its worker has not called in the last minutes' }]);
    assert.equal(harness.pool.common.count('alpha.inspectHost'), 1);
  });

  test('mends under the id of the instance, after another look', async () => {
    const scenario = harness.pool.scenario();
    const looks: (string | undefined)[] = [];
    harness.pool.compared = (input) => {
      looks.push(input.instanceId);
      // Followed once, it is no longer behind.
      return scenario.recorded.host === 'beta' ? [] : [found(scenario, follow(scenario))];
    };
    const { findings } = await inspect({ mend: true });
    assert.deepEqual(looks, [undefined, scenario.instanceId, scenario.instanceId]);
    assert.deepEqual(scenario.recorded, { host: 'beta', generation: 2, state: 'running' });
    assert.deepEqual(
      findings.map(({ type, mended }) => [type, mended]),
      [['catalogBehind', true]],
    );
  });

  test('touches nothing without being asked', async () => {
    const scenario = harness.pool.scenario();
    harness.pool.compared = () => [found(scenario, follow(scenario))];
    const { findings } = await inspect({ mend: false });
    assert.equal(findings[0]?.mended, undefined);
    assert.deepEqual(scenario.calls, []);
  });

  test('leaves an instance alone that another workflow holds', async () => {
    const scenario = harness.pool.scenario();
    const held = scenario.hold('alpha.saveInstance');
    const move = await harness.move(scenario);
    await held.entered;
    harness.pool.compared = () => [found(scenario, follow(scenario))];
    const { findings } = await inspect({ mend: true });
    assert.deepEqual(
      findings.map(({ mended, mendFailure }) => [mended, mendFailure]),
      [[false, 'it is being worked on now']],
    );
    assert.equal(scenario.count('control.followOwner'), 0);
    held.goOn();
    await move.result();
    assert.deepEqual(scenario.violations, []);
  });

  test('what a second look does not find again is not done', async () => {
    const scenario = harness.pool.scenario();
    harness.pool.compared = ({ instanceId }) => (instanceId === undefined ? [found(scenario, follow(scenario))] : []);
    const { findings } = await inspect({ mend: true });
    assert.equal(scenario.count('control.followOwner'), 0);
    assert.equal(findings[0]?.mended, undefined);
  });

  test('removes what a move left by the step that the move would have ended with', async () => {
    for (const [as, call, outcome] of [
      ['gone', 'settleMove', 'moved'],
      ['kept', 'settleMove', 'returned'],
      ['copy', 'discardCopy', undefined],
    ] as const) {
      const scenario = harness.pool.scenario();
      scenario.owner = 'gamma';
      scenario.runningOn = 'gamma';
      const move = { moveId: 'm', instanceId: scenario.instanceId, packageId: 'p', generation: 2 };
      const repair: Repair = { kind: 'clearUp', host: 'beta', move, as };
      const left = found(scenario, repair, { type: 'moveFolderLeft', host: 'beta', path: 'moves/m', moveId: 'm' });
      let given: Finding[] = [];
      harness.pool.compared = ({ instanceId, reports }) => {
        if (instanceId !== undefined) given = reports.flatMap(({ findings }) => findings);
        return [left];
      };
      const { findings } = await inspect({ mend: true });
      assert.equal(findings[0]?.mended, true);
      // What the first look found on the disk is judged again by the second.
      assert.deepEqual(given, [left]);
      assert.equal(scenario.count(`beta.${call}`), 1);
      const input = scenario.inputOf('beta', call) as { outcome?: string };
      assert.equal(input.outcome, outcome);
    }
  });

  test('a mend that fails is told, and the next one is tried', async () => {
    const [one, two] = [harness.pool.scenario(), harness.pool.scenario()];
    one.fail('control.followOwner', 'StaleGeneration');
    harness.pool.compared = ({ instanceId }) =>
      [one, two]
        .filter((scenario) => instanceId === undefined || scenario.instanceId === instanceId)
        .filter(({ recorded }) => recorded.host !== 'beta')
        .map((scenario) => found(scenario, follow(scenario)));
    const { findings } = await inspect({ mend: true });
    assert.deepEqual(
      findings.map(({ instanceId, mended }) => [instanceId, mended]),
      [
        [one.instanceId, false],
        [two.instanceId, true],
      ],
    );
    assert.match(findings[0]?.mendFailure ?? '', /followOwner was told to fail/);
  });

  describe('start', () => {
    const start = (scenario: Scenario): Promise<unknown> =>
      harness.begin('start', workflowId.instance(scenario.instanceId), scenario).then((handle) => handle.result());

    test('tells the owner, and the catalog follows', async () => {
      const scenario = harness.pool.scenario();
      scenario.runningOn = null;
      scenario.owner = 'beta';
      scenario.generation = 2;
      harness.pool.reports.set('beta', {
        instances: [account(scenario, { state: 'shut off', owned: { generation: 2, by: 'release' } })],
      });
      assert.deepEqual(await start(scenario), {
        ...{ instanceId: scenario.instanceId, host: 'beta' },
        generation: 2,
        how: 'booted',
      });
      assert.equal(scenario.runningOn, 'beta');
      assert.deepEqual(scenario.recorded, { host: 'beta', generation: 2, state: 'running' });
      assert.deepEqual(scenario.violations, []);
    });

    test('hands the release to a new owner who never heard of it', async () => {
      const scenario = harness.pool.scenario();
      Object.assign(scenario, { runningOn: null, owner: null, releasedTo: 'beta', packageId: 'p-1' });
      const reserved = { generation: 2, moveId: 'm-7' };
      harness.pool.reports.set('alpha', {
        instances: [account(scenario, { decided: { generation: 1, kind: 'release', to: 'beta' } })],
      });
      harness.pool.reports.set('beta', { instances: [account(scenario, { state: 'paused', reserved })] });
      assert.deepEqual(await start(scenario), {
        ...{ instanceId: scenario.instanceId, host: 'beta', generation: 2, how: 'restored' },
      });
      const { moveId, generation, packageId } = scenario.inputOf('beta', 'resumeInstance');
      assert.deepEqual([moveId, generation, packageId], ['m-7', 2, 'p-1']);
      assert.deepEqual(scenario.violations, []);
      assert.equal(scenario.count('alpha.settleMove'), 1);
    });

    test('starts it nowhere while it is not clear who may run it', async () => {
      const owned = (generation: number): InstanceReport['owned'] => ({ generation, by: 'release' });
      const scenario = harness.pool.scenario();
      const refusal = async (): Promise<string> => (await failureOf(start(scenario)))[0] ?? '';

      assert.match(await refusal(), /^OwnershipUnclear: .*no host owns it/);

      harness.pool.reports.set('alpha', { instances: [account(scenario, { owned: owned(1) })] });
      harness.pool.reports.set('beta', { instances: [account(scenario, { owned: owned(2) })] });
      assert.match(await refusal(), /^OwnershipUnclear: .*alpha says that it owns generation 1, beta says/);

      harness.pool.reports.delete('beta');
      scenario.recorded = { host: 'gamma', generation: 5, state: 'running' };
      assert.match(await refusal(), /^OwnershipUnclear: .*gamma was seen to own generation 5/);

      harness.pool.reports.set('alpha', { busy: [scenario.instanceId] });
      assert.match(await refusal(), /^InstanceBusy: /);
      assert.equal(
        scenario.calls.some((call) => call.endsWith('startInstance')),
        false,
      );
    });
  });
});
