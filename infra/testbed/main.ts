#!/usr/bin/env node
/** `npm run testbed -- COMMAND`: simulated hosts from the command line. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { constants } from 'node:os';
import { Command, Option } from 'commander';
import { FAILURES, VmferryError } from '../../workflows/failures.ts';
import { HOST_NAMES } from './host.ts';
import type { CutOptions, FlapOptions } from './links.ts';
import { Testbed } from './testbed.ts';

const program = new Command('testbed')
  .description('Simulated vmferry hosts on this machine, with Temporal, PostgreSQL and a guest to move')
  .addHelpText(
    'after',
    '\nThe directory is VMFERRY_TESTBED, or /tmp/vmferry-testbed. Several testbeds do not get in each other’s way.',
  )
  .showHelpAfterError('(`help` lists the commands)')
  .enablePositionalOptions();

const print = (line: string): void => console.log(line);
const progress = (line: string): void => console.error(`· ${line}`);

program
  .command('up')
  .description('make a testbed, or complete the one that is there')
  .argument('[N]', `number of hosts: ${HOST_NAMES.join(', ')}`, '2')
  .option('--bare', 'hosts with libvirtd alone')
  .option('--no-nodes', 'do not add the hosts to the pool')
  .option(
    '--disk <mib>',
    'size of the file system for what vmferry keeps on a new host; 0: a plain folder',
    Number,
    8192,
  )
  .action(async (hosts: string, options: { bare?: boolean; nodes: boolean; disk: number }) => {
    const { bare = false, nodes, disk: diskMib } = options;
    const testbed = await Testbed.up({ hosts: Number(hosts), bare, noNodes: !nodes, diskMib, log: progress });
    await describe(testbed);
  });

program
  .command('down')
  .description('remove it: processes, namespaces, interfaces, files')
  .action(async () => Testbed.down());

program
  .command('exec')
  .description('run a command on a host; `wan` is the world between them')
  .usage('HOST COMMAND [ARGUMENT…]')
  .argument('<host>')
  .argument('<command>')
  .argument('[arguments...]')
  .passThroughOptions()
  .action(async (host: string, command: string, args: string[]) => {
    const testbed = await Testbed.open();
    const [enter, ...rest] = testbed.enter(host, [command, ...args]);
    const child = spawn(enter, rest, { stdio: 'inherit' });
    // The terminal sends ^C to both; the command decides what it means.
    process.on('SIGINT', () => undefined);
    const [code, signal] = (await once(child, 'exit')) as [number | null, NodeJS.Signals | null];
    process.exitCode = code ?? 128 + constants.signals[signal ?? 'SIGKILL'];
  });

program
  .command('rate')
  .description('limit a host’s link in both directions, or what goes between two hosts')
  .argument('<host>')
  .argument('<rate>', '100mbit, 500kbit, 1gbit or none')
  .option('--to <host>', 'only what goes between it and this one')
  .action(async (host: string, rate: string, options: { to?: string }) =>
    (await Testbed.open()).rate(host, rate, options.to),
  );

program
  .command('cut')
  .description('pull a host’s network cable; with options, lose its frames though the cable is in')
  .argument('<host>')
  .addOption(
    new Option('--way <way>', 'lose only what it sends, or what it would receive').choices(['send', 'receive']),
  )
  .option('--from <party>', 'cut it off from one other host, or from `temporal`')
  .action(async (host: string, options: CutOptions) => (await Testbed.open()).cut(host, options));

program
  .command('join')
  .description('undo every cut of a host')
  .argument('<host>')
  .option('--from <party>', 'only those between it and this one')
  .action(async (host: string, options: { from?: string }) => (await Testbed.open()).join(host, options.from));

program
  .command('flap')
  .description('lose all frames of a host for a while, again and again; the link is joined at the end')
  .argument('<host>')
  .requiredOption('--cycles <n>', 'how often', Number)
  .requiredOption('--down <ms>', 'milliseconds without a link', Number)
  .requiredOption('--up <ms>', 'milliseconds with one', Number)
  .action(async (host: string, options: FlapOptions) => (await Testbed.open()).flap(host, options));

const WHERE = 'a host, or `control`';
const WHAT =
  'of a host: worker, second-worker, libvirtd, qemu, qemu:INSTANCE, host (all of it); of control: worker, temporal, postgres';

program
  .command('kill')
  .description('kill a daemon; `kill HOST host` is a power loss')
  .argument('<where>', WHERE)
  .argument('<what>', WHAT)
  .option('--signal <name>', 'signal to send', 'SIGKILL')
  .action(async (where: string, what: string, options: { signal: string }) => {
    if (!(options.signal in constants.signals))
      throw new VmferryError('InvalidInput', `${options.signal} is no signal`);
    await (await Testbed.open()).kill(where, what, options.signal as NodeJS.Signals);
  });

program
  .command('start')
  .description('start what was killed; `start HOST host` boots it')
  .argument('<where>', WHERE)
  .argument('<what>', WHAT)
  .action(async (where: string, what: string) => (await Testbed.open()).start(where, what));

program
  .command('freeze')
  .description('stop it where it is (SIGSTOP)')
  .argument('<where>', WHERE)
  .argument('<what>', WHAT)
  .action(async (where: string, what: string) => (await Testbed.open()).freeze(where, what));

program
  .command('thaw')
  .description('let it go on')
  .argument('<where>', WHERE)
  .argument('<what>', WHAT)
  .action(async (where: string, what: string) => (await Testbed.open()).thaw(where, what));

const onHost = (name: string, description: string, action: (testbed: Testbed, host: string) => Promise<void>): void => {
  program
    .command(name)
    .description(description)
    .argument('<host>')
    .action(async (host: string) => action(await Testbed.open(), host));
};

program
  .command('fill-disk')
  .description('take all space on the disk for what vmferry keeps')
  .argument('<host>')
  .argument('[bytes]', 'to leave', Number, 0)
  .action(async (host: string, bytes: number) => (await Testbed.open()).fillDisk(host, bytes));
onHost('free-disk', 'give it back', (testbed, host) => testbed.freeDisk(host));
onHost('read-only', 'let nothing be written that is not open already', (testbed, host) => testbed.readOnly(host));
onHost('fail-disk', 'make ext4 meet an error: no more writing at all', (testbed, host) => testbed.failDisk(host));
onHost('read-write', 'undo `read-only`; `fail-disk` by a reboot', (testbed, host) => testbed.readWrite(host));
program
  .command('skew-clock')
  .description('set a host’s clock ahead, or back; restarts its libvirtd and worker')
  .argument('<host>')
  .argument('<seconds>', 'negative to set it back (after `--`), 0 to set it right', Number)
  .action(async (host: string, seconds: number) => (await Testbed.open()).skewClock(host, seconds));
onHost('reboot', 'a power loss, and a boot', (testbed, host) => testbed.reboot(host));

program
  .command('heal')
  .description('undo every fault, and start whatever is down')
  .action(async () => {
    const did = await (await Testbed.open()).heal();
    for (const line of did.length > 0 ? did : ['nothing to do']) print(line);
  });

program
  .command('console')
  .description('show what an instance has printed on its serial console')
  .argument('<instance>', 'UUID, its beginning, or name')
  .action(async (instance: string) => {
    process.stdout.write(await (await Testbed.open()).console(instance));
  });

program
  .command('status')
  .description('show everything that belongs to the testbed')
  .action(async () => {
    const testbed = await Testbed.open();
    const rows = testbed
      .status()
      .map(({ where, what, pid, frozen, log }) => [
        where,
        what,
        pid === null ? '-' : String(pid),
        pid === null ? 'off' : frozen ? 'frozen' : 'runs',
        log ?? '',
      ]);
    print(table([['WHERE', 'WHAT', 'PID', 'STATE', 'LOG'], ...rows]));
  });

async function describe(testbed: Testbed): Promise<void> {
  const { imagePaths: guest, hosts } = testbed;
  const [first = 'alpha', second = first] = hosts;
  print(`Hosts ${hosts.join(', ')}; files in ${testbed.directory}`);
  print(`A host’s shell:  npm run testbed -- exec ${first} bash`);
  print(`Guest image:     ${guest.disk} (kernel ${guest.kernel}, ramdisk ${guest.initrd}), on every host`);
  if (testbed.bare) return;
  print(`Temporal UI:     ${testbed.uiUrl}`);
  if (await testbed.installProfile()) print('Profile:         installed; the client finds it by itself');
  else print(`Profile:         another one is in use; export VMFERRY_PROFILE=${testbed.profilePath}`);
  print('Try:');
  const options = `--kernel ${guest.kernel} --initrd ${guest.initrd} --cmdline '${guest.cmdline}'`;
  print(`  npx vmferry images add ${guest.disk} --host ${first} ${options}`);
  print(`  npx vmferry images spawn IMAGE --host ${first}`);
  print(`  npm run testbed -- rate ${first} 100mbit`);
  print(`  npx vmferry instances migrate INSTANCE ${second}`);
}

/** Columns as wide as their widest cell. */
function table(rows: string[][]): string {
  const widths = rows[0]?.map((_, column) => Math.max(...rows.map((row) => row[column]?.length ?? 0))) ?? [];
  return rows
    .map((row) =>
      row
        .map((cell, column) => cell.padEnd(widths[column] ?? 0))
        .join('  ')
        .trimEnd(),
    )
    .join('\n');
}

try {
  await program.parseAsync();
} catch (error) {
  const type = error instanceof VmferryError ? error.type : 'Internal';
  console.error(
    `testbed: ${error instanceof VmferryError ? error.message : String(error instanceof Error ? error.stack : error)}`,
  );
  process.exitCode = FAILURES[type].exit;
}
