/**
 * Sets up the catalog's schema and brings it up to date.
 *
 * Every control worker does this when it starts, and `vmferry-control migrate` does it alone, for operators who let
 * the workers connect with a role that may not change the schema. At start, because then no worker ever runs against a
 * schema that it does not know, and an upgrade is nothing but new workers. Many may start at once: a session lock lets
 * one work while the others wait and then find nothing to do. Where nothing is to be done nothing is written.
 *
 * While workers are replaced, older ones still run on the newer schema: a migration may add, but what it removes must
 * have been unused since the version before. A worker that starts and finds migrations that it does not know refuses.
 */
import { createHash } from 'node:crypto';
import { readdir, readFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { PG_MIGRATE_LOCK_ID, runner } from 'node-pg-migrate';
import type { RunnerOption } from 'node-pg-migrate';
import pg from 'pg';
import { SCHEMA_FOLDER } from '../../infra/schema.ts';
import { VmferryError } from '../../workflows/failures.ts';
import { isUnreachable, unreachable } from './failures.ts';

export interface MigrateOptions {
  /** The role that may read everything and change nothing; made when missing and possible. Default `vmferry_reader`. */
  readerRole?: string;
  /** Folder of the SQL files. Default: this version's. */
  folder?: string;
}

export interface MigrateResult {
  /** Names of the migrations that were run now. */
  applied: string[];
  /** May the reader role read the catalog? Not if this role may neither make it nor grant it anything. */
  readerReady: boolean;
}

const DOING = 'migrate the catalog';
/** The runner's list of what was run; the digests are ours. */
const MIGRATIONS_TABLE = 'pgmigrations';
const INSUFFICIENT_PRIVILEGE = '42501';
/** Another session, perhaps of another catalog in the same cluster, makes the same role at this moment. */
const DUPLICATE = ['42710', '23505'];

/**
 * @throws MigrationsAltered if the catalog has migrations that this version does not know, or others of the same name
 * @throws CatalogUnreachable if there is no connection
 */
export async function migrateCatalog(url: string, options: MigrateOptions = {}): Promise<MigrateResult> {
  const { readerRole = 'vmferry_reader', folder = SCHEMA_FOLDER } = options;
  const client = new pg.Client({
    connectionString: url,
    connectionTimeoutMillis: 10_000,
    keepAlive: true,
    application_name: 'vmferry-control migrate',
  });
  let lost: Error | null = null;
  client.on('error', (error) => (lost = error));
  try {
    await client.connect().catch((error: unknown) => {
      throw error instanceof pg.DatabaseError ? error : unreachable(error, DOING);
    });
    // Held until the session ends, over check and run: what was checked is what the migrations run on.
    await client.query('SELECT pg_advisory_lock($1)', [PG_MIGRATE_LOCK_ID]);
    await refuseAltered(client, folder);
    const applied = await runner({
      dbClient: client,
      noLock: true,
      dir: folder,
      ignorePattern: '(?!.*\\.sql$).*',
      migrationsTable: MIGRATIONS_TABLE,
      direction: 'up',
      // All that an upgrade needs, or nothing.
      singleTransaction: true,
      migrationLoaderStrategies: [{ extensions: ['.sql'], loader: loadWithDigest }],
      log: () => undefined,
    });
    return { applied: applied.map(({ name }) => name), readerReady: await admitReader(client, readerRole) };
  } catch (error) {
    throw (lost ?? isUnreachable(error)) ? unreachable(error, DOING) : error;
  } finally {
    await client.end();
  }
}

type LoaderStrategy = NonNullable<RunnerOption['migrationLoaderStrategies']>[number];
type MigrationLoader = Exclude<LoaderStrategy['loader'], string>;

/** A migration leaves its digest, in the transaction that runs it. There is no way down: restore a backup instead. */
const loadWithDigest: MigrationLoader = async (paths) =>
  await Promise.all(
    paths.map(async (path) => {
      const text = await readFile(path, 'utf8');
      const record = `INSERT INTO migration_digests VALUES ('${basename(path, '.sql')}', '${digest(text)}')`;
      return {
        id: path,
        filePaths: [path],
        actions: {
          up: (builder) => {
            builder.sql(text);
            builder.sql(record);
          },
          down: false,
        },
      };
    }),
  );

/** The runner compares names only, and says nothing of migrations that come after those it knows. */
async function refuseAltered(client: pg.Client, folder: string): Promise<void> {
  const found = await client.query<{ there: boolean }>(`SELECT to_regclass('migration_digests') IS NOT NULL AS there`);
  if (!found.rows[0]?.there) return;
  const { rows } = await client.query<{ name: string; sha256: string }>(
    'SELECT * FROM migration_digests ORDER BY name',
  );
  const files = new Set(await readdir(folder));
  for (const { name, sha256 } of rows) {
    if (!files.has(`${name}.sql`)) {
      throw new VmferryError(
        'MigrationsAltered',
        `the catalog has migration ${name}, which this version does not know`,
      );
    }
    if (digest(await readFile(join(folder, `${name}.sql`), 'utf8')) !== sha256) {
      throw new VmferryError('MigrationsAltered', `migration ${name} is not the one that the catalog was made with`);
    }
  }
}

/** Lets the role of the clients read all there is and all that later migrations add. */
async function admitReader(client: pg.Client, role: string): Promise<boolean> {
  if (await mayReadAll(client, role)) return true;
  const name = pg.escapeIdentifier(role);
  try {
    // Without a password: nobody gets in by one until the operator has set it.
    await client.query(`CREATE ROLE ${name} LOGIN`).catch(unless(DUPLICATE));
    await client.query(`
      GRANT USAGE ON SCHEMA public TO ${name};
      GRANT SELECT ON ALL TABLES IN SCHEMA public TO ${name};
      ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT ON TABLES TO ${name}`);
  } catch (error) {
    unless([INSUFFICIENT_PRIVILEGE])(error);
  }
  return await mayReadAll(client, role);
}

async function mayReadAll(client: pg.Client, role: string): Promise<boolean> {
  const { rows } = await client.query<{ ready: boolean | null }>(
    `SELECT bool_and(has_schema_privilege(r.oid, c.relnamespace, 'USAGE') AND has_table_privilege(r.oid, c.oid, 'SELECT')) AS ready
     FROM pg_roles r, pg_class c
     WHERE r.rolname = $1 AND c.relnamespace = 'public'::regnamespace AND c.relkind = 'r'`,
    [role],
  );
  return rows[0]?.ready ?? false;
}

/** Rethrows what has none of these SQLSTATE codes. */
function unless(codes: string[]): (error: unknown) => void {
  return (error) => {
    if (!(error instanceof pg.DatabaseError && codes.includes(error.code ?? ''))) throw error;
  };
}

function digest(text: string): string {
  return createHash('sha256').update(text).digest('hex');
}
