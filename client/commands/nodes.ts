/** `vmferry nodes`: the hosts of the pool. */
import type { Command } from 'commander';
import type { HostDescription } from '../../workflows/contract.ts';
import { VmferryError } from '../../workflows/failures.ts';
import { follow } from '../follow.ts';
import { formatFingerprint, formatTime, plainFingerprint } from '../format.ts';
import { fields, section } from '../output.ts';
import type { Column } from '../output.ts';
import type { HostRow } from '../catalog-queries.ts';
import { confirm, declined } from '../session.ts';
import type { Session } from '../session.ts';
import { requirePoolKey } from './pool.ts';

const columns: Column<HostRow>[] = [
  { title: 'name', value: ({ id }) => id },
  { title: 'location', value: ({ location }) => location },
  { title: 'architecture', value: ({ architecture }) => architecture },
  { title: 'added', value: ({ addedAt }) => formatTime(addedAt) },
  { title: 'fingerprint', value: ({ fingerprint }) => fingerprint },
];

export function addNodesCommands(program: Command, session: Session): void {
  const nodes = program.command('nodes').alias('hosts').description('Manage the hosts of the pool (also: hosts)');

  nodes
    .command('add')
    .argument('<host>', 'name under which the host worker runs')
    .description('Add a host to the pool: compare its fingerprint, then sign its record with the pool key')
    .option(
      '--fingerprint <fp>',
      'add it only if it has this fingerprint (case and blanks do not matter); asks nothing',
    )
    .option('--yes', 'trust the fingerprint without comparing it')
    .addHelpText(
      'after',
      '\nExample:\n  vmferry nodes add beta --fingerprint "$(ssh beta vmferry-host --print-fingerprint)"',
    )
    .action((host: string, options: { fingerprint?: string; yes?: boolean }) => addNode(session, host, options));

  nodes
    .command('list')
    .description('List the hosts of the pool')
    .addHelpText('after', '\nExample:\n  vmferry nodes list --output json')
    .action(async () => {
      const catalog = await (await session.api()).catalog();
      session.output.listing(section({ kind: 'host', title: 'hosts', rows: await catalog.hosts(), columns }));
    });
}

async function addNode(
  session: Session,
  host: string,
  options: { fingerprint?: string; yes?: boolean },
): Promise<void> {
  const api = await session.api();
  const poolKey = await requirePoolKey(api.profile);
  const temporal = await api.temporal();
  if ((await temporal.pollers({ host })).length === 0) {
    throw new VmferryError('HostUnreachable', `No worker of a host ${JSON.stringify(host)} has called`);
  }
  const question = await temporal.start('describeNode', { host });
  const description = await follow(session, question, {
    title: `asking ${host}`,
    farewell: 'Nothing was changed',
  });
  await checkRecord(host, description);
  if (description.poolFingerprint !== poolKey.fingerprint) {
    const obeys =
      description.poolFingerprint === null ? 'no pool key yet' : `another pool key (${description.poolFingerprint})`;
    throw new VmferryError('PoolMismatch', `Host ${host} obeys ${obeys}; this pool's is ${poolKey.fingerprint}`);
  }
  await approve(session, description, options);
  const record = await poolKey.certifyHost(description.record);
  const adding = await temporal.start('addNode', { host, record });
  const added = await follow(session, adding, { title: `adding ${host}` });
  session.output.answer(`Node ${added.id} added`, added);
}

/** What is shown must be what is signed: the fingerprint is computed from the key here, not believed. */
async function checkRecord(host: string, { record }: HostDescription): Promise<void> {
  const { keyOfRecord } = await import('../../activities/trust/pool-key.ts');
  await keyOfRecord(record);
  if (record.name === host) return;
  throw new VmferryError('HostNotCertified', `The worker that answers for ${host} calls itself ${record.name}`);
}

async function approve(
  session: Session,
  { record }: HostDescription,
  options: { fingerprint?: string; yes?: boolean },
): Promise<void> {
  const { output } = session;
  if (options.fingerprint !== undefined) {
    if (plainFingerprint(options.fingerprint) === record.fingerprint) return;
    throw new VmferryError(
      'HostNotCertified',
      `Host ${record.name} has the fingerprint ${record.fingerprint}, not the one given; nothing was changed`,
    );
  }
  const catalog = await (await session.api()).catalog();
  const known = (await catalog.hosts()).find(({ id }) => id === record.name);
  const changed = known !== undefined && known.fingerprint !== record.fingerprint;
  if (changed && options.yes === true) {
    throw new VmferryError(
      'HostNotCertified',
      `Host ${record.name} is in the pool with another fingerprint; --yes does not replace it`,
    );
  }
  if (options.yes === true) return;
  const [first, ...rest] = formatFingerprint(record.fingerprint);
  const facts = fields([
    ['Name', record.name],
    ['Addresses', record.addresses.join(', ')],
    ['Location', record.location],
    ['Architecture', record.architecture],
    ['Fingerprint', first],
    ...rest.map((line): [string, string] => ['', line]),
  ]).replaceAll(/^:/gm, ' ');
  output.ask(`${facts}\n`);
  if (changed) output.ask(`The pool knows ${record.name} with ANOTHER fingerprint: ${known.fingerprint}\n`);
  if (!(await confirm(session, 'Is this the fingerprint that the host printed?'))) throw declined();
}
