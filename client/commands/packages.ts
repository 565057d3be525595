/** `vmferry packages`: saved instances, sealed and immutable. */
import type { Command } from 'commander';
import { VmferryError } from '../../workflows/failures.ts';
import type { PackageRow } from '../catalog-queries.ts';
import { follow } from '../follow.ts';
import { formatBytes, formatTime, short } from '../format.ts';
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
];

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
}
