/** The catalog of a profile. Loads the database driver, so it is imported only by commands that read listings. */
import pg from 'pg';
import { VmferryError } from '../workflows/failures.ts';
import type { Catalog, CatalogFacts } from './api.ts';
import { CatalogReader } from './catalog-queries.ts';
import type { Profile } from './profile.ts';

/**
 * Connects with the first query.
 *
 * @throws VmferryError `ProfileInvalid` if the profile names no catalog
 */
export function openCatalog(profile: Profile): Catalog & { close(): Promise<void> } {
  const url = profile.catalog;
  if (url === null)
    throw new VmferryError('ProfileInvalid', `The profile ${profile.file} names no \`catalog\` in [vmferry]`);
  const reader = new CatalogReader(url);
  const where = `The catalog at ${placeOf(url)} (profile ${profile.file})`;

  /** The reader does not know which profile sent it there. */
  const naming =
    <Args extends unknown[], Answer>(query: (...args: Args) => Promise<Answer>) =>
    async (...args: Args): Promise<Answer> => {
      try {
        return await query(...args);
      } catch (error) {
        if (!(error instanceof VmferryError) || error.type !== 'CatalogUnreachable') throw error;
        throw new VmferryError('CatalogUnreachable', `${where} does not answer: ${error.message}`, { cause: error });
      }
    };

  return {
    hosts: naming(() => reader.hosts()),
    images: naming(() => reader.images()),
    instances: naming(() => reader.instances()),
    packages: naming((...args) => reader.packages(...args)),
    moves: naming((...args) => reader.moves(...args)),
    findHost: naming((word) => reader.findHost(word)),
    findImage: naming((word) => reader.findImage(word)),
    findInstance: naming((word) => reader.findInstance(word)),
    findPackage: naming((word) => reader.findPackage(word)),
    findMove: naming((word) => reader.findMove(word)),
    facts: naming(() => readFacts(url)),
    close: () => reader.close(),
  };
}

/** `host:port/database`, as the driver reads the URL: without user and password. */
function placeOf(url: string): string {
  const { host, port, database } = new pg.Client({ connectionString: url });
  return `${host.startsWith('/') ? host : `${host}:${port}`}/${database ?? ''}`;
}

async function readFacts(url: string): Promise<CatalogFacts> {
  const client = new pg.Client({ connectionString: url, connectionTimeoutMillis: 5_000, query_timeout: 15_000 });
  try {
    await client.connect();
    const migrations = await client.query<{ name: string }>('SELECT name FROM pgmigrations ORDER BY id');
    const role = await client.query<{ role: string; mayWrite: boolean }>(
      `SELECT current_user AS role, has_table_privilege('instances', 'INSERT, UPDATE, DELETE') AS "mayWrite"`,
    );
    const [{ role: name, mayWrite } = { role: '', mayWrite: true }] = role.rows;
    return { migrations: migrations.rows.map((row) => row.name), role: name, mayWrite };
  } catch (error) {
    const message = error instanceof AggregateError ? String(error.errors[0]) : (error as Error).message;
    throw new VmferryError('CatalogUnreachable', message, { cause: error });
  } finally {
    await client.end();
  }
}
