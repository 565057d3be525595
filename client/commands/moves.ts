/** `vmferry moves`: runs of migrate, save and restore, of the past and present. */
import type { Command } from 'commander';
import { VmferryError } from '../../workflows/failures.ts';
import type { MoveProgress, StepRecord } from '../../workflows/contract.ts';
import type { MoveRow } from '../catalog-queries.ts';
import { choicesOf, choicesWhileWaiting, type Choice } from '../choices.ts';
import { explain } from '../failure.ts';
import { follow } from '../follow.ts';
import { formatBytes, formatSeconds, formatTime, parseWhole, shortMove } from '../format.ts';
import { fields, section, table } from '../output.ts';
import type { Column, Section } from '../output.ts';
import { findHost, findMove } from '../resolve.ts';
import type { FoundMove } from '../resolve.ts';
import type { Session } from '../session.ts';
import { readdressByFence } from './fence.ts';

export const moveColumns: Column<MoveRow>[] = [
  { title: 'id', value: ({ id }) => shortMove(id) },
  { title: 'kind', value: ({ kind }) => kind },
  { title: 'instance', value: ({ instanceName }) => instanceName },
  { title: 'from', value: ({ source }) => source },
  { title: 'to', value: ({ destination }) => destination },
  { title: 'state', value: ({ outcome, phase }) => outcome ?? phase ?? '' },
  { title: 'step', value: ({ outcome, step }) => (outcome === null ? (step ?? '') : '') },
  { title: 'started', value: ({ startedAt }) => formatTime(startedAt) },
  {
    title: 'blackout',
    value: ({ result }) => (result === null ? '' : formatSeconds(result.blackoutSeconds)),
    align: 'right',
  },
  { title: 'sent', value: ({ result }) => (result === null ? '' : formatBytes(result.wireBytes)), align: 'right' },
];

/** Moves that do not go on without luck or a decision. */
export const isStuck = ({ phase }: MoveRow): boolean => phase === 'parked' || phase === 'waiting';

export const stuckMovesSection = (rows: MoveRow[]): Section =>
  section({
    kind: 'move',
    title: 'moves',
    rows,
    columns: [
      { title: 'id', value: ({ id }) => shortMove(id) },
      { title: 'instance', value: ({ instanceName }) => instanceName },
      { title: 'from', value: ({ source }) => source },
      { title: 'to', value: ({ destination }) => destination },
      { title: 'state', value: ({ phase }) => phase ?? '' },
      { title: 'since', value: ({ updatedAt }) => formatTime(updatedAt) },
      { title: 'because', value: ({ failure }) => failure?.message ?? '' },
    ] satisfies Column<MoveRow>[],
  });

const MOVE = 'move: id, its beginning, or the instance whose newest move is meant';

export function addMovesCommands(program: Command, session: Session): void {
  const moves = program.command('moves').description('Watch and steer moves');

  moves
    .command('list')
    .description('List the moves, newest first')
    .option('--instance <id>', 'only those of this instance')
    .option('--open', 'only those under way')
    .option('--limit <n>', 'at most so many', '20')
    .addHelpText('after', '\nExample:\n  vmferry moves list --open --output json')
    .action(async (options: { instance?: string; open?: boolean; limit: string }) => {
      const limit = parseWhole(options.limit, '--limit', 1, 10_000);
      const catalog = await (await session.api()).catalog();
      const instanceId = options.instance === undefined ? undefined : (await catalog.findInstance(options.instance)).id;
      const rows = await catalog.moves({
        limit,
        openOnly: options.open === true,
        ...(instanceId === undefined ? {} : { instanceId }),
      });
      session.output.listing(section({ kind: 'move', title: 'moves', rows, columns: moveColumns }));
    });

  moves
    .command('show')
    .argument('<move>', MOVE)
    .description('Show how far a move is, step by step, and what it waits for')
    .addHelpText('after', '\nExample:\n  vmferry moves show counter --output json')
    .action((word: string) => show(session, word));

  moves
    .command('watch')
    .argument('<move>', MOVE)
    .description('Watch a move to its end')
    .option('--until-parked', 'end when it is parked, instead of waiting for the decision')
    .addHelpText(
      'after',
      '\nCtrl-C ends the watching, not the move.\n\nExample:\n  vmferry moves watch counter --output jsonl',
    )
    .action(async (word: string, options: { untilParked?: boolean }) =>
      watch(session, await find(session, word), options.untilParked === true),
    );

  const decision = (
    name: string,
    description: string,
    decide: (found: FoundMove) => Promise<void>,
    answer: (id: string) => string,
  ): Command =>
    moves
      .command(name)
      .argument('<move>', MOVE)
      .description(description)
      .option('--watch', 'watch it afterwards')
      .addHelpText('after', `\nExample:\n  vmferry moves ${name} counter --watch`)
      .action(async (word: string, options: { watch?: boolean }) => {
        const found = await find(session, word);
        await decide(found);
        if (options.watch === true) return watch(session, found);
        const { runId } = found.running;
        session.output.answer(answer(shortMove(runId)), { moveId: runId, decision: name });
      });

  decision(
    'retry',
    'Let a parked move try its failed step again',
    ({ running }) => running.retry(),
    (id) => `Move ${id} tries again`,
  );
  decision(
    'return',
    'Let the instance run at its source again',
    ({ running }) => running.return(),
    (id) => `Move ${id} returns to its source`,
  );

  moves
    .command('readdress')
    .argument('<move>', MOVE)
    .argument('<host>', 'new destination: name or fingerprint')
    .description('Send a parked move to another host; the bulk of its package stays as it is')
    .option('--yes', 'do not ask before a fence is signed')
    .option('--watch', 'watch it afterwards')
    .addHelpText(
      'after',
      '\nOnce the instance is released this needs a fence: your word, signed with the pool key, that the host which the move' +
        '\nwaits for died for good. It is asked for, with what may be lost.' +
        '\n\nExample:\n  vmferry moves readdress counter gamma --watch',
    )
    .action(async (word: string, hostWord: string, options: { watch?: boolean; yes?: boolean }) => {
      const found = await find(session, word);
      const host = await findHost(await (await session.api()).catalog(), hostWord);
      const progress = await progressOf(found.running);
      if (progress?.fence === undefined) await found.running.readdress(host.id);
      else
        await readdressByFence(
          session,
          found.running,
          { ...progress, fence: progress.fence },
          host,
          options.yes === true,
        );
      if (options.watch === true) return watch(session, found);
      const { runId } = found.running;
      session.output.answer(`Move ${shortMove(runId)} goes to ${host.id}`, {
        moveId: runId,
        decision: 'readdress',
        destination: host.id,
      });
    });

  decision(
    'abandon',
    'Give a parked move up: the instance stays down, saved at its source',
    ({ running }) => running.abandon(),
    (id) => `Move ${id} is given up; the instance is kept as a package`,
  );
  decision(
    'cancel',
    'Cancel a move: the instance runs on at its source; refused from the point of no return on',
    ({ running }) => running.cancel(),
    (id) => `Move ${id} is asked to stop`,
  );
}

async function find(session: Session, word: string): Promise<FoundMove> {
  const api = await session.api();
  return findMove(await api.catalog(), await api.temporal(), word);
}

async function watch(session: Session, { row, running }: FoundMove, untilParked = false): Promise<void> {
  const title =
    row === null ? `move ${shortMove(running.runId)}` : `${row.instanceName} ${row.source} → ${row.destination}`;
  const result = await follow(session, running, { title, untilParked });
  session.output.answer(outcomeOf(running.type, result), { moveId: running.runId, ...(result as object) });
}

/** The sentence that the command which started it would have said. */
function outcomeOf(type: string, result: unknown): string {
  const { instanceId, destination, host, packageId } = result as Record<string, string>;
  if (type === 'save') return `Instance ${instanceId} saved as package ${packageId} on ${host}`;
  if (type === 'restore') return `Instance ${instanceId} restored on ${destination}`;
  if (type === 'migrate') return `Instance ${instanceId} migrated to ${destination}`;
  return `${type} of instance ${instanceId} has ended`;
}

async function show(session: Session, word: string): Promise<void> {
  const api = await session.api();
  const { row, running } = await find(session, word);
  // What ended long ago may be forgotten by Temporal, and a worker may be away: the catalog's row is shown then.
  const progress = await progressOf(running);
  if (row === null && progress === null) {
    throw new VmferryError('HostUnreachable', 'No control worker answers, and the catalog does not know the move yet');
  }
  const failure = row?.failure ?? null;
  const address =
    api.profile.ui === null
      ? null
      : `${api.profile.ui}/namespaces/${api.profile.temporal.namespace}/workflows/${encodeURIComponent(running.workflowId)}/${running.runId}`;
  const parked = progress?.parked;
  const now = session.clock.now();
  const since = (time: number): string => `${formatTime(time)} (${formatSeconds(Math.max(0, now - time) / 1000)})`;
  const text = fields([
    ['Move', running.runId],
    ['Kind', running.type],
    [
      'Instance',
      `${progress?.instanceName ?? row?.instanceName ?? ''} (${progress?.instanceId ?? row?.instanceId ?? ''})`,
    ],
    ['From', progress?.source ?? row?.source],
    ['To', progress?.destination ?? row?.destination],
    ['State', row?.outcome ?? progress?.phase ?? row?.phase],
    ['Step', (row?.outcome ?? null) === null ? (progress?.step ?? row?.step) : null],
    ['Waiting for', progress?.waitingFor === undefined ? null : `the worker of ${progress.waitingFor}`],
    ['Waiting since', progress?.waitingSince === undefined ? null : since(progress.waitingSince)],
    ['Parked since', parked === undefined ? null : since(parked.since)],
    ['Because', parked?.reason ?? (failure === null ? null : failure.message)],
    ['Goes on', goesOn(progress)],
    ['Package', progress?.packageId ?? row?.packageId],
    ['Package size', sizeOf(progress?.packageBytes ?? row?.result?.packageBytes)],
    ['Sent', sizeOf(progress?.wireBytes ?? row?.result?.wireBytes)],
    ['Blackout', secondsOf(progress?.blackoutSeconds ?? row?.result?.blackoutSeconds)],
    ['Started', timeOf(row?.startedAt)],
    ['Ended', timeOf(row?.endedAt)],
    ['Web interface', address],
  ]);
  const choices = progress === null ? [] : offered({ ...progress, moveId: running.runId });
  const list = choices.map(({ command, meaning }) => `  ${command}  (${meaning})`);
  const decide = list.length === 0 ? '' : `\n\nChoices:\n${list.join('\n')}`;
  const steps = progress === null ? '' : `\n\nSteps:\n${table(progress.steps, stepColumns).join('\n')}`;
  session.output.answer(`${text}${decide}${steps}`, {
    moveId: running.runId,
    kind: running.type,
    ...row,
    ...progress,
    ui: address,
  });
}

/** What of the choices makes sense now. */
function offered(progress: MoveProgress): Choice[] {
  if (progress.parked !== undefined) return choicesOf(progress);
  return progress.phase === 'waiting' ? choicesWhileWaiting(progress) : [];
}

/** When it goes on without anybody deciding anything; null if never, or if nothing keeps it. */
function goesOn(progress: MoveProgress | null): string | null {
  if (progress?.waitingFor !== undefined) return `by itself, when the worker of ${progress.waitingFor} is back`;
  const { parked } = progress ?? {};
  if (parked === undefined) return null;
  return parked.released || parked.choices.length === 1 ? 'by itself, once the cause is gone' : 'by your decision only';
}

const stepColumns: Column<StepRecord>[] = [
  { title: 'step', value: ({ step }) => step },
  { title: 'host', value: ({ host }) => host },
  {
    title: 'time',
    value: ({ startedAt, endedAt }) =>
      endedAt === undefined ? 'under way' : formatSeconds((endedAt - startedAt) / 1000),
    align: 'right',
  },
  { title: 'what', value: ({ summary }) => summary ?? '' },
];

async function progressOf(running: FoundMove['running']): Promise<MoveProgress | null> {
  try {
    return (await running.snapshot()).progress;
  } catch (error) {
    if (explain(error).type === 'MoveNotFound') return null;
    throw error;
  }
}

const sizeOf = (bytes: number | undefined): string | null =>
  bytes === undefined || bytes === 0 ? null : formatBytes(bytes);
const secondsOf = (seconds: number | undefined): string | null =>
  seconds === undefined ? null : formatSeconds(seconds);
const timeOf = (time: Date | null | undefined): string | null =>
  time === null || time === undefined ? null : formatTime(time);
