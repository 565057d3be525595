/** `vmferry instances`: the virtual machines. */
import type { Command } from 'commander';
import { VmferryError } from '../../workflows/failures.ts';
import type { MoveOptions, MoveResult, StartResult } from '../../workflows/contract.ts';
import type { Api, Running } from '../api.ts';
import type { InstanceRow } from '../catalog-queries.ts';
import { follow } from '../follow.ts';
import { formatBytes, formatCapacity, formatSeconds, formatTime, parseWhole, short, shortMove } from '../format.ts';
import { fields, section, table } from '../output.ts';
import type { Column, Section } from '../output.ts';
import { findHost } from '../resolve.ts';
import { confirm, declined } from '../session.ts';
import type { Session } from '../session.ts';
import { moveColumns } from './moves.ts';

const columns: Column<InstanceRow>[] = [
  { title: 'id', value: ({ id }) => id },
  { title: 'name', value: ({ name }) => name },
  { title: 'host', value: ({ host }) => host },
  { title: 'state', value: ({ state }) => state },
  { title: 'generation', value: ({ generation }) => String(generation), align: 'right' },
  { title: 'ip', value: ({ address }) => address.ip },
];

export const instancesSection = (rows: InstanceRow[]): Section =>
  section({ kind: 'instance', title: 'instances', rows, columns });

interface MoveFlags {
  onFailure?: string;
  retryWindow?: string;
  compressionLevel?: string;
  untilParked?: boolean;
  detach?: boolean;
}

export function addInstancesCommands(program: Command, session: Session): void {
  const instances = program.command('instances').description('Manage instances: spawned virtual machines');
  const id = 'instance: id, its beginning, or name';
  const moving = (command: Command): Command =>
    command
      .option('--retry-window <seconds>', 'how long a failing destination is tried again (default: 120)')
      .option('--compression-level <n>', 'zstd level, 1 to 19 (default: 1)')
      .option('--detach', 'start it and return; `vmferry moves watch` shows it');
  const onFailure = (command: Command): Command =>
    command
      .option(
        '--on-failure <choice>',
        'park: stay down for a decision; return: run at the source again (default: return)',
      )
      .option('--until-parked', 'end when it is parked, instead of waiting for the decision');

  instances
    .command('list')
    .description('List the instances')
    .addHelpText('after', '\nExample:\n  vmferry instances list --output json')
    .action(async () => {
      const catalog = await (await session.api()).catalog();
      session.output.listing(instancesSection(await catalog.instances()));
    });

  instances
    .command('show')
    .argument('<id>', id)
    .description('Show an instance, what is done with it now, and its moves')
    .addHelpText('after', '\nExample:\n  vmferry instances show counter --output json')
    .action((word: string) => show(session, word));

  moving(instances.command('save'))
    .argument('<id>', id)
    .description('Stop an instance and keep it as a package')
    .addHelpText('after', '\nExample:\n  vmferry instances save counter --compression-level 3')
    .action(async (word: string, flags: MoveFlags) => {
      const options = moveOptions(flags);
      const api = await session.api();
      const instance = await (await api.catalog()).findInstance(word);
      const story = { instanceName: instance.name, source: instance.host };
      const running = await (await api.temporal()).start('save', { instanceId: instance.id, ...options }, story);
      if (flags.detach === true) return detached(session, running);
      const result = await followMove(session, running, `${instance.name} on ${instance.host}`, flags);
      session.output.answer(
        `Instance ${result.instanceId} saved as package ${result.packageId} on ${result.host}`,
        result,
      );
    });

  instances
    .command('start')
    .argument('<id>', id)
    .description('Run an instance that is down or paused, at the host that owns it')
    .addHelpText(
      'after',
      '\nFor an instance whose host lost power, whose move was terminated half way, or that is saved. The hosts’ own' +
        '\nrecords tell which of them owns it; it continues from its saved RAM if there is any, else boots from its disk.' +
        '\n\nExample:\n  vmferry instances start counter --output json',
    )
    .action((word: string) => startInstance(session, word));

  onFailure(moving(instances.command('restore')))
    .argument('<id>', id)
    .argument('[host]', 'host that continues it: name or fingerprint (default: the one that owns it)')
    .description('Continue a saved instance from its package')
    .addHelpText('after', '\nExample:\n  vmferry instances restore counter beta --on-failure park')
    .action(async (word: string, hostWord: string | undefined, flags: MoveFlags) => {
      const options = moveOptions(flags);
      const api = await session.api();
      const catalog = await api.catalog();
      const instance = await catalog.findInstance(word);
      const destination = hostWord === undefined ? undefined : (await findHost(catalog, hostWord)).id;
      const running = await (
        await api.temporal()
      ).start(
        'restore',
        { instanceId: instance.id, ...(destination === undefined ? {} : { destination }), ...options },
        { instanceName: instance.name, source: instance.host },
      );
      if (flags.detach === true) return detached(session, running);
      const result = await followMove(session, running, `${instance.name} → ${destination ?? instance.host}`, flags);
      summarise(session, result);
      session.output.answer(`Instance ${result.instanceId} restored on ${result.destination}`, result);
    });

  onFailure(moving(instances.command('migrate')))
    .argument('<id>', id)
    .argument('<host>', 'destination: name or fingerprint')
    .description('Move a running instance to another host')
    .addHelpText(
      'after',
      '\nThe same command, given again while the move runs, watches it. Ctrl-C ends the watching, not the move.' +
        '\n\nExample:\n  vmferry instances migrate counter beta --on-failure park --retry-window 600',
    )
    .action((word: string, hostWord: string, flags: MoveFlags) => migrate(session, word, hostWord, flags));

  instances
    .command('delete')
    .argument('<id>', id)
    .description('End an instance for ever: its domain, disks and address; asks first on a terminal')
    .option('--yes', 'do not ask')
    .addHelpText('after', '\nExample:\n  vmferry instances delete counter --yes')
    .action(async (word: string, options: { yes?: boolean }) => {
      const api = await session.api();
      const instance = await (await api.catalog()).findInstance(word);
      const ask = options.yes !== true && session.stdin.isTTY === true;
      const question = `Delete instance ${instance.name} (${instance.id}) on ${instance.host} for ever?`;
      if (ask && !(await confirm(session, question))) throw declined();
      await deleteInstance(session, api, instance);
      session.output.answer(`Instance ${instance.id} deleted`, { id: instance.id });
    });
}

const STARTED: Record<StartResult['how'], string> = {
  'ran already': 'runs already',
  resumed: 'goes on where it was paused',
  restored: 'goes on from its saved RAM',
  booted: 'boots from its disk',
};

async function startInstance(session: Session, word: string): Promise<void> {
  const api = await session.api();
  const { id, name, host } = await (await api.catalog()).findInstance(word);
  const story = { instanceName: name, source: host };
  const running = await (await api.temporal()).start('start', { instanceId: id }, story);
  const result = await follow(session, running, { title: `starting ${name}` });
  session.output.answer(`Instance ${result.instanceId} ${STARTED[result.how]} on ${result.host}`, result);
}

/** Used by `delete-all` too. */
export async function deleteInstance(session: Session, api: Api, { id, name, host }: InstanceRow): Promise<void> {
  const temporal = await api.temporal();
  const running = await temporal.start('deleteInstance', { instanceId: id }, { instanceName: name, source: host });
  await follow(session, running, { title: `deleting ${name}` });
}

async function migrate(session: Session, word: string, hostWord: string, flags: MoveFlags): Promise<void> {
  const options = moveOptions(flags);
  const api = await session.api();
  const catalog = await api.catalog();
  const instance = await catalog.findInstance(word);
  const destination = await findHost(catalog, hostWord);
  const temporal = await api.temporal();
  // Where it is there may be on its way elsewhere, so only an instance at rest is told that it is there already.
  if (instance.host === destination.id && instance.state !== 'moving') {
    throw new VmferryError('SameHost', `Instance ${instance.name} is on ${destination.id} already`);
  }
  const story = { instanceName: instance.name, source: instance.host };
  const running = await temporal.start(
    'migrate',
    { instanceId: instance.id, destination: destination.id, ...options },
    story,
  );
  if (flags.detach === true) return detached(session, running);
  const result = await followMove(session, running, `${instance.name} ${instance.host} → ${destination.id}`, flags);
  summarise(session, result);
  session.output.answer(`Instance ${result.instanceId} migrated to ${result.destination}`, result);
}

function moveOptions(flags: MoveFlags): { options?: MoveOptions } {
  const options: MoveOptions = {};
  if (flags.onFailure !== undefined) {
    if (flags.onFailure !== 'park' && flags.onFailure !== 'return') {
      throw new VmferryError(
        'InvalidInput',
        `--on-failure takes park or return, not ${JSON.stringify(flags.onFailure)}`,
      );
    }
    options.onFailure = flags.onFailure;
  }
  if (flags.retryWindow !== undefined) {
    options.retryWindowSeconds = parseWhole(flags.retryWindow, '--retry-window', 0, 30 * 86_400);
  }
  if (flags.compressionLevel !== undefined) {
    options.compressionLevel = parseWhole(flags.compressionLevel, '--compression-level', 1, 19);
  }
  return Object.keys(options).length === 0 ? {} : { options };
}

function followMove<Result>(
  session: Session,
  running: Running<Result>,
  title: string,
  flags: MoveFlags,
): Promise<Result> {
  if (running.joined)
    session.output.note(`This is under way already, as move ${shortMove(running.runId)}; watching it.`);
  return follow(session, running, { title, untilParked: flags.untilParked === true });
}

function detached(session: Session, running: Running<unknown>): void {
  session.output.answer(
    `Move ${running.runId} ${running.joined ? 'is under way' : 'started'}; watch it with \`vmferry moves watch ${shortMove(running.runId)}\``,
    { moveId: running.runId, workflowId: running.workflowId, joined: running.joined },
  );
}

function summarise(session: Session, { blackoutSeconds, totalSeconds, wireBytes }: MoveResult): void {
  session.output.note(
    `The guest stood still for ${formatSeconds(blackoutSeconds)}; in all ${formatSeconds(totalSeconds)}, ${formatBytes(wireBytes)} sent.`,
  );
}

/** Moves that `show` lists. */
const RECENT = 10;

async function show(session: Session, word: string): Promise<void> {
  const api = await session.api();
  const catalog = await api.catalog();
  const instance = await catalog.findInstance(word);
  const temporal = await api.temporal();
  const [moves, packages, running] = await Promise.all([
    catalog.moves({ instanceId: instance.id, limit: RECENT }),
    catalog.packages(instance.id),
    temporal.runningOn(instance.id),
  ]);
  const text = fields([
    ['Id', instance.id],
    ['Name', instance.name],
    ['Host', instance.host],
    ['State', instance.state],
    ['Generation', String(instance.generation)],
    ['IP', instance.address.ip],
    ['MAC', instance.address.mac],
    ['Memory', formatCapacity(instance.memoryBytes)],
    ['vCPUs', String(instance.vcpus)],
    ['Image', `${instance.imageName} (${instance.imageId.slice(0, 12)})`],
    ['Created', formatTime(instance.createdAt)],
    ['Under way', running === null ? null : `${running.type} (move ${shortMove(running.runId)})`],
    [
      'Packages',
      packages.length === 0 ? null : packages.map(({ id, hosts }) => `${short(id)} on ${hosts.join(' ')}`).join(', '),
    ],
  ]);
  const history = moves.length === 0 ? '' : `\n\nMoves:\n${table(moves, moveColumns).join('\n')}`;
  session.output.answer(`${text}${history}`, {
    ...instance,
    underWay: running === null ? null : { type: running.type, moveId: running.runId },
    packages,
    moves,
  });
}
