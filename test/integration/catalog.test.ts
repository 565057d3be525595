import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { describe, test } from 'node:test';
import type { ControlActivities, HostId, InstanceId } from '../../workflows/contract.ts';
import { VmferryError } from '../../workflows/failures.ts';
import {
  addInstance,
  addPool,
  catalogForEachTest,
  hostRecord,
  imageOf,
  openCatalog,
  openMove,
  saveInstance,
  sealed,
  signedRecord,
  spawnInput,
  startCatalogs,
} from '../support/catalog.ts';
import type { TestCatalog } from '../support/catalog.ts';
import { postgresMissing } from '../support/postgres.ts';

await describe('hosts, images, instances and packages in the catalog', { skip: await postgresMissing() }, () => {
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
  describe('hosts', () => {
    test('a host is found by its name, with its certified record', async () => {
      const record = await signedRecord(hostRecord('delta'));
      const delta = await control.recordHost({ record });
      const { fingerprint } = hostRecord('delta');
      assert.deepEqual(delta, { id: 'delta', fingerprint, record, location: 'here', architecture: 'x86_64' });
      assert.deepEqual(await control.findHost({ host: 'delta' }), delta);
      await assert.rejects(control.findHost({ host: 'omega' }), {
        type: 'HostNotFound',
        message: 'host omega is not in the pool',
      });
    });

    test('a new record of the same host replaces the old one', async () => {
      const record = await signedRecord({ ...hostRecord('alpha'), location: 'there' });
      await control.recordHost({ record });
      assert.equal((await control.findHost({ host: 'alpha' })).location, 'there');
    });

    test('a host does not take the key of another, nor change its own while it owns instances', async () => {
      const stolen = await signedRecord(hostRecord('delta', 'alpha'));
      await assert.rejects(control.recordHost({ record: stolen }), {
        type: 'AlreadyExists',
        message: /delta .* alpha/,
      });
      await addInstance(catalog, 'web', 'alpha');
      const changed = (name: string): Promise<string> => signedRecord(hostRecord(name, 'new key'));
      await assert.rejects(control.recordHost({ record: await changed('alpha') }), {
        type: 'InUse',
        message: /alpha .* web/,
      });
      assert.equal((await control.recordHost({ record: await changed('beta') })).id, 'beta');
    });

    test('what is no signed host record is refused', async () => {
      await assert.rejects(control.recordHost({ record: 'alpha' }), { type: 'SignatureInvalid' });
    });
  });

  describe('images', () => {
    test('an image is described with its boot files, its hosts and its users', async () => {
      const image = imageOf('2', 'debian');
      await control.recordImage({ image, host: 'beta' });
      await control.recordImage({ image, host: 'alpha' });
      await control.recordImage({ image, host: 'alpha' });
      const found = await control.findImage({ imageId: image.id });
      assert.deepEqual(found.image, image);
      assert.deepEqual(
        found.hosts.map(({ id }) => id),
        ['alpha', 'beta'],
      );
      assert.deepEqual(found.usedBy, []);
      await assert.rejects(control.findImage({ imageId: 'd'.repeat(64) }), { type: 'ImageNotFound' });
    });

    test('the same disk keeps its first name, and is refused with another kernel', async () => {
      await control.recordImage({ image: imageOf('1', 'other name'), host: 'beta' });
      assert.equal((await control.findImage({ imageId: imageOf('1').id })).image.name, 'image-1');
      const image = { ...imageOf('1'), boot: {} };
      await assert.rejects(control.recordImage({ image, host: 'beta' }), { type: 'AlreadyExists' });
    });

    test('an image without boot files is described without them', async () => {
      const image = { ...imageOf('3'), boot: {}, format: 'raw' as const };
      await control.recordImage({ image, host: 'alpha' });
      assert.deepEqual((await control.findImage({ imageId: image.id })).image, image);
    });

    test('f20: an image that is needed stays where it is needed, and goes elsewhere', async () => {
      const { id: imageId } = imageOf('1');
      await control.recordImage({ image: imageOf('1'), host: 'beta' });
      const web = await addInstance(catalog, 'web', 'alpha');
      await assert.rejects(control.forgetImage({ imageId, host: 'alpha' }), { type: 'InUse', message: /alpha by web/ });
      await control.forgetImage({ imageId, host: 'beta' });
      const { hosts, usedBy } = await control.findImage({ imageId });
      assert.deepEqual([hosts.map(({ id }) => id), usedBy], [['alpha'], [web]]);
    });

    test('an image without a place is forgotten, as often as it is said', async () => {
      const { id: imageId } = imageOf('1');
      for (let time = 0; time < 2; time++) await control.forgetImage({ imageId, host: 'alpha' });
      await assert.rejects(control.findImage({ imageId }), { type: 'ImageNotFound' });
    });

    test('f20: an image is needed at the destination from the reservation of a move to its end', async () => {
      const { id: imageId } = imageOf('1');
      await control.recordImage({ image: imageOf('1'), host: 'beta' });
      const web = await addInstance(catalog, 'web', 'alpha');
      const { moveId } = await openMove(catalog, web, 'beta');
      await assert.rejects(control.forgetImage({ imageId, host: 'beta' }), { type: 'InUse', message: /beta by web/ });
      await control.closeMove({ moveId, outcome: 'failed', owner: 'alpha', generation: 1 });
      await control.forgetImage({ imageId, host: 'beta' });
    });
  });

  describe('spawn', () => {
    test('an instance gets an address, a MAC that follows from it, and the hosts that hold its image', async () => {
      const input = spawnInput('web', 'beta');
      const reserved = await control.reserveInstance(input);
      assert.deepEqual(reserved.address, { ip: '10.77.0.2', mac: '52:54:00:4d:00:02' });
      assert.deepEqual([reserved.host.id, reserved.image], ['beta', imageOf('1')]);
      assert.deepEqual(
        reserved.imageHosts.map(({ id }) => id),
        ['alpha'],
      );
      assert.deepEqual(await stateOf(input.instanceId), ['spawning', 'beta', 1]);
    });

    test('reserving again gives the same answer, also when the instance runs already', async () => {
      const input = spawnInput('web', 'alpha');
      const first = await control.reserveInstance(input);
      assert.deepEqual(await control.reserveInstance(input), first);
      await control.recordInstance({ instanceId: input.instanceId, state: 'running', host: 'alpha', generation: 1 });
      assert.deepEqual(await control.reserveInstance(input), first);
      assert.deepEqual(await stateOf(input.instanceId), ['running', 'alpha', 1]);
    });

    test('name, host and image are checked, and nothing is reserved then', async () => {
      await addInstance(catalog, 'web', 'alpha');
      const refused = async (
        input: Parameters<ControlActivities['reserveInstance']>[0],
        type: string,
      ): Promise<void> => {
        await assert.rejects(control.reserveInstance(input), { type });
      };
      await refused(spawnInput('web', 'beta'), 'AlreadyExists');
      await refused(spawnInput('db', 'omega'), 'HostNotFound');
      await refused(spawnInput('db', 'alpha', imageOf('7')), 'ImageNotFound');
      await refused(spawnInput('../db', 'alpha'), 'InvalidInput');
      await refused({ ...spawnInput('db', 'alpha'), instanceId: 'no uuid' }, 'InvalidInput');
      assert.deepEqual(await rows('SELECT name FROM instances'), [{ name: 'web' }]);
      assert.equal((await rows('SELECT * FROM addresses')).length, 1);
    });

    test('the lowest free address is given, and a freed one is given again', async () => {
      const ids: InstanceId[] = [];
      for (const name of ['a', 'b', 'c']) ids.push(await addInstance(catalog, name, 'alpha'));
      await control.forgetInstance({ instanceId: ids[1] ?? '' });
      const ipOf = async (name: string): Promise<string> =>
        (await control.reserveInstance(spawnInput(name, 'alpha'))).address.ip;
      assert.deepEqual([await ipOf('d'), await ipOf('e')], ['10.77.0.3', '10.77.0.5']);
    });

    test('f16: a hundred reservations at once, from several workers, give a hundred addresses without a gap', async () => {
      const workers = [catalog, openCatalog(catalog.url), openCatalog(catalog.url)];
      try {
        const answers = await Promise.all(
          Array.from({ length: 100 }, (_, i) =>
            (workers[i % 3] ?? catalog).activities.reserveInstance(spawnInput(`n${i}`, 'alpha')),
          ),
        );
        const given = answers.map(({ address }) => address.ip);
        const expected = Array.from({ length: 100 }, (_, i) => `10.77.0.${i + 2}`);
        assert.deepEqual(given.sort(), expected.sort());
      } finally {
        for (const worker of workers.slice(1)) await worker.close();
      }
    });

    test('the same reservation many times at once is one reservation', async () => {
      const input = spawnInput('web', 'alpha');
      const answers = await Promise.all(Array.from({ length: 20 }, () => control.reserveInstance(input)));
      assert.equal(new Set(answers.map(({ address }) => address.ip)).size, 1);
      assert.equal((await rows('SELECT * FROM addresses')).length, 1);
    });

    test('one name asked for many times at once is given once', async () => {
      const answers = await Promise.allSettled(
        Array.from({ length: 20 }, () => control.reserveInstance(spawnInput('web', 'alpha'))),
      );
      const refused = answers
        .filter(({ status }) => status === 'rejected')
        .map((answer) => (answer as PromiseRejectedResult).reason as unknown);
      assert.equal(refused.length, 19);
      for (const reason of refused) assert.equal((reason as { type: string }).type, 'AlreadyExists');
    });

    test('reserving and forgetting at once neither blocks nor leaks', async () => {
      await Promise.all(
        Array.from({ length: 40 }, async (_, i) => {
          const input = spawnInput(`n${i % 8}-${i}`, 'alpha');
          await control.reserveInstance(input);
          await control.forgetInstance({ instanceId: input.instanceId });
        }),
      );
      assert.deepEqual(await rows('SELECT * FROM addresses'), []);
      assert.equal((await control.reserveInstance(spawnInput('web', 'alpha'))).address.ip, '10.77.0.2');
    });

    test('f20: an image is never forgotten under an instance that comes at the same moment', async () => {
      const { id: imageId } = imageOf('1');
      await Promise.all(
        Array.from({ length: 60 }, async (_, i) => {
          const host = i % 2 ? 'beta' : 'alpha';
          if (i % 3 === 0) await control.forgetImage({ imageId, host }).catch(unless('InUse'));
          else if (i % 3 === 1) await control.recordImage({ image: imageOf('1'), host });
          else {
            const input = spawnInput(`n${i}`, host);
            await control.reserveInstance(input).catch(unless('ImageNotFound'));
            await control.forgetInstance(input);
          }
        }),
      );
      assert.deepEqual(await rows('SELECT * FROM image_locations WHERE arrived_at IS NULL'), []);
    });

    test('when every address is in use that is said', async () => {
      const web = await addInstance(catalog, 'web', 'alpha');
      await catalog.sql.query(
        `INSERT INTO addresses (ip, instance_id) SELECT inet '10.77.0.3' + n, '${web}' FROM generate_series(0, 65531) n`,
      );
      await assert.rejects(control.reserveInstance(spawnInput('db', 'alpha')), {
        type: 'InUse',
        message: /10\.77\.255\.254/,
      });
    });

    test('a failed spawn leaves nothing, and forgetting it twice is no error', async () => {
      const input = spawnInput('web', 'beta');
      await control.reserveInstance(input);
      const { id: imageId } = imageOf('1');
      await assert.rejects(control.forgetImage({ imageId, host: 'beta' }), { type: 'InUse' });
      for (let time = 0; time < 2; time++) await control.forgetInstance({ instanceId: input.instanceId });
      await assert.rejects(control.findInstance({ instanceId: input.instanceId }), { type: 'InstanceNotFound' });
      assert.deepEqual(await rows('SELECT host_id FROM image_locations'), [{ host_id: 'alpha' }]);
    });
  });

  describe('what owners say', () => {
    test('the catalog follows the owner forward, and old news change nothing', async () => {
      const instanceId = await addInstance(catalog, 'web', 'alpha');
      await control.recordInstance({ instanceId, state: 'running', host: 'beta', generation: 4 });
      await control.recordInstance({ instanceId, state: 'running', host: 'alpha', generation: 1 });
      assert.deepEqual(await stateOf(instanceId), ['running', 'beta', 4]);
      const { hosts } = await control.findImage({ imageId: imageOf('1').id });
      assert.deepEqual(
        hosts.map(({ id }) => id),
        ['alpha', 'beta'],
      );
    });

    test('two hosts do not own one generation', async () => {
      const instanceId = await addInstance(catalog, 'web', 'alpha');
      await assert.rejects(control.recordInstance({ instanceId, state: 'running', host: 'beta', generation: 1 }), {
        type: 'StaleGeneration',
        message: 'generation 1 of instance web belongs to alpha, not to beta',
      });
    });

    test('saved is said only of an instance whose package is at its host', async () => {
      const instanceId = await addInstance(catalog, 'web', 'alpha');
      const say = () => control.recordInstance({ instanceId, state: 'saved', host: 'alpha', generation: 1 });
      await assert.rejects(say(), { type: 'PackageNotFound', message: /web .* alpha/ });
      const packageId = randomUUID();
      await control.recordPackage(sealed(packageId, instanceId, 'alpha'));
      await say();
      assert.equal((await control.findPackage({ packageId })).needed, true);
    });

    test('nothing is recorded of an instance that is being moved, nor of one that nobody knows', async () => {
      const instanceId = await addInstance(catalog, 'web', 'alpha');
      const { moveId } = await openMove(catalog, instanceId, 'beta');
      const say = (id: InstanceId) =>
        control.recordInstance({ instanceId: id, state: 'running', host: 'alpha', generation: 1 });
      await assert.rejects(say(instanceId), { type: 'InstanceBusy', message: new RegExp(moveId) });
      await assert.rejects(say(randomUUID()), { type: 'InstanceNotFound' });
    });
  });

  describe('packages', () => {
    test('a package outlives its instance, travels on, and is forgotten with its last place', async () => {
      const instanceId = await addInstance(catalog, 'web', 'alpha');
      const packageId = await saveInstance(catalog, instanceId, 'alpha');
      await catalog.holder(instanceId).forgetInstance({ instanceId });
      await control.recordPackage(sealed(packageId, instanceId, 'beta'));
      for (const host of ['alpha', 'alpha', 'beta']) await control.forgetPackage({ packageId, host });
      await assert.rejects(control.findPackage({ packageId }), { type: 'PackageNotFound' });
    });

    test('a copy of a needed package may go, the one at the owner may not', async () => {
      const instanceId = await addInstance(catalog, 'web', 'alpha');
      const packageId = await saveInstance(catalog, instanceId, 'alpha');
      await control.recordPackage(sealed(packageId, instanceId, 'beta'));
      await control.forgetPackage({ packageId, host: 'beta' });
      await assert.rejects(control.forgetPackage({ packageId, host: 'alpha' }), { type: 'InUse' });
    });

    test('those are verified first that were not for the longest time, each once, and never those of open moves', async () => {
      const web = await addInstance(catalog, 'web', 'alpha');
      const db = await addInstance(catalog, 'db', 'alpha');
      const [first, second, third] = [randomUUID(), randomUUID(), await saveInstance(catalog, db, 'alpha')];
      for (const id of [first, second]) await control.recordPackage(sealed(id, web, 'alpha'));
      const moving = await openMove(catalog, web, 'beta');
      await control.recordPackage(sealed(moving.packageId, web, 'alpha'));
      const scrub = async (): Promise<string[]> => {
        const { at: before } = await control.beginInspection();
        await control.recordPackage(sealed(randomUUID(), web, 'alpha'));
        const order: string[] = [];
        for (;;) {
          const next = await control.nextToVerify({ host: 'alpha', before });
          if (next === null) return order;
          assert.ok(next.at >= before);
          order.push(next.packageId);
          await control.recordVerification({ ...next, host: 'alpha', damage: null });
        }
      };
      const { at } = await control.findPackage({ packageId: first });
      await control.recordVerification({ packageId: first, host: 'alpha', at, damage: null });
      assert.deepEqual(await scrub(), [third, second, first]);
      const [newest, ...again] = await scrub();
      assert.ok(newest !== undefined && ![first, second, third, moving.packageId].includes(newest));
      assert.deepEqual(again, [third, second, first]);
      assert.equal(await control.nextToVerify({ host: 'beta', before: at }), null);
    });

    test('of what was found of a copy the newest counts, and only of that copy', async () => {
      const web = await addInstance(catalog, 'web', 'alpha');
      const packageId = await saveInstance(catalog, web, 'alpha');
      const damage = { type: 'SegmentDamaged', message: 'segment 0 is missing' } as const;
      const damaged = async (): Promise<string[]> => (await control.findPackage({ packageId })).damaged;
      const { at: early } = await control.findPackage({ packageId });
      const { at: late } = await control.beginInspection();
      await control.recordPackage(sealed(packageId, web, 'beta'));
      const { at: now } = await control.beginInspection();

      await control.recordVerification({ packageId, host: 'alpha', at: late, damage });
      assert.deepEqual(await damaged(), ['alpha']);
      await control.recordVerification({ packageId, host: 'alpha', at: early, damage: null });
      assert.deepEqual(await damaged(), ['alpha'], 'it was whole before it was damaged');
      await control.recordVerification({ packageId, host: 'beta', at: early, damage });
      assert.deepEqual(await damaged(), ['alpha'], 'that was another copy, before this one came');
      await control.recordVerification({ packageId, host: 'alpha', at: now, damage: null });
      assert.deepEqual(await damaged(), []);
      await control.recordVerification({ packageId, host: 'gamma', at: now, damage });
      assert.deepEqual(await damaged(), [], 'there is none');
    });

    test('the doctor is told of a copy that was found damaged', async () => {
      const web = await addInstance(catalog, 'web', 'alpha');
      const packageId = await saveInstance(catalog, web, 'alpha');
      const { at } = await control.beginInspection();
      const damage = { type: 'SegmentDamaged', message: 'segment 0 is missing' } as const;
      await control.recordVerification({ packageId, host: 'alpha', at, damage });
      const silent = [{ host: 'alpha', why: 'it does not answer' }];
      const findings = await control.compareWithCatalog({ at, reports: [], silent });
      const told = findings.find(({ type }) => type === 'neededPackageDamaged');
      assert.equal(told?.packageId, packageId);
      assert.match(told?.found ?? '', /^SegmentDamaged: segment 0 is missing \(.*\); no other host has a whole copy$/);
    });

    test('a package is of one instance and generation, and comes from a known instance and host', async () => {
      const web = await addInstance(catalog, 'web', 'alpha');
      const db = await addInstance(catalog, 'db', 'alpha');
      const packageId = randomUUID();
      await control.recordPackage(sealed(packageId, web, 'alpha'));
      await assert.rejects(control.recordPackage(sealed(packageId, db, 'alpha')), { type: 'AlreadyExists' });
      await assert.rejects(control.recordPackage(sealed(packageId, web, 'beta', 3)), { type: 'AlreadyExists' });
      await assert.rejects(control.recordPackage(sealed(randomUUID(), randomUUID(), 'alpha')), {
        type: 'InstanceNotFound',
      });
      await assert.rejects(control.recordPackage(sealed(packageId, web, 'omega')), { type: 'HostNotFound' });
    });
  });
});

await describe('a catalog that is away', { skip: await postgresMissing() }, () => {
  test('is CatalogUnreachable with its cause, and answers again when it is back', async () => {
    const { server, open } = await startCatalogs();
    const catalog = await open();
    try {
      await addPool(catalog, 'alpha');
      await server.kill();
      await assert.rejects(
        catalog.activities.findHost({ host: 'alpha' }),
        (error: { type: string; cause: unknown }) => {
          assert.equal(error.type, 'CatalogUnreachable');
          assert.ok(error.cause instanceof Error);
          return true;
        },
      );
      await server.restart();
      assert.equal((await catalog.activities.findHost({ host: 'alpha' })).id, 'alpha');
    } finally {
      await catalog.close();
      await server.stop();
    }
  });

  test('is CatalogUnreachable also when it goes in the middle of a transaction, of which nothing stays', async () => {
    const { server, open } = await startCatalogs();
    const catalog = await open();
    const lock = await catalog.sql.connect();
    lock.on('error', () => undefined);
    try {
      await addPool(catalog, 'alpha');
      await lock.query('BEGIN; LOCK TABLE instances IN ACCESS EXCLUSIVE MODE');
      const waiting = assert.rejects(catalog.activities.reserveInstance(spawnInput('web', 'alpha')), {
        type: 'CatalogUnreachable',
      });
      await untilBlocked(catalog);
      await server.kill();
      await waiting;
      await server.restart();
      assert.equal((await catalog.activities.reserveInstance(spawnInput('web', 'alpha'))).address.ip, '10.77.0.2');
    } finally {
      lock.release(true);
      await catalog.close();
      await server.stop();
    }
  });
});

async function untilBlocked({ sql }: TestCatalog): Promise<void> {
  for (;;) {
    const { rowCount } = await sql.query(`SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock'`);
    if (rowCount) return;
  }
}

function unless(type: string): (error: unknown) => void {
  return (error) => {
    if (!(error instanceof VmferryError && error.type === type)) throw error;
  };
}
