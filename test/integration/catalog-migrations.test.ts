import assert from 'node:assert/strict';
import { cp, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import pg from 'pg';
import { migrateCatalog } from '../../activities/catalog/migrate.ts';
import { migrationNames, SCHEMA_FOLDER } from '../../infra/schema.ts';
import { addInstance, addPool, openCatalog } from '../support/catalog.ts';
import { postgresMissing, startPostgres } from '../support/postgres.ts';
import type { TestPostgres } from '../support/postgres.ts';

await describe('migrations of the catalog', { skip: await postgresMissing() }, () => {
  let server: TestPostgres;
  before(async () => {
    server = await startPostgres();
  });
  after(() => server.stop());

  test('all are run on an empty database, and none the second time', async () => {
    const url = server.url(await server.createDatabase());
    assert.deepEqual(await migrateCatalog(url), { applied: await migrationNames(), readerReady: true });
    assert.deepEqual(await migrateCatalog(url), { applied: [], readerReady: true });
  });

  test('many workers that start at once run each migration once', async () => {
    const url = server.url(await server.createDatabase());
    const results = await Promise.all(Array.from({ length: 12 }, () => migrateCatalog(url)));
    assert.deepEqual(
      results.flatMap(({ applied }) => applied),
      await migrationNames(),
    );
    assert.ok(results.every(({ readerReady }) => readerReady));
  });

  test('catalogs of one cluster that are set up at once do not collide over the common role', async () => {
    const databases = await Promise.all(Array.from({ length: 4 }, () => server.createDatabase()));
    const readerRole = 'reader_of_four';
    const results = await Promise.all(databases.map((name) => migrateCatalog(server.url(name), { readerRole })));
    assert.ok(results.every(({ readerReady }) => readerReady));
  });

  test('a later migration is run on a catalog that is in use, and its tables are readable too', async () => {
    const url = server.url(await server.createDatabase());
    await migrateCatalog(url);
    const catalog = openCatalog(url);
    try {
      await addPool(catalog, 'alpha');
      await addInstance(catalog, 'web', 'alpha');
      await withSchema({ '0099_more.sql': 'CREATE TABLE more (id integer PRIMARY KEY)' }, async (folder) => {
        assert.deepEqual(await migrateCatalog(url, { folder }), { applied: ['0099_more'], readerReady: true });
      });
      const { rows } = await catalog.sql.query<{ reads: boolean }>(
        `SELECT has_table_privilege('vmferry_reader', 'more', 'SELECT') AS reads`,
      );
      assert.deepEqual(rows, [{ reads: true }]);
    } finally {
      await catalog.close();
    }
  });

  test('a migration that fails leaves nothing behind, nor those after it', async () => {
    const url = server.url(await server.createDatabase());
    const files = {
      '0098_half.sql': 'CREATE TABLE half (id integer); SELECT 1/0',
      '0099_more.sql': 'CREATE TABLE more ()',
    };
    await withSchema(files, async (folder) => {
      await assert.rejects(migrateCatalog(url, { folder }), /division by zero/);
    });
    assert.deepEqual(await migrateCatalog(url), { applied: await migrationNames(), readerReady: true });
  });

  test('an altered migration is refused, and so is a catalog that is newer than this version', async () => {
    const url = server.url(await server.createDatabase());
    const first = '0001_catalog.sql';
    await withSchema({ '0099_more.sql': 'CREATE TABLE more ()' }, (folder) => migrateCatalog(url, { folder }));
    await assert.rejects(migrateCatalog(url), { type: 'MigrationsAltered', message: /0099_more/ });
    await withSchema({ '0099_more.sql': 'CREATE TABLE more ()', [first]: '-- nothing' }, async (folder) => {
      await assert.rejects(migrateCatalog(url, { folder }), { type: 'MigrationsAltered', message: /0001_catalog/ });
    });
  });

  test('a role that may not change the schema starts on a finished catalog, and not on an empty one', async () => {
    const database = await server.createDatabase();
    await migrateCatalog(server.url(database));
    await statement(
      server.url(database),
      `CREATE ROLE plain_worker LOGIN;
       GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO plain_worker`,
    );
    assert.deepEqual(await migrateCatalog(server.url(database, 'plain_worker')), { applied: [], readerReady: true });
    const readerRole = 'not_there_yet';
    const without = await migrateCatalog(server.url(database, 'plain_worker'), { readerRole });
    assert.deepEqual(without, { applied: [], readerReady: false });
    await assert.rejects(
      migrateCatalog(server.url(await server.createDatabase(), 'plain_worker')),
      /permission denied/,
    );
  });

  test('the reader role reads every table and changes none', async () => {
    const database = await server.createDatabase();
    await migrateCatalog(server.url(database));
    const reader = server.url(database, 'vmferry_reader');
    const tables = [
      'hosts',
      'images',
      'image_locations',
      'instances',
      'addresses',
      'packages',
      'package_locations',
      'moves',
    ];
    for (const table of tables) {
      await statement(reader, `SELECT * FROM ${table}`);
      for (const change of [
        `DELETE FROM ${table}`,
        `TRUNCATE ${table}`,
        `INSERT INTO ${table} DEFAULT VALUES`,
        `DROP TABLE ${table}`,
      ]) {
        await assert.rejects(statement(reader, change), { code: '42501' }, change);
      }
    }
    await assert.rejects(statement(reader, 'UPDATE instances SET generation = 9'), { code: '42501' });
    await assert.rejects(statement(reader, 'BEGIN; LOCK TABLE addresses IN SHARE MODE; COMMIT'), { code: '42501' });
    await assert.rejects(statement(reader, 'CREATE TABLE mine ()'), { code: '42501' });
  });

  test('a catalog that is not there is CatalogUnreachable', async () => {
    await assert.rejects(migrateCatalog('postgres://127.0.0.1:1/none'), { type: 'CatalogUnreachable' });
    await assert.rejects(migrateCatalog(server.url('none')), {
      type: 'CatalogUnreachable',
      message: /"none" does not exist/,
    });
  });
});

/** Runs `run` with a copy of the schema folder to which `files` were added. */
async function withSchema<T>(files: Record<string, string>, run: (folder: string) => Promise<T>): Promise<T> {
  const folder = await mkdtemp(join(tmpdir(), 'vmferry-schema-'));
  try {
    await cp(SCHEMA_FOLDER, folder, { recursive: true });
    for (const [name, text] of Object.entries(files)) await writeFile(join(folder, name), text);
    return await run(folder);
  } finally {
    await rm(folder, { recursive: true });
  }
}

async function statement(url: string, text: string): Promise<void> {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  try {
    await client.query(text);
  } finally {
    await client.end();
  }
}
