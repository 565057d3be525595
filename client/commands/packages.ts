/** `vmferry packages`: saved instances, sealed and immutable. */
import type { Command } from 'commander';
import type { Scrubbed } from '../../workflows/contract.ts';
import { EXIT, VmferryError } from '../../workflows/failures.ts';
import type { PackageCopy, PackageRow } from '../catalog-queries.ts';
import { follow } from '../follow.ts';
import { formatBytes, formatTime, parseInterval, short } from '../format.ts';
import { fields, section } from '../output.ts';
import type { Column } from '../output.ts';
import { findHost } from '../resolve.ts';
import type { Session } from '../session.ts';
import { verifyFolder } from '../verify-folder.ts';

const columns: Column<PackageRow>[] = [
  { title: 'id', value: ({ id }) => id },
  { title: 'instance', value: ({ instanceName }) => instanceName },
  { title: 'generation', value: ({ generation }) => String(generation), align: 'right' },
  { title: 'size', value: ({ bytes }) => formatBytes(bytes), align: 'right' },
  { title: 'sealed', value: ({ sealedAt }) => formatTime(sealedAt) },
  { title: 'hosts', value: ({ hosts }) => hosts.join(' ') },
  { title: 'needed', value: ({ needed }) => (needed ? 'yes' : '') },
  { title: 'verified', value: verifiedSince },
  {
    title: 'damaged',
    value: (row) =>
      damagedCopies(row)
        .map(({ host }) => host)
        .join(' '),
  },
];

const damagedCopies = ({ copies }: PackageRow): PackageCopy[] => copies.filter(({ damage }) => damage !== null);

/** Since when each of its copies has been read. */
function verifiedSince({ copies }: PackageRow): string {
  const times = copies.map(({ verifiedAt }) => verifiedAt?.getTime() ?? 0);
  const oldest = Math.min(...times);
  return oldest > 0 && times.length > 0 ? formatTime(oldest) : 'never';
}

function tellCopy({ host, verifiedAt, damage }: PackageCopy): string {
  if (verifiedAt === null) return `${host}, never verified`;
  if (damage === null) return `${host}, whole ${formatTime(verifiedAt)}`;
  return `${host}, damaged, seen ${formatTime(verifiedAt)}: ${damage.type}: ${damage.message}`;
}

const ID = 'package: id or its beginning';

export function addPackagesCommands(program: Command, session: Session): void {
  const packages = program.command('packages').description('Manage packages: saved instances, sealed and encrypted');

  packages
    .command('list')
    .description('List the packages and the hosts that keep them')
    .addHelpText('after', '\nExample:\n  vmferry packages list --output json')
    .action(async () => {
      const catalog = await (await session.api()).catalog();
      const rows = (await catalog.packages()).map((row) => ({ packageId: row.id, ...row }));
      session.output.listing(section({ kind: 'package', title: 'packages', rows, columns }));
    });

  packages
    .command('show')
    .argument('<id>', ID)
    .description('Show a package')
    .addHelpText('after', '\nExample:\n  vmferry packages show 5d1f --output json')
    .action(async (word: string) => {
      const row = await (await (await session.api()).catalog()).findPackage(word);
      const text = fields([
        ['Id', row.id],
        [
          'Instance',
          row.instanceName === null ? `${row.instanceId} (deleted)` : `${row.instanceName} (${row.instanceId})`,
        ],
        ['Generation', String(row.generation)],
        ['Size', formatBytes(row.bytes)],
        ['Sealed', formatTime(row.sealedAt)],
        ['Hosts', row.hosts.join(' ')],
        ['Needed', row.needed ? 'yes: the instance would be continued from it' : 'no'],
        ...row.copies.map((copy): [string, string] => ['Copy', tellCopy(copy)]),
      ]);
      session.output.answer(text, { packageId: row.id, ...row });
    });

  packages
    .command('pull')
    .argument('<id>', ID)
    .argument('<host>', 'host that fetches it: name or fingerprint')
    .description('Let a host fetch a package from another')
    .addHelpText('after', '\nExample:\n  vmferry packages pull 5d1f beta --output jsonl')
    .action(async (word: string, hostWord: string) => {
      const api = await session.api();
      const catalog = await api.catalog();
      const row = await catalog.findPackage(word);
      const host = await findHost(catalog, hostWord);
      const running = await (await api.temporal()).start('pull', { kind: 'package', id: row.id, destination: host.id });
      const result = await follow(session, running, { title: `package ${short(row.id)} → ${host.id}` });
      session.output.answer(`Package ${row.id} pulled to ${host.id}`, result);
    });

  packages
    .command('delete')
    .argument('<id>', ID)
    .description('Delete a package that no saved instance needs, on all hosts')
    .addHelpText('after', '\nExample:\n  vmferry packages delete 5d1f --output json')
    .action(async (word: string) => {
      const api = await session.api();
      const row = await (await api.catalog()).findPackage(word);
      const running = await (await api.temporal()).start('deletePackage', { packageId: row.id });
      await follow(session, running, { title: `deleting package ${short(row.id)}` });
      session.output.answer(`Package ${row.id} deleted`, { id: row.id });
    });

  packages
    .command('verify')
    .argument('<id|folder>', `${ID}; or, on a host, the path of a package’s folder (with a slash)`)
    .description('Check signatures and every digest of a package, on a host that keeps it')
    .option('--host <host>', 'host that checks (default: the first that keeps it)')
    .option('--host-config <file>', 'whose keys open a folder (default: /etc/vmferry/host.json)')
    .addHelpText(
      'after',
      '\nExample:\n  vmferry packages verify 5d1f --host beta\n  vmferry packages verify ./5d1f… --host-config /etc/vmferry/host.json',
    )
    .action(async (word: string, options: { host?: string; hostConfig?: string }) => {
      if (word.includes('/')) {
        const facts = await verifyFolder(word, options.hostConfig);
        session.output.answer(
          `Package ${facts.packageId} in ${word} is whole: ${formatBytes(facts.bytes)}, sealed by ${facts.source}`,
          facts,
        );
        return;
      }
      const api = await session.api();
      const catalog = await api.catalog();
      const row = await catalog.findPackage(word);
      const host = options.host === undefined ? row.hosts[0] : (await findHost(catalog, options.host)).id;
      if (host === undefined || !row.hosts.includes(host)) {
        throw new VmferryError('PackageNotFound', `Package ${row.id} is not on ${host ?? 'any host'}`);
      }
      const running = await (await api.temporal()).start('verifyPackage', { packageId: row.id, host });
      const facts = await follow(session, running, { title: `verifying ${short(row.id)} on ${host}` });
      session.output.answer(
        `Package ${row.id} on ${host} is whole: ${formatBytes(facts.bytes)}, sealed by ${facts.source}`,
        {
          host,
          ...facts,
        },
      );
    });

  packages
    .command('scrub')
    .description('Verify every package on every host now, or say how often that is done by itself')
    .option('--every <time>', 'from now on so often, such as 12h or 1d, or `off`; nothing is verified now')
    .addHelpText(
      'after',
      '\nIt ends with 8 if a package is damaged, else with 5 if a host did not answer.' +
        '\n\nExample:\n  vmferry packages scrub --every 12h',
    )
    .action(async (options: { every?: string }) => {
      const { every } = options;
      if (every !== undefined) {
        const seconds = every === 'off' ? null : parseInterval(every, '--every');
        await (await (await session.api()).temporal()).scrubEvery(seconds);
        const said =
          seconds === null ? 'Packages are scrubbed only when asked' : `Packages are scrubbed every ${every}`;
        session.output.answer(said, { every: seconds });
        return;
      }
      const api = await session.api();
      const scrubbed = await follow(session, await (await api.temporal()).scrub(), { title: 'scrubbing packages' });
      const damaged = (await (await api.catalog()).packages()).filter((row) => damagedCopies(row).length > 0);
      const { silent, text } = tellScrub(scrubbed, damaged);
      session.output.answer(text, { ...scrubbed, damaged: damaged.map((row) => ({ packageId: row.id, ...row })) });
      if (damaged.length > 0) session.exitWith(EXIT.damaged);
      else if (silent) session.exitWith(EXIT.unreachable);
    });
}

function tellScrub({ hosts }: Scrubbed, damaged: PackageRow[]): { silent: boolean; text: string } {
  const silent = hosts.filter((host) => host.silent !== null);
  const verified = hosts.reduce((sum, host) => sum + host.verified, 0);
  const lines = [`${verified} packages verified on ${hosts.length - silent.length} hosts`];
  for (const { host, silent: why } of silent) lines.push(`Not all on ${host}: ${why}`);
  for (const row of damaged) {
    for (const copy of damagedCopies(row)) {
      lines.push(`Package ${row.id} of ${row.instanceName} on ${tellCopy(copy)}`);
      lines.push(`  Repair it: vmferry packages pull ${row.id} ${copy.host}`);
    }
  }
  if (damaged.length === 0) lines.push('No damage is known');
  return { silent: silent.length > 0, text: lines.join('\n') };
}
