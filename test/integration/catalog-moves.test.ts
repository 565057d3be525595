import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { beforeEach, describe, test } from 'node:test';
import type { ControlActivities, HostId, InstanceId } from '../../workflows/contract.ts';
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
import { postgresMissing } from '../support/postgres.ts';

await describe('moves in the catalog', { skip: await postgresMissing() }, () => {
  let catalog: TestCatalog;
  let control: ControlActivities;
  catalogForEachTest(['alpha', 'beta', 'gamma'], (fresh) => {
    catalog = fresh;
    control = fresh.activities;
  });

  const stateOf = async (instanceId: InstanceId): Promise<[string, HostId, number]> => {
    const { instance } = await control.findInstance({ instanceId });
    return [instance.state, instance.host, instance.generation];
  };
  const rows = async (text: string): Promise<unknown[]> => (await catalog.sql.query<object>(text)).rows;
  describe('plans', () => {
    test('a migration is planned with all that the steps need', async () => {
      const instanceId = await addInstance(catalog, 'web', 'alpha');
      const plan = await control.planMove({ kind: 'migrate', instanceId, destination: 'beta' });
      assert.deepEqual(plan.instance, {
        id: instanceId,
        name: 'web',
        host: 'alpha',
        generation: 1,
        state: 'running',
        imageId: imageOf('1').id,
        address: { ip: '10.77.0.2', mac: '52:54:00:4d:00:02' },
      });
      assert.deepEqual([plan.source.id, plan.destination.id, plan.image.id], ['alpha', 'beta', imageOf('1').id]);
      assert.deepEqual(
        plan.imageHosts.map(({ id }) => id),
        ['alpha'],
      );
      assert.equal(plan.packageId, null);
    });

    test('a save stays where it is, and a restore names its package', async () => {
      const instanceId = await addInstance(catalog, 'web', 'alpha');
      assert.equal((await control.planMove({ kind: 'save', instanceId, destination: null })).destination.id, 'alpha');
      const packageId = await saveInstance(catalog, instanceId, 'alpha');
      const home = await control.planMove({ kind: 'restore', instanceId, destination: null });
      assert.deepEqual([home.destination.id, home.packageId], ['alpha', packageId]);
      const away = await control.planMove({ kind: 'restore', instanceId, destination: 'beta' });
      assert.deepEqual([away.destination.id, away.packageId], ['beta', packageId]);
    });

    test('what cannot be is refused by name', async () => {
      const running = await addInstance(catalog, 'web', 'alpha');
      const saved = await addInstance(catalog, 'db', 'alpha');
      await saveInstance(catalog, saved, 'alpha');
      const spawning = spawnInput('new', 'alpha');
      await control.reserveInstance(spawning);
      const plan = (kind: 'migrate' | 'save' | 'restore', instanceId: InstanceId, destination: HostId | null) =>
        control.planMove({ kind, instanceId, destination });
      const unknown = randomUUID();
      await assert.rejects(plan('migrate', unknown, 'beta'), {
        type: 'InstanceNotFound',
        message: `there is no instance ${unknown}`,
      });
      await assert.rejects(plan('migrate', running, 'omega'), { type: 'HostNotFound', message: /omega/ });
      await assert.rejects(plan('migrate', running, 'alpha'), {
        type: 'SameHost',
        message: 'instance web is on alpha already',
      });
      await assert.rejects(plan('migrate', saved, 'beta'), {
        type: 'InstanceNotRunning',
        message: /db is saved on alpha.*instances restore db HOST/,
      });
      await assert.rejects(plan('save', saved, null), { type: 'InstanceNotRunning' });
      await assert.rejects(plan('save', running, 'beta'), { type: 'InvalidInput' });
      await assert.rejects(plan('restore', running, null), { type: 'InstanceRunning', message: /web runs on alpha/ });
      await assert.rejects(plan('migrate', spawning.instanceId, 'beta'), {
        type: 'InstanceNotRunning',
        message: /still being started/,
      });
    });

    test('an instance that is being moved is busy', async () => {
      const instanceId = await addInstance(catalog, 'web', 'alpha');
      const { moveId } = await openMove(catalog, instanceId, 'beta');
      await assert.rejects(control.planMove({ kind: 'save', instanceId, destination: null }), {
        type: 'InstanceBusy',
        message: `instance web is being moved by move ${moveId}`,
      });
    });
  });

  describe('moves', () => {
    let instanceId: InstanceId;
    let holder: ControlActivities;
    beforeEach(async () => {
      instanceId = await addInstance(catalog, 'web', 'alpha');
      holder = catalog.holder(instanceId);
    });
    const moveRow = async (id: string): Promise<Record<string, unknown>> =>
      (await catalog.sql.query<Record<string, unknown>>('SELECT * FROM moves WHERE id = $1', [id])).rows[0] ?? {};

    test('a move goes through the catalog, and each word may be said twice', async () => {
      const moveId = randomUUID();
      const packageId = randomUUID();
      const twice = async <T>(say: () => Promise<T>): Promise<T> => {
        const first = await say();
        assert.deepEqual(await say(), first);
        return first;
      };
      const reserve = {
        moveId,
        kind: 'migrate',
        instanceId,
        packageId,
        destination: 'beta',
        ownedGeneration: 1,
      } as const;
      const reserved = await twice(() => holder.reserveMove(reserve));
      assert.deepEqual(reserved, { generation: 2, address: { ip: '10.77.0.2', mac: '52:54:00:4d:00:02' } });
      assert.deepEqual(await stateOf(instanceId), ['moving', 'alpha', 1]);

      await twice(() => control.recordMove({ moveId, phase: 'blackout', step: 'saveInstance' }));
      assert.deepEqual(
        [(await moveRow(moveId))['phase'], (await moveRow(moveId))['step']],
        ['blackout', 'saveInstance'],
      );
      await twice(() => control.recordPackage(sealed(packageId, instanceId, 'alpha')));
      assert.equal((await control.findPackage({ packageId })).needed, true);
      await assert.rejects(control.forgetPackage({ packageId, host: 'alpha' }), { type: 'InUse', message: /web/ });
      const failure = { type: 'LibvirtFailed', message: 'no memory' } as const;
      await twice(() => control.recordMove({ moveId, phase: 'parked', step: null, failure }));
      assert.deepEqual(
        [(await moveRow(moveId))['step'], (await moveRow(moveId))['failure_type']],
        ['saveInstance', 'LibvirtFailed'],
      );
      await twice(() => control.recordMove({ moveId, phase: 'blackout', step: 'restoreInstance' }));
      assert.equal((await moveRow(moveId))['failure_type'], null);
      await twice(() => control.recordPackage(sealed(packageId, instanceId, 'beta')));

      const result = { stepSeconds: { saveInstance: 0.6 }, blackoutSeconds: 6.5, packageBytes: 40, wireBytes: 41 };
      await twice(() => control.closeMove({ moveId, outcome: 'moved', owner: 'beta', generation: 2, result }));
      assert.deepEqual(await stateOf(instanceId), ['running', 'beta', 2]);
      const ended = await moveRow(moveId);
      assert.deepEqual(
        [ended['outcome'], ended['owner_id'], ended['phase'], ended['result']],
        ['moved', 'beta', null, result],
      );
      const { at, ...found } = await control.findPackage({ packageId });
      assert.ok(Math.abs(Date.parse(at) - Date.now()) < 60_000, at);
      assert.deepEqual(
        { ...found, hosts: found.hosts.map(({ id }) => id) },
        {
          packageId,
          instanceId,
          generation: 2,
          bytes: 40_000_000,
          sealedAt: sealed(packageId, instanceId, 'alpha').sealedAt,
          needed: false,
          damaged: [],
          hosts: ['alpha', 'beta'],
        },
      );

      // The repetitions of a worker that was away.
      assert.deepEqual(await holder.reserveMove(reserve), reserved);
      await control.recordMove({ moveId, phase: 'blackout', step: 'saveInstance' });
      assert.deepEqual(await moveRow(moveId), ended);
      assert.deepEqual(await stateOf(instanceId), ['running', 'beta', 2]);
    });

    test('a move is reserved once, however many ask at once', async () => {
      const ask = { kind: 'migrate', instanceId, destination: 'beta', ownedGeneration: 1 } as const;
      const [one, two] = [randomUUID(), randomUUID()];
      const answers = await Promise.allSettled(
        Array.from({ length: 20 }, (_, i) =>
          control.reserveMove({ ...ask, moveId: i % 2 ? one : two, packageId: i % 2 ? one : two }),
        ),
      );
      assert.equal(answers.filter(({ status }) => status === 'fulfilled').length, 10);
      for (const answer of answers) {
        if (answer.status === 'rejected') assert.equal((answer.reason as { type: string }).type, 'InstanceBusy');
      }
      assert.equal((await rows('SELECT * FROM moves')).length, 1);
    });

    test('the generation follows what the owner says, forward only', async () => {
      const { moveId } = await openMove(catalog, instanceId, 'beta', { ownedGeneration: 5 });
      assert.deepEqual(await stateOf(instanceId), ['moving', 'alpha', 5]);
      await control.closeMove({ moveId, outcome: 'returned', owner: 'alpha', generation: 6 });
      assert.deepEqual(await stateOf(instanceId), ['running', 'alpha', 6]);
      await assert.rejects(openMove(catalog, instanceId, 'beta', { ownedGeneration: 5 }), {
        type: 'StaleGeneration',
        message: /alpha says that it owns generation 5 of instance web, but generation 6 was seen/,
      });
    });

    test('no end of a move gives the instance to two hosts, or lowers its generation', async () => {
      const { moveId } = await openMove(catalog, instanceId, 'beta', { ownedGeneration: 3 });
      const close = (owner: HostId, generation: number, outcome: 'moved' | 'failed') =>
        control.closeMove({ moveId, outcome, owner, generation });
      await assert.rejects(close('beta', 3, 'moved'), { type: 'StaleGeneration' });
      await assert.rejects(close('gamma', 4, 'moved'), { type: 'InvalidInput', message: /moves_outcome_names_owner/ });
      await close('alpha', 2, 'failed');
      assert.deepEqual(await stateOf(instanceId), ['running', 'alpha', 3]);
    });

    test('the way back: failed and returned leave the instance at its source', async () => {
      const failure = { type: 'IncompatibleHost', message: 'beta has no such CPU' } as const;
      const first = await openMove(catalog, instanceId, 'beta');
      await control.closeMove({ moveId: first.moveId, outcome: 'failed', owner: 'alpha', generation: 1, failure });
      assert.deepEqual(await stateOf(instanceId), ['running', 'alpha', 1]);
      assert.equal((await moveRow(first.moveId))['failure_message'], failure.message);

      const second = await openMove(catalog, instanceId, 'beta');
      await control.recordPackage(sealed(second.packageId, instanceId, 'alpha'));
      await control.closeMove({ moveId: second.moveId, outcome: 'returned', owner: 'alpha', generation: 2, failure });
      assert.deepEqual(await stateOf(instanceId), ['running', 'alpha', 2]);
      await control.forgetPackage({ packageId: second.packageId, host: 'alpha' });
    });

    test('a place that a move never reached is given up', async () => {
      const { moveId } = await openMove(catalog, instanceId, 'beta');
      await control.closeMove({ moveId, outcome: 'failed', owner: 'alpha', generation: 1 });
      assert.deepEqual(await rows('SELECT host_id FROM image_locations'), [{ host_id: 'alpha' }]);
    });

    test('save, restore at home, save again, restore elsewhere', async () => {
      const firstPackage = await saveInstance(catalog, instanceId, 'alpha');
      assert.deepEqual(await stateOf(instanceId), ['saved', 'alpha', 1]);
      await assert.rejects(control.forgetPackage({ packageId: firstPackage, host: 'alpha' }), { type: 'InUse' });

      const restore = async (packageId: string, destination: HostId, ownedGeneration: number): Promise<string> => {
        const moveId = randomUUID();
        await holder.reserveMove({ moveId, kind: 'restore', instanceId, packageId, destination, ownedGeneration });
        return moveId;
      };
      const home = await restore(firstPackage, 'alpha', 1);
      assert.equal((await control.findPackage({ packageId: firstPackage })).needed, true);
      await control.closeMove({ moveId: home, outcome: 'returned', owner: 'alpha', generation: 2 });
      assert.deepEqual(await stateOf(instanceId), ['running', 'alpha', 2]);

      const save = await openMove(catalog, instanceId, 'alpha', { kind: 'save', ownedGeneration: 2 });
      await control.recordPackage(sealed(save.packageId, instanceId, 'alpha', 3));
      await control.closeMove({ moveId: save.moveId, outcome: 'saved', owner: 'alpha', generation: 2 });
      const away = await restore(save.packageId, 'beta', 2);
      await control.recordPackage(sealed(save.packageId, instanceId, 'beta', 3));
      await control.closeMove({ moveId: away, outcome: 'moved', owner: 'beta', generation: 3 });
      assert.deepEqual(await stateOf(instanceId), ['running', 'beta', 3]);
    });

    test('a restore that fails leaves the instance saved in the same package', async () => {
      const packageId = await saveInstance(catalog, instanceId, 'alpha');
      for (const outcome of ['saved', 'failed'] as const) {
        const moveId = randomUUID();
        await holder.reserveMove({
          moveId,
          kind: 'restore',
          instanceId,
          packageId,
          destination: 'beta',
          ownedGeneration: 1,
        });
        await control.closeMove({ moveId, outcome, owner: 'alpha', generation: 1 });
        assert.deepEqual(await stateOf(instanceId), ['saved', 'alpha', 1]);
        assert.equal((await control.findPackage({ packageId })).needed, true);
      }
    });

    test('nothing is restored from a package that its owner does not have, nor saved without one', async () => {
      await saveInstance(catalog, instanceId, 'alpha');
      const ids = { moveId: randomUUID(), packageId: randomUUID() };
      await assert.rejects(
        holder.reserveMove({ ...ids, kind: 'restore', instanceId, destination: 'beta', ownedGeneration: 1 }),
        { type: 'PackageNotFound', message: new RegExp(`${ids.packageId} of instance web is known on alpha`) },
      );
      const db = await addInstance(catalog, 'db', 'alpha');
      const { moveId } = await openMove(catalog, db, 'alpha', { kind: 'save' });
      await assert.rejects(control.closeMove({ moveId, outcome: 'saved', owner: 'alpha', generation: 1 }), {
        type: 'PackageNotFound',
      });
    });

    test('a redirected move goes elsewhere, and needs its image there', async () => {
      const { moveId } = await openMove(catalog, instanceId, 'beta');
      for (let time = 0; time < 2; time++) {
        const { destination } = await control.redirectMove({ moveId, destination: 'gamma' });
        assert.equal(destination.record, (await control.findHost({ host: 'gamma' })).record);
      }
      assert.deepEqual(await rows('SELECT host_id FROM image_locations ORDER BY 1'), [
        { host_id: 'alpha' },
        { host_id: 'gamma' },
      ]);
      await assert.rejects(control.redirectMove({ moveId, destination: 'alpha' }), { type: 'SameHost' });
      await assert.rejects(control.redirectMove({ moveId, destination: 'omega' }), { type: 'HostNotFound' });
      await control.closeMove({ moveId, outcome: 'moved', owner: 'gamma', generation: 2 });
      assert.deepEqual(await stateOf(instanceId), ['running', 'gamma', 2]);
      await assert.rejects(control.redirectMove({ moveId, destination: 'beta' }), {
        type: 'MoveNotFound',
        message: /has ended/,
      });
    });

    test('a move that was never opened is called off without an error, but not said to have moved', async () => {
      const close = (outcome: 'moved' | 'returned' | 'saved' | 'failed') =>
        control.closeMove({ moveId: randomUUID(), outcome, owner: 'alpha', generation: 2 });
      await close('failed');
      await close('saved');
      await assert.rejects(close('moved'), { type: 'MoveNotFound' });
      await assert.rejects(close('returned'), { type: 'MoveNotFound' });
      await assert.rejects(control.recordMove({ moveId: 'none', phase: 'blackout', step: null }), {
        type: 'MoveNotFound',
      });
    });

    test('f12: a move that its workflow left behind does not keep the instance busy for ever', async () => {
      const lost = await openMove(catalog, instanceId, 'beta');
      const request = { kind: 'migrate', instanceId, destination: 'gamma' } as const;
      await assert.rejects(control.planMove(request), { type: 'InstanceBusy' });
      await assert.rejects(catalog.as(`instance:${randomUUID()}`).planMove(request), { type: 'InstanceBusy' });
      assert.equal((await holder.planMove(request)).instance.state, 'moving');
      const next = await openMove(catalog, instanceId, 'gamma');
      const { outcome, owner_id, failure_message } = await moveRow(lost.moveId);
      assert.deepEqual([outcome, owner_id], ['failed', 'alpha']);
      assert.match(String(failure_message), /workflow of this move ended/);

      // What the lost workflow's worker may still say.
      await control.recordMove({ moveId: lost.moveId, phase: 'blackout', step: 'saveInstance' });
      await control.closeMove({ moveId: lost.moveId, outcome: 'failed', owner: 'alpha', generation: 1 });
      assert.deepEqual(await stateOf(instanceId), ['moving', 'alpha', 1]);
      await control.closeMove({ moveId: next.moveId, outcome: 'moved', owner: 'gamma', generation: 2 });
      assert.deepEqual(await stateOf(instanceId), ['running', 'gamma', 2]);
    });

    test('an instance is deleted by its holder even if a move was left behind, and its history stays', async () => {
      const { moveId } = await openMove(catalog, instanceId, 'beta');
      await assert.rejects(control.forgetInstance({ instanceId }), { type: 'InstanceBusy' });
      for (let time = 0; time < 2; time++) await holder.forgetInstance({ instanceId });
      await assert.rejects(control.findInstance({ instanceId }), { type: 'InstanceNotFound' });
      assert.equal((await moveRow(moveId))['instance_name'], 'web');
      await control.closeMove({ moveId, outcome: 'failed', owner: 'alpha', generation: 1 });
      assert.deepEqual(await rows('SELECT * FROM addresses'), []);
      assert.deepEqual(await rows('SELECT host_id FROM image_locations'), [{ host_id: 'alpha' }]);
    });
  });
});
