/** Where the catalog's migrations are, and which ones this version knows. */
import { readdir } from 'node:fs/promises';
import { existsSync } from 'node:fs';
import { join } from 'node:path';

/** Folder of the `.sql` files: beside this file in the sources, in the package's own `infra` when compiled. */
export const SCHEMA_FOLDER =
  [join(import.meta.dirname, 'schema'), join(import.meta.dirname, '../../infra/schema')].find(existsSync) ?? '';

/** Names of the migrations, in their order: file names without `.sql`. */
export async function migrationNames(): Promise<string[]> {
  const files = await readdir(SCHEMA_FOLDER);
  return files
    .filter((file) => file.endsWith('.sql'))
    .map((file) => file.slice(0, -'.sql'.length))
    .sort();
}
