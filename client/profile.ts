/**
 * The profile: one TOML file that says where Temporal, the catalog and the pool's key are. Its `[profile.*]` tables have
 * the form that Temporal's own tools read; `[vmferry]` is ours. Every complaint names file, line and key.
 */
import { readFile } from 'node:fs/promises';
import { homedir } from 'node:os';
import { dirname, resolve } from 'node:path';
import { VmferryError } from '../workflows/failures.ts';

/** Environment of the process, injected so that tests have their own. */
export type Environment = Readonly<Record<string, string | undefined>>;

export interface Profile {
  /** Absolute path of the file. */
  file: string;
  /** Its text, in which `@temporalio/envconfig` finds the connection. */
  text: string;
  /** Which `[profile.NAME]` is used. */
  temporalProfile: string;
  temporal: { address: string; namespace: string };
  /** URL of the catalog for a role that may only read. */
  catalog: string | null;
  /** Folder of the pool's key pair; null where no host is ever added. */
  pool: string | null;
  /** Address of Temporal's web interface. */
  ui: string | null;
}

export interface ProfileChoice {
  /** From `--profile`. */
  file?: string | undefined;
  /** From `--temporal-profile`. */
  temporalProfile?: string | undefined;
  env: Environment;
}

/** Where the profile is looked for, and who said so. */
export function profilePath(choice: ProfileChoice): string {
  const named = choice.file ?? choice.env['VMFERRY_PROFILE'];
  if (named !== undefined && named !== '') return resolve(named);
  const home = choice.env['HOME'] ?? homedir();
  return resolve(choice.env['XDG_CONFIG_HOME'] || `${home}/.config`, 'vmferry', 'profile.toml');
}

/**
 * Reads and checks the profile.
 *
 * @throws VmferryError `ProfileInvalid`
 */
export async function loadProfile(choice: ProfileChoice): Promise<Profile> {
  const file = profilePath(choice);
  let text: string;
  try {
    text = await readFile(file, 'utf8');
  } catch (cause) {
    const absent = (cause as NodeJS.ErrnoException).code === 'ENOENT';
    throw new VmferryError(
      'ProfileInvalid',
      absent ? `There is no profile ${file}` : `The profile ${file} cannot be read`,
      { cause },
    );
  }
  return parseProfile(file, text, choice);
}

const ADDRESS = /^[^\s/]+:\d{1,5}$/;

function addressOf(variable: string | undefined): string | undefined {
  if (variable === undefined || variable === '') return undefined;
  if (ADDRESS.test(variable)) return variable;
  throw new VmferryError('ProfileInvalid', `TEMPORAL_ADDRESS must be host:port, not ${JSON.stringify(variable)}`);
}

/** Shape of the file; imported only when a command needs the profile, so that help stays quick. */
async function profileSchema() {
  const { z } = await import('zod');
  const path = z.string().min(1);
  const temporal = z.strictObject({
    address: z.string().regex(ADDRESS, 'must be host:port'),
    namespace: z.string().min(1).default('default'),
    api_key: z.string().optional(),
    tls: z
      .strictObject({
        disabled: z.boolean(),
        client_cert_path: path,
        client_cert_data: z.string(),
        client_key_path: path,
        client_key_data: z.string(),
        server_ca_cert_path: path,
        server_ca_cert_data: z.string(),
        server_name: z.string(),
        disable_host_verification: z.boolean(),
      })
      .partial()
      .optional(),
    codec: z.strictObject({ endpoint: z.string(), auth: z.string() }).partial().optional(),
    grpc_meta: z.record(z.string(), z.string()).optional(),
  });
  return z.strictObject({
    profile: z.record(z.string(), temporal),
    vmferry: z
      .strictObject({
        catalog: z
          .string()
          .regex(/^postgres(ql)?:\/\//, 'must be a postgres:// URL')
          .optional(),
        pool: path.optional(),
        ui: z
          .string()
          .regex(/^https?:\/\//, 'must be an http:// or https:// URL')
          .optional(),
      })
      .default({}),
  });
}

/**
 * @param file for messages, and the folder to which relative paths belong
 * @throws VmferryError `ProfileInvalid`
 */
export async function parseProfile(file: string, text: string, choice: ProfileChoice): Promise<Profile> {
  const { parse, TomlError } = await import('smol-toml');
  let document: unknown;
  try {
    document = parse(text);
  } catch (cause) {
    if (!(cause instanceof TomlError)) throw cause;
    // The parser's message continues with a picture of the place; its first line is the complaint.
    const complaint = cause.message.split('\n', 1)[0]?.replace('Invalid TOML document: ', '') ?? 'no TOML';
    throw invalid(file, cause.line, complaint, cause);
  }
  const checked = (await profileSchema()).safeParse(document);
  if (!checked.success) {
    const issue = checked.error.issues[0];
    const keys = (issue?.path ?? []).map(String);
    if (issue?.code === 'unrecognized_keys') {
      const unknown = [...keys, issue.keys[0] ?? ''];
      throw invalid(file, lineOf(text, unknown), `there is no key ${unknown.join('.')}`, checked.error);
    }
    const what = issue?.message.replace(/^Invalid input: /, '') ?? 'not a profile';
    throw invalid(file, lineOf(text, keys), `${keys.join('.')}: ${what}`, checked.error);
  }
  const temporalProfile = choice.temporalProfile ?? choice.env['TEMPORAL_PROFILE'] ?? 'default';
  const temporal = checked.data.profile[temporalProfile];
  if (temporal === undefined) {
    const names = Object.keys(checked.data.profile).join(', ') || 'none';
    throw invalid(file, null, `there is no [profile.${temporalProfile}] (there is: ${names})`);
  }
  const { catalog, pool, ui } = checked.data.vmferry;
  return {
    file,
    text,
    temporalProfile,
    temporal: {
      address: addressOf(choice.env['TEMPORAL_ADDRESS']) ?? temporal.address,
      namespace: choice.env['TEMPORAL_NAMESPACE'] || temporal.namespace,
    },
    catalog: catalog ?? null,
    pool: pool === undefined ? null : resolve(dirname(file), pool),
    ui: ui?.replace(/\/$/, '') ?? null,
  };
}

function invalid(file: string, line: number | null, complaint: string, cause?: unknown): VmferryError {
  const place = line === null ? file : `${file}, line ${line}`;
  return new VmferryError('ProfileInvalid', `The profile ${place}: ${complaint}`, { cause });
}

/** Line on which the key at `path` stands, or the header of the table that lacks it; null when neither is there. */
function lineOf(text: string, path: string[]): number | null {
  const lines = text.split('\n');
  for (let depth = path.length; depth > 0; depth--) {
    const header = lines.findIndex((line) =>
      line.replaceAll(/[\s"']/g, '').startsWith(`[${path.slice(0, depth).join('.')}]`),
    );
    if (header === -1) continue;
    const key = path[depth];
    if (key === undefined) return header + 1;
    const body = lines.slice(header + 1);
    const end = body.findIndex((line) => line.trimStart().startsWith('['));
    const within = (end === -1 ? body : body.slice(0, end)).findIndex((line) => line.split('=')[0]?.trim() === key);
    return within === -1 ? header + 1 : header + 2 + within;
  }
  const top = lines.findIndex((line) => line.split('=')[0]?.trim() === path[0]);
  return top === -1 ? null : top + 1;
}
