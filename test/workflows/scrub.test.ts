import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { after, before, describe, test } from 'node:test';
import { CONTROL_QUEUE, type Scrubbed, type ScrubHostInput } from '../../workflows/contract.ts';
import type { scrub, scrubHost } from '../../workflows/scrub.ts';
import { recordOf, SIZES } from '../fakes/host-activities.ts';
import type { Scenario } from '../fakes/scenario.ts';
import { temporalMissing } from '../support/temporal.ts';
import { failureOf, Harness } from './harness.ts';

const skip = await temporalMissing();

describe('packages are verified where they lie', { skip }, () => {
  let harness: Harness;
  before(async () => {
    harness = await Harness.start(['alpha', 'beta']);
    harness.pool.hosts = ['alpha', 'beta'];
  });
  after(() => harness.stop());

  /** An instance with a package on these hosts. */
  function kept(...hosts: string[]): Scenario {
    const scenario = harness.pool.scenario();
    scenario.packageId = randomUUID();
    for (const host of hosts) scenario.packageHosts.add(host);
    return scenario;
  }
  const forget = (...scenarios: Scenario[]): void => scenarios.forEach(({ packageHosts }) => packageHosts.clear());
  const run = (): Promise<Scrubbed> =>
    harness.client.workflow.execute<typeof scrub>('scrub', {
      taskQueue: CONTROL_QUEUE,
      workflowId: `scrub-${randomUUID()}`,
      workflowExecutionTimeout: '60s',
    });

  test('a scrub reads each package on each host once, goes on after damage, and tells the catalog', async () => {
    const [whole, damaged] = [kept('alpha', 'beta'), kept('alpha')];
    damaged.fail('alpha.verifyPackage', 'SegmentDamaged');
    const { hosts } = await run();
    assert.deepEqual(hosts, [
      { host: 'alpha', verified: 2, damaged: 1, silent: null },
      { host: 'beta', verified: 1, damaged: 0, silent: null },
    ]);
    assert.equal(damaged.count('alpha.verifyPackage'), 1, 'what is damaged is not read again');
    assert.deepEqual(damaged.verified.get('alpha')?.damage, {
      type: 'SegmentDamaged',
      message: 'alpha.verifyPackage was told to fail',
    });
    assert.deepEqual(whole.verified.get('beta')?.damage, null);
    assert.deepEqual(whole.inputOf('beta', 'verifyPackage'), { packageId: whole.packageId, gently: true });
    forget(whole, damaged);
  });

  test('a scrub tells of a host that is down, and does its work on the others', async () => {
    const scenario = kept('alpha', 'beta');
    await harness.stopHost('beta');
    const { hosts } = await run();
    assert.deepEqual(hosts[0], { host: 'alpha', verified: 1, damaged: 0, silent: null });
    assert.deepEqual([hosts[1]?.host, hosts[1]?.verified], ['beta', 0]);
    assert.match(hosts[1]?.silent ?? '', /worker of host beta is absent/);
    assert.equal(scenario.verified.has('beta'), false, 'silence is no damage');
    await harness.startHost('beta');
    forget(scenario);
  });

  test('a scrub of many packages goes on as new before its history grows long', async () => {
    const scenarios = Array.from({ length: 103 }, () => kept('alpha'));
    const handle = await harness.client.workflow.start<typeof scrubHost>('scrubHost', {
      taskQueue: CONTROL_QUEUE,
      workflowId: `scrub-${randomUUID()}`,
      args: [{ host: 'alpha', before: '2026-11-24T12:00:00.000Z', verified: 0, damaged: 0 } satisfies ScrubHostInput],
      workflowExecutionTimeout: '120s',
    });
    assert.deepEqual(await handle.result(), { host: 'alpha', verified: 103, damaged: 0, silent: null });
    const last = await harness.client.workflow.getHandle(handle.workflowId).describe();
    assert.notEqual(last.runId, handle.firstExecutionRunId);
    const first = await harness.client.workflow.getHandle(handle.workflowId, handle.firstExecutionRunId).describe();
    assert.equal(first.status.name, 'CONTINUED_AS_NEW');
    assert.ok(first.historyLength < 4000, String(first.historyLength));
    forget(...scenarios);
  });

  test('a host is scrubbed once at a time', async () => {
    const scenario = kept('alpha');
    const held = scenario.hold('alpha.verifyPackage');
    const first = run();
    await held.entered;
    const { hosts } = await run();
    assert.match(hosts[0]?.silent ?? '', /another scrub is at work/);
    held.goOn();
    assert.equal((await first).hosts[0]?.verified, 1);
    forget(scenario);
  });

  test('verifyPackage tells the catalog what it found, whole or damaged', async () => {
    const scenario = kept('alpha');
    const packageId = scenario.packageId ?? '';
    const facts = await harness.run('verifyPackage', { packageId, host: 'alpha' });
    assert.equal(facts.bytes, SIZES.sealed);
    assert.equal(scenario.verified.get('alpha')?.damage, null);
    scenario.fail('alpha.verifyPackage', 'ForbiddenMember');
    const handle = await harness.begin('verifyPackage', `verify:${randomUUID()}`, { packageId, host: 'alpha' });
    const [failed] = await failureOf(handle.result());
    assert.match(failed ?? '', /^ForbiddenMember: /);
    assert.equal(scenario.verified.get('alpha')?.damage?.type, 'ForbiddenMember');
    forget(scenario);
  });

  const pull = (scenario: Scenario): Promise<unknown> =>
    harness.run('pull', { kind: 'package', id: scenario.packageId ?? '', destination: 'beta' });

  test('pull looks at the copy that is there, and fetches nothing if it is whole', async () => {
    const scenario = kept('alpha', 'beta');
    assert.deepEqual(await pull(scenario), { id: scenario.packageId, destination: 'beta', bytes: SIZES.sealed });
    assert.equal(scenario.count('beta.verifyPackage'), 1);
    assert.equal(scenario.count('beta.pullPackage'), 0);
    assert.equal(scenario.verified.get('beta')?.damage, null);
    forget(scenario);
  });

  for (const type of ['SegmentDamaged', 'PackageNotFound'] as const) {
    test(`pull repairs a copy that is found to be ${type}, from whole copies first`, async () => {
      const scenario = kept('alpha', 'beta', 'gamma').fail('beta.verifyPackage', type, { times: 1 });
      const damage = { type: 'SegmentDamaged', message: 'segment 0 is missing' } as const;
      scenario.verified.set('alpha', { at: '2026-11-24T12:00:00.000Z', damage });
      await harness.startHost('gamma');
      await pull(scenario);
      await harness.stopHost('gamma');
      assert.equal(scenario.count('alpha.readdressPackage'), 0);
      const { instanceId, packageId } = scenario;
      assert.deepEqual(scenario.inputOf('beta', 'pullPackage'), {
        ...{ packageId, instanceId, generation: 2 },
        source: recordOf('gamma'),
      });
      const recorded = scenario.inputs.filter(({ call }) => call === 'control.recordVerification');
      assert.deepEqual(
        recorded.map(({ input }) => (input as { damage: { type: string } | null }).damage?.type ?? 'whole'),
        [type, 'whole'],
      );
      forget(scenario);
    });
  }

  test('pull says what is wrong with the only copy there is', async () => {
    const scenario = kept('beta').fail('beta.verifyPackage', 'SegmentDamaged');
    const handle = await harness.begin('pull', `pull:${randomUUID()}`, {
      ...{ kind: 'package', id: scenario.packageId ?? '', destination: 'beta' },
    });
    assert.match((await failureOf(handle.result()))[0] ?? '', /^SegmentDamaged: .*; no other host holds package /);
    assert.equal(scenario.verified.get('beta')?.damage?.type, 'SegmentDamaged');
    forget(scenario);
  });
});
