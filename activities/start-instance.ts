/**
 * Runs an instance that this host owns and that is down or paused: after a power loss, after a move whose workflow was
 * terminated, after a save. No move of it is open; the caller holds its workflow id.
 *
 * What a move stopped is first taken back, so that what was saved can never be released any more; that its RAM can be had is
 * made sure of before that. Can die at any instant: each attempt finds what the ledger and the records say, and goes on.
 */
import { join } from 'node:path';
import type { HostActivities, InstanceId, MoveRef, SignedText, StartResult } from '../workflows/contract.ts';
import { VmferryError } from '../workflows/failures.ts';
import { withHeartbeat, type Work } from './heartbeat.ts';
import type { HostContext } from './host-context.ts';
import { saveFileState } from './hypervisor/save-file.ts';
import { isFolderOf } from './move-folder.ts';
import { openOwnIntoStage } from './open-package.ts';
import { exists } from './records/durable.ts';
import { MEMBER } from './records/layout.ts';
import { withInstanceLock } from './records/lock.ts';
import { readReservation } from './reservation.ts';
import { hasRun, markRun, runReleased } from './resume-instance.ts';
import { runTakenBack } from './return-instance.ts';
import { isRewritten, rewriteOpened } from './rewrite-xml.ts';
import { readSaveRecord } from './save-record.ts';
import type { Owned } from './trust/ledger-book.ts';
import { readUnverified } from './trust/signed-text.ts';
import { Link } from './trust/statements.ts';

type Answer = Awaited<ReturnType<HostActivities['startInstance']>>;

export function createStartInstance(host: HostContext): HostActivities['startInstance'] {
  return ({ instanceId }) =>
    withHeartbeat('startInstance', (work) =>
      withInstanceLock(host.layout, instanceId, () => startInstance(host, instanceId, work)),
    );
}

const HOW = {
  'never stopped': 'ran already',
  resumed: 'resumed',
  restored: 'restored',
  rebooted: 'booted',
} as const;

async function startInstance(host: HostContext, instanceId: InstanceId, work: Work): Promise<Answer> {
  const owned = await host.ledger.owned(instanceId);
  if (!owned) throw new VmferryError('NotOwner', `host ${host.name} does not own instance ${instanceId}`);

  const stopped = await moveThatStopped(host, instanceId, owned);
  if (stopped) {
    await ensureMembers(host, stopped, work);
    const { generation } = await host.ledger.takeBack(stopped);
    return { generation, how: HOW[await runTakenBack(host, stopped, work)], move: stopped };
  }
  const { generation } = owned;
  const arrived = (await hasRun(host, instanceId, generation)) ? null : await moveThatBrought(host, instanceId, owned);
  if (arrived) {
    const paused = (await host.hypervisor.find(instanceId))?.state === 'paused';
    await runReleased(host, arrived, work);
    return { generation, how: paused ? 'resumed' : 'restored', move: arrived };
  }
  return { generation, how: await runAsItIs(host, instanceId, generation), move: null };
}

/** The move that stopped the owned generation, or the one before of which it was taken back and has not run since. */
async function moveThatStopped(
  host: HostContext,
  instanceId: InstanceId,
  { generation }: Owned,
): Promise<MoveRef | null> {
  for (const stopped of [generation, generation - 1]) {
    const record = await readSaveRecord(host.layout, instanceId, stopped);
    if (!record || (stopped < generation && (await hasRun(host, instanceId, generation)))) continue;
    const decision = await host.ledger.decision(instanceId, stopped);
    if (decision && (decision.kind !== 'return' || decision.packageId !== record.packageId)) continue;
    return { instanceId, generation: stopped + 1, moveId: record.moveId, packageId: record.packageId };
  }
  return null;
}

/** Before anything is decided: the saved RAM is in the move’s folder, or is opened from the package that was made of it. */
async function ensureMembers(host: HostContext, move: MoveRef, work: Work): Promise<void> {
  const { layout } = host;
  const record = await readSaveRecord(layout, move.instanceId, move.generation - 1);
  if (!record?.saved || (await hasRun(host, move.instanceId, move.generation))) return;
  if ((await saveFileState(join(layout.move(move.moveId), MEMBER.snapshot))) === 'complete') return;
  const stage = layout.stage(move.moveId);
  if ((await isFolderOf(stage, move)) && (await isRewritten(host, move, stage))) return;
  if (!(await exists(layout.package(move.packageId)))) {
    throw new VmferryError(
      'PackageNotFound',
      `instance ${move.instanceId} is saved in package ${move.packageId}, which is not on host ${host.name}`,
    );
  }
  await openOwnIntoStage(host, move, work);
  await rewriteOpened(host, move);
}

/** The release or fence by which the instance came here; null if it came otherwise. */
async function moveThatBrought(
  host: HostContext,
  instanceId: InstanceId,
  { generation, chain }: Owned,
): Promise<(MoveRef & { source?: SignedText }) | null> {
  const last = await readUnverified(chain.statements.at(-1) ?? '', Link);
  if (last.type !== 'release' && last.type !== 'fence') return null;
  const { packageId } = last;
  const reserved = await readReservation(host.layout, instanceId);
  const moveId = reserved?.generation === generation ? reserved.moveId : packageId;
  if (last.type === 'fence') {
    return { instanceId, generation, packageId, moveId, fence: await sinceSealed(chain.statements, packageId) };
  }
  const { signer, signerFingerprint } = last;
  for (const source of chain.hosts) {
    const { record } = await host.pool.onceCertifiedHost(source);
    if (record.fingerprint === signerFingerprint) return { instanceId, generation, packageId, moveId, source };
  }
  throw new VmferryError('ChainBroken', `the chain of instance ${instanceId} lacks the record of ${signer}`);
}

/** The statements at the end of a chain that followed the chain of a package: its release, if it was given, and fences. */
async function sinceSealed(statements: readonly SignedText[], packageId: string): Promise<SignedText[]> {
  const since: SignedText[] = [];
  for (const text of statements.toReversed()) {
    const link = await readUnverified(text, Link);
    if ((link.type !== 'fence' && link.type !== 'release') || link.packageId !== packageId) break;
    since.unshift(text);
  }
  return since;
}

/** Nothing was saved of this generation: it stands paused, or boots from its own disk. */
async function runAsItIs(host: HostContext, instanceId: InstanceId, generation: number): Promise<StartResult['how']> {
  const { hypervisor, name } = host;
  const domain = await hypervisor.find(instanceId);
  if (domain?.state === 'running') return 'ran already';
  if (!domain?.persistent) {
    throw new VmferryError(
      'InstanceNotFound',
      `libvirt on ${name} does not know instance ${instanceId}, though ${name} owns its generation ${generation}`,
    );
  }
  await markRun(host, instanceId, generation);
  if (domain.state === 'paused') {
    await hypervisor.resume(instanceId);
    return 'resumed';
  }
  await hypervisor.start(instanceId);
  return 'booted';
}
