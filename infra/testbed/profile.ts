/** The profile file that tells the client where Temporal, the catalog and the pool key are. */
import { existsSync, readFileSync } from 'node:fs';
import { mkdir, readdir, rm, rmdir } from 'node:fs/promises';
import { homedir } from 'node:os';
import { dirname, join } from 'node:path';
import { stringify } from 'smol-toml';
import { writeDurable } from '../../activities/records/durable.ts';

export interface ProfileSettings {
  temporal: string;
  catalogUrl: string;
  pool: string;
  uiUrl: string;
}

const MARK = '# Written by the testbed in ';

/** Where the client looks when VMFERRY_PROFILE is not set. */
const defaultProfile = (): string =>
  join(process.env['XDG_CONFIG_HOME'] || join(homedir(), '.config'), 'vmferry/profile.toml');

const profileIn = (directory: string): string => join(directory, 'profile.toml');

/** The directory of the testbed that wrote this profile; null if a person did, undefined if there is none. */
function writerOf(path: string): string | null | undefined {
  if (!existsSync(path)) return undefined;
  const [first = ''] = readFileSync(path, 'utf8').split('\n');
  return first.startsWith(MARK) ? first.slice(MARK.length) : null;
}

/** Writes the testbed's own profile and answers its path. */
export async function writeProfile(directory: string, settings: ProfileSettings): Promise<string> {
  await writeDurable(profileIn(directory), text(directory, settings), { mode: 0o600 });
  return profileIn(directory);
}

/**
 * Makes it the one that the client finds by itself, unless somebody needs the one that is there: a person who wrote
 * it, or another testbed. Answers whether it did.
 */
export async function installProfile(directory: string, settings: ProfileSettings): Promise<boolean> {
  const path = defaultProfile();
  const writer = writerOf(path);
  const free = writer === undefined || (writer !== null && (writer === directory || !existsSync(profileIn(writer))));
  if (!free) return false;
  await mkdir(dirname(path), { recursive: true });
  await writeDurable(path, text(directory, settings), { mode: 0o600 });
  return true;
}

/** Undoes `installProfile`. */
export async function removeProfile(directory: string): Promise<void> {
  if (writerOf(defaultProfile()) !== directory) return;
  await rm(defaultProfile(), { force: true });
  const folder = dirname(defaultProfile());
  if ((await readdir(folder)).length === 0) await rmdir(folder);
}

function text(directory: string, settings: ProfileSettings): string {
  const profile = {
    profile: { default: { address: settings.temporal, namespace: 'default' } },
    vmferry: { catalog: settings.catalogUrl, pool: settings.pool, ui: settings.uiUrl },
  };
  return `${MARK}${directory}\n${stringify(profile)}`;
}
