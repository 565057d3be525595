import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { CatalogReader } from '../../client/catalog-queries.ts';
import type { InstanceId } from '../../workflows/contract.ts';
import {
  addInstance,
  addPool,
  hostRecord,
  imageOf,
  openMove,
  saveInstance,
  sealed,
  startCatalogs,
} from '../support/catalog.ts';
import type { TestCatalog } from '../support/catalog.ts';
import { postgresMissing } from '../support/postgres.ts';
import type { TestPostgres } from '../support/postgres.ts';

await describe('listings of the catalog, read as vmferry_reader', { skip: await postgresMissing() }, () => {
  let server: TestPostgres;
  let catalog: TestCatalog;
  let reader: CatalogReader;
  let ids: Record<'web' | 'db' | 'going' | 'gone', InstanceId>;
  let savedIn: string;
  let moved: string;
  let moving: { moveId: string; packageId: string };

  before(async () => {
    const catalogs = await startCatalogs();
    server = catalogs.server;
    catalog = await catalogs.open();
    await addPool(catalog, 'alpha', 'beta');
    const { activities } = catalog;
    await activities.recordImage({ image: { ...imageOf('2', 'bare'), boot: {} }, host: 'beta' });
    const [web, db, going, gone] = [
      await addInstance(catalog, 'web', 'alpha'),
      await addInstance(catalog, 'db', 'alpha'),
      await addInstance(catalog, 'going', 'alpha'),
      await addInstance(catalog, 'gone', 'alpha'),
    ];
    ids = { web, db, going, gone };
    savedIn = await saveInstance(catalog, db, 'alpha');
    const { at } = await activities.beginInspection();
    const damage = { type: 'SegmentDamaged', message: 'segment 0 is missing' } as const;
    await activities.recordVerification({ packageId: savedIn, host: 'alpha', at, damage });
    const toBeta = await openMove(catalog, gone, 'beta');
    await activities.recordPackage(sealed(toBeta.packageId, gone, 'alpha'));
    const result = { stepSeconds: { saveInstance: 0.5 }, blackoutSeconds: 6.25, packageBytes: 40, wireBytes: 41 };
    await activities.closeMove({ moveId: toBeta.moveId, outcome: 'moved', owner: 'beta', generation: 2, result });
    moved = toBeta.moveId;
    await catalog.holder(gone).forgetInstance({ instanceId: gone });
    moving = await openMove(catalog, going, 'beta');
    const failure = { type: 'LibvirtFailed', message: 'no memory' } as const;
    await activities.recordMove({ moveId: moving.moveId, phase: 'parked', step: 'restoreInstance', failure });
    reader = new CatalogReader(catalog.url.replace('postgres@', 'vmferry_reader@'));
  });
  after(async () => {
    await reader.close();
    await catalog.close();
    await server.stop();
  });

  test('hosts, with how much is on them', async () => {
    const [alpha, beta] = await reader.hosts();
    const { id, fingerprint, instances, images, packages } = alpha ?? assert.fail();
    assert.deepEqual([id, fingerprint], ['alpha', hostRecord('alpha').fingerprint]);
    assert.deepEqual([instances, images, packages], [3, 1, 2]);
    assert.deepEqual([beta?.id, beta?.instances, beta?.images, beta?.packages], ['beta', 0, 2, 0]);
    assert.ok(alpha?.addedAt instanceof Date);
  });

  test('images, with where they are and what stands on them', async () => {
    const [bare, one] = await reader.images();
    assert.deepEqual([bare?.name, bare?.boot, bare?.hosts, bare?.instances], ['bare', {}, ['beta'], []]);
    const { hosts, instances, addedAt, ...image } = one ?? assert.fail();
    assert.deepEqual(image, imageOf('1'));
    assert.deepEqual(hosts, ['alpha', 'beta']);
    assert.deepEqual(instances, [ids.db, ids.going, ids.web]);
    assert.ok(addedAt instanceof Date);
  });

  test('instances, with host, address and state', async () => {
    const [db, going, web] = await reader.instances();
    const { createdAt, updatedAt, ...rest } = web ?? assert.fail();
    assert.ok(createdAt <= updatedAt);
    assert.deepEqual(rest, {
      id: ids.web,
      name: 'web',
      host: 'alpha',
      generation: 1,
      state: 'running',
      imageId: imageOf('1').id,
      imageName: 'image-1',
      address: { ip: '10.77.0.2', mac: '52:54:00:4d:00:02' },
      memoryBytes: 268_435_456,
      vcpus: 1,
      domainType: 'auto',
      packageId: null,
      moveId: null,
    });
    assert.deepEqual([db?.state, db?.packageId], ['saved', savedIn]);
    assert.deepEqual([going?.state, going?.moveId], ['moving', moving.moveId]);
  });

  test('packages, also of instances that are gone', async () => {
    const of = new Map((await reader.packages()).map((row) => [row.instanceId, row]));
    assert.deepEqual([of.get(ids.db)?.needed, of.get(ids.db)?.instanceName], [true, 'db']);
    const [copy] = of.get(ids.db)?.copies ?? [];
    assert.deepEqual([copy?.host, copy?.damage?.type], ['alpha', 'SegmentDamaged']);
    assert.ok(copy?.verifiedAt instanceof Date);
    assert.deepEqual(of.get(ids.gone)?.copies, [{ host: 'alpha', verifiedAt: null, damage: null }]);
    const { needed, instanceName, hosts, bytes, generation } = of.get(ids.gone) ?? assert.fail();
    assert.deepEqual(
      { needed, instanceName, hosts, bytes, generation },
      {
        needed: false,
        instanceName: 'gone',
        hosts: ['alpha'],
        bytes: 40_000_000,
        generation: 2,
      },
    );
    assert.deepEqual(
      (await reader.packages(ids.db)).map(({ id }) => id),
      [savedIn],
    );
  });

  test('moves, newest first, with times, result and failure', async () => {
    const [open, ended, saved] = await reader.moves();
    assert.deepEqual(
      [open?.id, open?.phase, open?.step, open?.outcome],
      [moving.moveId, 'parked', 'restoreInstance', null],
    );
    assert.deepEqual(open?.failure, { type: 'LibvirtFailed', message: 'no memory' });
    assert.equal(open?.endedAt, null);
    assert.deepEqual([ended?.id, ended?.phase, ended?.outcome, ended?.owner], [moved, null, 'moved', 'beta']);
    assert.equal(ended?.result?.blackoutSeconds, 6.25);
    assert.ok(ended?.endedAt instanceof Date);
    assert.deepEqual([saved?.kind, saved?.source, saved?.destination], ['save', 'alpha', 'alpha']);
    assert.deepEqual(
      (await reader.moves({ openOnly: true })).map(({ id }) => id),
      [moving.moveId],
    );
    assert.deepEqual(
      (await reader.moves({ instanceId: ids.gone })).map(({ id }) => id),
      [moved],
    );
    assert.equal((await reader.moves({ limit: 2 })).length, 2);
  });

  test('a word means an id, a name, or the one id that begins so', async () => {
    for (const word of [ids.web, ids.web.toUpperCase(), 'web', ids.web.slice(0, 13)]) {
      assert.equal((await reader.findInstance(word)).id, ids.web, word);
    }
    assert.equal((await reader.findImage('11111')).id, imageOf('1').id);
    assert.equal((await reader.findImage('bare')).id, imageOf('2').id);
    assert.equal((await reader.findPackage(savedIn.slice(0, 13))).id, savedIn);
    assert.equal((await reader.findMove(moved.slice(0, 13))).id, moved);
    assert.equal((await reader.findMove('going')).id, moving.moveId);
    assert.equal((await reader.findMove(ids.gone)).id, moved);
    const { fingerprint } = hostRecord('beta');
    for (const word of ['beta', fingerprint, fingerprint.slice(0, 8).toLowerCase()]) {
      assert.equal((await reader.findHost(word)).id, 'beta', word);
    }
  });

  test('a word that means nothing, or several things, is refused by name', async () => {
    await assert.rejects(reader.findInstance('mail'), { type: 'InstanceNotFound', message: /mail/ });
    await assert.rejects(reader.findInstance(''), { type: 'InstanceNotFound' });
    await assert.rejects(reader.findInstance('%'), { type: 'InstanceNotFound' });
    await assert.rejects(reader.findHost(hostRecord('beta').fingerprint.slice(0, 4)), { type: 'HostNotFound' });
    await assert.rejects(reader.findPackage('web'), { type: 'PackageNotFound' });
    await assert.rejects(reader.findMove('web'), { type: 'MoveNotFound' });
    await catalog.activities.recordImage({ image: imageOf('3', 'bare'), host: 'alpha' });
    await assert.rejects(reader.findImage('bare'), { type: 'InvalidInput', message: /bare may mean any of 2 images/ });
  });

  test('a catalog that is away is CatalogUnreachable', async () => {
    const away = new CatalogReader('postgres://127.0.0.1:1/none');
    await assert.rejects(away.instances(), { type: 'CatalogUnreachable', message: /ECONNREFUSED/ });
    await away.close();
  });
});
