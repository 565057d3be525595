/** `vmferry doctor`: everything that a command needs, looked at one by one; what is wrong comes with its advice. */
import type { Command } from 'commander';
import type { HostDescription, HostId } from '../../workflows/contract.ts';
import type { FailureType } from '../../workflows/failures.ts';
import { EXIT, VmferryError } from '../../workflows/failures.ts';
import type { Finding } from '../../workflows/findings.ts';
import type { PoolKey } from '../../activities/trust/pool-key.ts';
import type { Api, Catalog, Orchestrator, Poller } from '../api.ts';
import type { HostRow } from '../catalog-queries.ts';
import { explain, Interrupted } from '../failure.ts';
import { formatInterval, formatTime, short } from '../format.ts';
import type { Profile } from '../profile.ts';
import type { Session } from '../session.ts';

interface Check {
  /** What was looked at, such as `host beta`. */
  subject: string;
  status: 'ok' | 'hint' | 'mended' | 'failed';
  detail: string;
  advice: string;
  /** Exit code that it asks for. */
  exit: number;
  /** It differs between what runs, what is recorded, and the catalog. */
  finding?: true;
}

/** A worker that lives calls at least once in a long poll, which lasts a minute. */
const SILENT_MS = 90_000;
/** Long polls that one namespace and frontend may hold unless `frontend.namespaceCount` says more. */
const POLL_LIMIT = 1_200;
/** Long polls of one host worker: activities, and the sticky and normal queues of what it may run besides. */
const POLLS_PER_HOST = 3;

const ok = (subject: string, detail: string): Check => ({ subject, status: 'ok', detail, advice: '', exit: EXIT.ok });
const hint = (subject: string, detail: string, advice = ''): Check => ({
  subject,
  status: 'hint',
  detail,
  advice,
  exit: EXIT.ok,
});
const failed = (subject: string, error: unknown): Check => {
  if (error instanceof Interrupted) throw error;
  const { message, advice, exit } = explain(error);
  return { subject, status: 'failed', detail: message, advice, exit };
};
/** The usual advice would be to ask the doctor. */
const unreachable = (subject: string, error: unknown, advice: string): Check => {
  const check = failed(subject, error);
  return check.exit === EXIT.unreachable ? { ...check, advice } : check;
};
const wrong = (subject: string, type: FailureType, detail: string): Check =>
  failed(subject, new VmferryError(type, detail));

export function addDoctorCommand(program: Command, session: Session): void {
  program
    .command('doctor')
    .description('Check profile, Temporal, catalog and every host, and what runs against what is recorded')
    .option('--mend', 'do what is provably safe to do about what is found')
    .addHelpText(
      'after',
      '\nNothing is ever mended whose owner is unclear. What is mended, and why that is safe, is told in' +
        '\ndocs/decisions/0006-what-is-mended-and-what-is-told.md.' +
        '\n\nExample:\n  vmferry doctor --output json',
    )
    .action(async (options: { mend?: boolean }) => {
      const { checks, findings } = await examine(session, options.mend === true);
      const bad = checks.find(({ status }) => status === 'failed');
      const width = Math.max(...checks.filter(({ finding }) => !finding).map(({ subject }) => subject.length));
      const lines = checks.map(({ subject, status, detail, advice, finding }) => {
        // What is found is told in sentences, about things with long names.
        const indent = `\n${' '.repeat(finding ? 8 : width + 10)}`;
        const said = finding ? `${subject}${indent}${detail}` : `${subject.padEnd(width)}  ${detail}`;
        return `${status.padEnd(6)}  ${said}${status === 'ok' || advice === '' ? '' : `${indent}${advice}`}`;
      });
      for (const check of checks) session.output.event('check', check);
      for (const one of findings) session.output.event('finding', { finding: one });
      session.output.answer(lines.join('\n'), { ok: bad === undefined, checks, findings });
      session.exitWith(bad?.exit ?? EXIT.ok);
    });
}

async function examine(session: Session, mend: boolean): Promise<{ checks: Check[]; findings: Finding[] }> {
  let api: Api;
  try {
    api = await session.api();
  } catch (error) {
    return { checks: [failed('profile', error)], findings: [] };
  }
  const { profile } = api;
  const [poolCheck, pool] = await checkPool(profile);
  const [serverChecks, temporal] = await checkServer(api);
  const [catalogChecks, hosts] = await checkCatalog(api);
  const hostChecks =
    temporal === null ? [] : await Promise.all(hosts.map((host) => checkHost(session, temporal, host, pool)));
  const absent = hosts.filter((_, index) => hostChecks[index]?.some(({ exit }) => exit === EXIT.unreachable));
  const [accountChecks, findings] =
    temporal === null || hosts.length === 0
      ? [[], []]
      : await compareAccounts(
          session,
          temporal,
          mend,
          absent.map(({ id }) => id),
        );
  const checks = [
    ok('profile', `${profile.file}, [profile.${profile.temporalProfile}]`),
    poolCheck,
    ...serverChecks,
    ...catalogChecks,
    ...hostChecks.flat(),
    ...pollLimit(hosts.length),
    ...accountChecks,
  ];
  return { checks, findings };
}

/** What runs, what the hosts’ records say, what the catalog says. */
async function compareAccounts(
  session: Session,
  temporal: Orchestrator,
  mend: boolean,
  absent: HostId[],
): Promise<[Check[], Finding[]]> {
  const subject = 'records';
  let findings: Finding[];
  try {
    ({ findings } = await (await temporal.start('inspect', { mend, absent })).result(session.interrupt));
  } catch (error) {
    return [[failed(subject, error)], []];
  }
  const { FINDINGS } = await import('../../workflows/findings.ts');
  // The absent were told of above.
  const told = findings.filter(({ type, host }) => type !== 'hostSilent' || !absent.includes(host));
  if (told.length === 0) return [[ok(subject, 'what runs, what is recorded and the catalog agree')], findings];
  const order = { critical: 0, warning: 1, info: 2 };
  const sorted = told.toSorted((a, b) => order[a.severity] - order[b.severity]);
  return [sorted.map((one) => ({ ...asCheck(one, FINDINGS[one.type].exit), finding: true })), findings];
}

function asCheck(one: Finding, exit: number): Check {
  const { host, found, expected, advice, severity, mended, mendFailure } = one;
  const subject = one.subject === `host ${host}` ? one.subject : `${one.subject} on ${host}`;
  const detail = `${found}; expected: ${expected}`;
  // A copy that ran without right is suspended now, and still somebody started it.
  if (mended === true && severity === 'critical')
    return { subject, status: 'failed', detail, advice: `It is suspended now. ${advice}`, exit };
  if (mended === true) return { subject, status: 'mended', detail, advice: '', exit: EXIT.ok };
  const why = mendFailure === undefined ? '' : `It could not be mended: ${mendFailure}. `;
  if (severity === 'info') return hint(subject, detail, `${why}${advice}`);
  return { subject, status: 'failed', detail, advice: `${why}${advice}`, exit };
}

async function checkPool({ pool: folder, file }: Profile): Promise<[Check, PoolKey | null]> {
  if (folder === null) return [hint('pool key', `${file} names none; this machine can add no hosts`), null];
  try {
    const { loadPoolKey } = await import('../../activities/trust/pool-key.ts');
    const key = await loadPoolKey(folder);
    if (key === null) return [wrong('pool key', 'PoolKeyMissing', `There is no pool key in ${folder}`), null];
    return [ok('pool key', `${key.fingerprint.slice(0, 16)}… in ${folder}`), key];
  } catch (error) {
    return [failed('pool key', error), null];
  }
}

async function checkServer(api: Api): Promise<[Check[], Orchestrator | null]> {
  const { address, namespace } = api.profile.temporal;
  let temporal: Orchestrator;
  try {
    temporal = await api.temporal();
  } catch (error) {
    return [[unreachable('temporal', error, 'Start the Temporal server, or correct `address` in the profile.')], null];
  }
  try {
    const facts = await temporal.facts();
    const checks = [ok('temporal', `${address}, server ${facts.version}, namespace ${namespace}`)];
    const { searchAttributes } = await import('../../workflows/contract.ts');
    const lacking = Object.values(searchAttributes)
      .map(({ name }) => name)
      .filter((name) => !facts.searchAttributes.includes(name));
    checks.push(
      lacking.length === 0
        ? ok('search attributes', 'all registered')
        : {
            ...wrong('search attributes', 'ServerRefused', `The namespace lacks ${lacking.join(', ')}`),
            advice: `Register each: \`temporal operator search-attribute create --namespace ${namespace} --name NAME --type Keyword\`.`,
          },
    );
    const control = alive(await temporal.pollers('control'), Date.now());
    checks.push(
      control.length > 0
        ? ok('control worker', control.map(({ identity }) => identity).join(', '))
        : {
            ...wrong('control worker', 'HostUnreachable', 'No control worker has called in the last minutes'),
            advice: 'Start `vmferry-control`.',
          },
    );
    if (control.length > 0) checks.push(await checkScrub(temporal));
    return [checks, control.length > 0 ? temporal : null];
  } catch (error) {
    return [[failed('temporal', error)], null];
  }
}

/** Damage is found before a package is needed only if somebody looks. */
async function checkScrub(temporal: Orchestrator): Promise<Check> {
  const schedule = await temporal.scrubSchedule();
  const advice = '`vmferry packages scrub --every 1d` has every package verified once a day.';
  if (schedule === null)
    return hint('scrub', 'it is not scheduled yet', 'A control worker of this version schedules it.');
  if (schedule.off) return hint('scrub', 'it is off', advice);
  const { every, last } = schedule;
  const often = every === null ? 'by a schedule of the operator’s' : `every ${formatInterval(every)}`;
  return ok('scrub', `${often}, last ${last === null ? 'never' : formatTime(last)}`);
}

function alive(pollers: Poller[], now: number): Poller[] {
  return pollers.filter(({ lastSeen }) => now - lastSeen < SILENT_MS);
}

async function checkCatalog(api: Api): Promise<[Check[], HostRow[]]> {
  let catalog: Catalog;
  try {
    catalog = await api.catalog();
    const facts = await catalog.facts();
    const known = await knownMigrations();
    const newest = facts.migrations.at(-1) ?? 'none';
    const unknown = facts.migrations.filter((name) => known !== null && !known.includes(name));
    const missing = (known ?? []).filter((name) => !facts.migrations.includes(name));
    const schema =
      unknown.length > 0
        ? wrong(
            'catalog',
            'MigrationsAltered',
            `The catalog has migrations that this version does not know: ${unknown.join(', ')}`,
          )
        : missing.length > 0
          ? {
              ...wrong('catalog', 'MigrationsAltered', `The catalog lacks the migrations ${missing.join(', ')}`),
              advice: 'Run `vmferry-control migrate`.',
            }
          : ok('catalog', `schema ${newest}, as role ${facts.role}`);
    const role = facts.mayWrite
      ? [hint('catalog role', `${facts.role} may change the catalog`, 'Give the profile a role that may only read.')]
      : [];
    return [[schema, ...role], await catalog.hosts()];
  } catch (error) {
    return [[unreachable('catalog', error, 'Start PostgreSQL, or correct `catalog` in the profile.')], []];
  }
}

/** Names of the migrations that came with this client; null where it was installed without them. */
async function knownMigrations(): Promise<string[] | null> {
  const { migrationNames, SCHEMA_FOLDER } = await import('../../infra/schema.ts');
  return SCHEMA_FOLDER === '' ? null : migrationNames();
}

async function checkHost(
  session: Session,
  temporal: Orchestrator,
  host: HostRow,
  pool: PoolKey | null,
): Promise<Check[]> {
  const subject = `host ${host.id}`;
  try {
    if (alive(await temporal.pollers({ host: host.id }), Date.now()).length === 0) {
      return [
        {
          ...wrong(subject, 'HostUnreachable', 'Its worker has not called in the last minutes'),
          advice: `Start \`vmferry-host\` there; what it is needed for waits for it.`,
        },
      ];
    }
    const question = await temporal.start('describeNode', { host: host.id });
    const description = await question.result(session.interrupt);
    return [await judge(subject, host, description, pool)];
  } catch (error) {
    return [failed(subject, error)];
  }
}

async function judge(
  subject: string,
  host: HostRow,
  description: HostDescription,
  pool: PoolKey | null,
): Promise<Check> {
  const { record, poolFingerprint } = description;
  if (record.fingerprint !== host.fingerprint) {
    return wrong(subject, 'HostNotCertified', `Its key is ${record.fingerprint}, and ${host.fingerprint} was added`);
  }
  if (pool !== null && poolFingerprint !== pool.fingerprint) {
    return wrong(
      subject,
      'PoolMismatch',
      poolFingerprint === null ? 'It obeys no pool key' : `It obeys the pool key ${poolFingerprint}`,
    );
  }
  if (pool !== null) await verifyRecord(host, pool);
  const versions = `vmferry ${description.vmferryVersion}, libvirt ${description.libvirtVersion}, QEMU ${description.qemuVersion}`;
  return ok(subject, `key ${short(record.fingerprint)}…, ${versions}, ${description.domainTypes.join(' ')}`);
}

/** The catalog's copy of the record is the one that the pool key signed. */
async function verifyRecord(host: HostRow, pool: PoolKey): Promise<void> {
  const { readKey, readMessage, verify } = await import('openpgp');
  try {
    const verificationKeys = await readKey({ armoredKey: pool.publicKeyArmored });
    await verify({ message: await readMessage({ armoredMessage: host.record }), verificationKeys, expectSigned: true });
  } catch (cause) {
    throw new VmferryError('SignatureInvalid', `The catalog's record of ${host.id} is not signed by this pool key`, {
      cause,
    });
  }
}

function pollLimit(hosts: number): Check[] {
  const polls = hosts * POLLS_PER_HOST;
  if (polls < POLL_LIMIT * 0.75) return [];
  return [
    hint(
      'poll limit',
      `${hosts} hosts hold about ${polls} long polls; Temporal refuses more than frontend.namespaceCount, ${POLL_LIMIT} by default`,
      'Raise frontend.namespaceCount in the server’s dynamic configuration.',
    ),
  ];
}
