/** The hosts' accounts against a real catalog: what it is asked, what is explained by what runs, how it follows the owner. */
import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { describe, test } from 'node:test';
import { workflowId, type ControlActivities, type HostId, type InstanceId } from '../../workflows/contract.ts';
import { finding, type HostReport, type InstanceReport } from '../../workflows/findings.ts';
import {
  addInstance,
  catalogForEachTest,
  imageOf,
  openMove,
  saveInstance,
  sealed,
  spawnInput,
} from '../support/catalog.ts';
import type { TestCatalog } from '../support/catalog.ts';
import { instanceReport } from '../support/instance-report.ts';
import { postgresMissing } from '../support/postgres.ts';
import { refused } from '../support/refusals.ts';

await describe('an inspection in the catalog', { skip: await postgresMissing() }, () => {
  let catalog: TestCatalog;
  let control: ControlActivities;
  catalogForEachTest(['alpha', 'beta'], (fresh) => {
    catalog = fresh;
    control = fresh.activities;
  });

  const runs = (instanceId: InstanceId, generation: number): InstanceReport =>
    instanceReport(instanceId, { state: 'running', owned: { generation, by: 'release' } });
  const report = (host: HostId, rest: Partial<HostReport>): HostReport => ({
    ...{ host, instances: [], busy: [], others: [], packages: [], findings: [] },
    images: host === 'alpha' ? [imageOf('1').id] : [],
    ...rest,
  });
  const compared = async (alpha: Partial<HostReport>, beta: Partial<HostReport> = {}): Promise<string[]> => {
    const { at } = await control.beginInspection();
    const reports = [report('alpha', alpha), report('beta', beta)];
    const found = await control.compareWithCatalog({ at, reports, silent: [] });
    return found.map(({ type, host }) => `${type} ${host}`);
  };
  const row = async (id: InstanceId): Promise<unknown[]> => {
    const text = 'SELECT state, host_id, generation, open_move, package_id FROM instances WHERE id = $1';
    return (await catalog.sql.query<unknown[]>({ text, values: [id], rowMode: 'array' })).rows[0] ?? [];
  };
  const outcome = async (moveId: string): Promise<unknown[]> => {
    const text = 'SELECT outcome, owner_id FROM moves WHERE id = $1';
    return (await catalog.sql.query<unknown[]>({ text, values: [moveId], rowMode: 'array' })).rows[0] ?? [];
  };

  test('begins with all hosts of the pool', async () => {
    const { hosts, at } = await control.beginInspection();
    assert.deepEqual(
      hosts.map(({ id }) => id),
      ['alpha', 'beta'],
    );
    assert.ok(Math.abs(Date.parse(at) - Date.now()) < 60_000);
  });

  test('finds nothing where all agree', async () => {
    const id = await addInstance(catalog, 'web', 'alpha');
    const packageId = await saveInstance(catalog, await addInstance(catalog, 'saved', 'alpha'), 'alpha');
    const saved = (await catalog.sql.query<{ id: string }>(`SELECT id FROM instances WHERE name = 'saved'`)).rows[0]!
      .id;
    const stopped = { moveId: 'm', packageId, saved: true };
    assert.deepEqual(
      await compared({
        instances: [
          runs(id, 1),
          instanceReport(saved, { state: 'shut off', owned: { generation: 1, by: 'spawn' }, stopped }),
        ],
        packages: [packageId],
      }),
      [],
    );
  });

  test('a move under way explains what differs, until its workflow is gone', async () => {
    const id = await addInstance(catalog, 'web', 'alpha');
    const { moveId } = await openMove(catalog, id, 'beta');
    const gave = instanceReport(id, { decided: { generation: 1, kind: 'release', to: 'beta' } });
    const folder = finding('moveFolderLeft', {
      ...{ host: 'alpha', subject: 'folder', path: 'moves/x', found: 'this', expected: 'that', moveId, mend: null },
    });
    const look = (): Promise<string[]> =>
      compared({ instances: [gave], findings: [folder] }, { instances: [runs(id, 2)] });
    catalog.running.add(workflowId.instance(id));
    assert.deepEqual(await look(), []);
    catalog.running.clear();
    assert.deepEqual(await look(), ['moveWithoutWorkflow beta', 'moveFolderLeft alpha']);
  });

  test('what changed while the hosts were asked is not judged', async () => {
    const { at } = await control.beginInspection();
    const id = await addInstance(catalog, 'web', 'alpha');
    const reports = [report('alpha', {}), report('beta', {})];
    assert.deepEqual(await control.compareWithCatalog({ at, reports, silent: [] }), []);
    assert.deepEqual(await compared({}), [`noOwner alpha`]);
    assert.deepEqual(await compared({ instances: [runs(id, 1)] }), []);
  });

  test('packages and images are compared with what the hosts hold', async () => {
    const id = await addInstance(catalog, 'web', 'alpha');
    const kept = randomUUID();
    await control.recordPackage(sealed(kept, id, 'alpha'));
    assert.deepEqual(await compared({ instances: [runs(id, 1)], images: [] }), [
      'packageMissing alpha',
      'imageMissing alpha',
    ]);
    catalog.running.add(workflowId.package(kept));
    assert.deepEqual(await compared({ instances: [runs(id, 1)] }), []);
  });

  test('it follows the owner after a lost move, and the move ends as the hosts say', async () => {
    const id = await addInstance(catalog, 'web', 'alpha');
    const { moveId } = await openMove(catalog, id, 'beta');
    const input = { instanceId: id, host: 'beta', generation: 2, savedAs: null };
    await refused('InstanceBusy', control.followOwner(input));
    await catalog.holder(id).followOwner(input);
    assert.deepEqual(await row(id), ['running', 'beta', 2, null, null]);
    assert.deepEqual(await outcome(moveId), ['moved', 'beta']);
    await catalog.holder(id).followOwner(input);
    // Where the instance is its base image is.
    assert.deepEqual(
      (await control.findImage({ imageId: imageOf('1').id })).hosts.map(({ id: host }) => host),
      ['alpha', 'beta'],
    );
  });

  test('a lost move that came back, and one that never began, end as such', async () => {
    const id = await addInstance(catalog, 'web', 'alpha');
    const back = await openMove(catalog, id, 'beta');
    await catalog.holder(id).followOwner({ instanceId: id, host: 'alpha', generation: 2, savedAs: null });
    assert.deepEqual(await row(id), ['running', 'alpha', 2, null, null]);
    assert.deepEqual(await outcome(back.moveId), ['returned', 'alpha']);
    const idle = await openMove(catalog, id, 'beta', { ownedGeneration: 2 });
    await catalog.holder(id).followOwner({ instanceId: id, host: 'alpha', generation: 2, savedAs: null });
    assert.deepEqual(await outcome(idle.moveId), ['failed', 'alpha']);
    // A new move begins as if nothing had been.
    await openMove(catalog, id, 'beta', { ownedGeneration: 2 });
  });

  test('a save whose workflow was lost after it was sealed leaves a saved instance', async () => {
    const id = await addInstance(catalog, 'web', 'alpha');
    const { moveId, packageId } = await openMove(catalog, id, 'alpha', { kind: 'save' });
    await refused(
      'PackageNotFound',
      catalog.holder(id).followOwner({ instanceId: id, host: 'alpha', generation: 1, savedAs: packageId }),
    );
    await control.recordPackage(sealed(packageId, id, 'alpha'));
    await catalog.holder(id).followOwner({ instanceId: id, host: 'alpha', generation: 1, savedAs: packageId });
    assert.deepEqual(await row(id), ['saved', 'alpha', 1, null, packageId]);
    assert.deepEqual(await outcome(moveId), ['saved', 'alpha']);
    await catalog.holder(id).followOwner({ instanceId: id, host: 'alpha', generation: 2, savedAs: null });
    assert.deepEqual(await row(id), ['running', 'alpha', 2, null, null]);
  });

  test('old news change nothing, and one generation has one owner', async () => {
    const id = await addInstance(catalog, 'web', 'alpha');
    await catalog.holder(id).followOwner({ instanceId: id, host: 'beta', generation: 3, savedAs: null });
    await catalog.holder(id).followOwner({ instanceId: id, host: 'alpha', generation: 2, savedAs: null });
    assert.deepEqual(await row(id), ['running', 'beta', 3, null, null]);
    const other = { instanceId: id, host: 'alpha', generation: 3, savedAs: null };
    await refused('StaleGeneration', catalog.holder(id).followOwner(other));
  });

  test('a spawn that was lost after the boot is followed too', async () => {
    const input = spawnInput('web', 'alpha');
    await control.reserveInstance(input);
    const { instanceId } = input;
    assert.deepEqual(await compared({ instances: [runs(instanceId, 1)] }), ['catalogBehind alpha']);
    assert.deepEqual(await compared({}), ['neverSpawned alpha']);
    catalog.running.add(workflowId.spawn(instanceId));
    assert.deepEqual(await compared({}), []);
    await catalog.holder(instanceId).followOwner({ instanceId, host: 'alpha', generation: 1, savedAs: null });
    assert.deepEqual(await row(instanceId), ['running', 'alpha', 1, null, null]);
  });
});
