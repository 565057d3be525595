/**
 * The way back [source]: the instance runs again where it was, whatever state the move left it in.
 *
 * First the decision, then the deed: once `takeBack` is on disk this generation can never be released, so nothing that
 * another host holds or does can make a second copy. Every call ends with the instance running; repeated, it finds what
 * the call before it reached.
 */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { HostActivities, MoveRef } from '../workflows/contract.ts';
import { VmferryError } from '../workflows/failures.ts';
import { copyBootFiles } from './boot-files.ts';
import { copyFile } from './disk/copy.ts';
import { inspectQcow2 } from './disk/qcow2.ts';
import { rebaseUnsafe } from './disk/qemu-img.ts';
import { endJob } from './end-job.ts';
import { withHeartbeat, type Work } from './heartbeat.ts';
import type { HostContext } from './host-context.ts';
import type { Domain } from './hypervisor/hypervisor.ts';
import { saveFileState } from './hypervisor/save-file.ts';
import { imageOfOverlay } from './images.ts';
import { passed } from './marks.ts';
import { isFolderOf } from './move-folder.ts';
import { readMovedEnvelope } from './moved-envelope.ts';
import { openOwnIntoStage } from './open-package.ts';
import { requireNotStopped } from './ownership.ts';
import { exists, syncFile } from './records/durable.ts';
import { MEMBER } from './records/layout.ts';
import { withInstanceLock } from './records/lock.ts';
import { hasRun, letRun, markRun, runCopy } from './resume-instance.ts';
import { sealedDisks, stagedDisks, type StagedDisk } from './restore-copy.ts';
import { isRewritten, rewriteOpened, rewriteXml } from './rewrite-xml.ts';
import { changedDisk, readSaveRecord, sameProcess, type SaveRecord } from './save-record.ts';

type How = Awaited<ReturnType<HostActivities['returnInstance']>>['how'];

export function createReturnInstance(host: HostContext): HostActivities['returnInstance'] {
  return (move) =>
    withHeartbeat('returnInstance', (work) =>
      withInstanceLock(host.layout, move.instanceId, async () => {
        await requireNotStopped(host, move.instanceId, move.generation);
        await requireSameSave(host, move);
        await requireRunBefore(host, move);
        const { generation } = await host.ledger.takeBack(move);
        await passed('taken-back');
        return { generation, how: await runTakenBack(host, move, work) };
      }),
    );
}

/**
 * What a move has stopped is taken back from what that move saved. By the name of another it could be decided, and then
 * nobody would know from which package to go on.
 *
 * @throws InstanceBusy before anything is decided
 */
async function requireSameSave(host: HostContext, { instanceId, generation, packageId }: MoveRef): Promise<void> {
  const record = await readSaveRecord(host.layout, instanceId, generation - 1);
  if (!record || record.packageId === packageId) return;
  throw new VmferryError(
    'InstanceBusy',
    `instance ${instanceId} was stopped by move ${record.moveId} for package ${record.packageId}, not for ${packageId}`,
  );
}

/**
 * A generation that came here and never ran is not taken back but brought to its end, by the step that brought it: the
 * records of the generations before say nothing of how it is to be continued.
 *
 * @throws InstanceNotRunning before anything is decided
 */
async function requireRunBefore(host: HostContext, { instanceId, generation }: MoveRef): Promise<void> {
  const owned = await host.ledger.owned(instanceId);
  if (owned?.generation !== generation - 1 || owned.generation === 1) return;
  const { layout, hypervisor, name } = host;
  if (await hasRun(host, instanceId, owned.generation)) return;
  if (await readSaveRecord(layout, instanceId, owned.generation)) return;
  // By hand, without any step of ours.
  if ((await hypervisor.find(instanceId))?.state === 'running') return;
  throw new VmferryError(
    'InstanceNotRunning',
    `generation ${owned.generation} of instance ${instanceId} has never run on ${name}; what brought it there is to be repeated`,
  );
}

/**
 * Lets an instance that was taken back run, as far as it got before.
 *
 * `resumed-<generation>.json` is written before the vCPUs start, whatever they start from: once it is there the saved RAM is
 * never used again, for the guest may have written to its disk since.
 *
 * @throws PackageNotFound if its RAM is in a package that is not here any more
 */
export async function runTakenBack(host: HostContext, move: MoveRef, work: Work): Promise<How> {
  const record = await readSaveRecord(host.layout, move.instanceId, move.generation - 1);
  const how = await runAgain(host, move, record, work);
  if (record?.autostart) await host.hypervisor.setAutostart(move.instanceId, true);
  return how;
}

async function runAgain(host: HostContext, move: MoveRef, record: SaveRecord | null, work: Work): Promise<How> {
  const { hypervisor } = host;
  const { instanceId, generation } = move;
  if (await hasRun(host, instanceId, generation)) return letRun(host, instanceId);

  // What it holds is newer than what was saved, unless it is a copy that an earlier attempt restored: runCopy judges that.
  // One that runs was started by somebody since, and goes on: this host owns it.
  const goesOn = async (domain: Domain | null): Promise<boolean> =>
    domain?.state === 'running' || (domain?.process ? !(await isCopy(host, domain, generation, record)) : false);
  const domain = await hypervisor.find(instanceId);
  // The save may end while its job is ended, and QEMU with it.
  if ((await goesOn(domain)) && (await goesOn(await endJob(host, instanceId, work)))) {
    await markRun(host, instanceId, generation);
    await hypervisor.resume(instanceId);
    return domain?.state === 'running' ? 'never stopped' : 'resumed';
  }

  // It ran on after the save and has stopped since: RAM that is older than its disk would corrupt it.
  const ranOn = record?.saved ? (await changedDisk(record))?.how === 'written' : false;
  const members = record && !ranOn ? await membersOf(host, move, record, work) : null;
  if (members === null) {
    // The host lost power while the guest ran or before its RAM was saved: what any power loss does to it.
    await markRun(host, instanceId, generation);
    await hypervisor.start(instanceId);
    return 'rebooted';
  }
  await runCopy(host, move, members.folder, members.disksOf, work);
  return 'restored';
}

/** Was this domain restored by an attempt to return it? Its disks lie in the folder of the generation that it returns as. */
async function isCopy(
  { hypervisor, layout }: HostContext,
  { instanceId, process, state }: Domain,
  generation: number,
  record: SaveRecord | null,
): Promise<boolean> {
  // libvirt has lost sight of it, and has no XML to tell.
  if (state === 'shut off') return record !== null && !sameProcess(process, record.process);
  const xml = await hypervisor.domainXml(instanceId, 'live');
  return xml.includes(`${layout.generation(instanceId, generation)}/`);
}

interface SavedMembers {
  folder: string;
  disksOf: () => Promise<StagedDisk[]>;
}

/**
 * Where the members lie from which to restore: opened from this host's own package, or still as the save left them, in the
 * folder of the move that saved it. Null if the instance's RAM was never saved whole.
 *
 * @throws PackageNotFound if it was, and is not here any more
 */
async function membersOf(
  host: HostContext,
  move: MoveRef,
  record: SaveRecord,
  work: Work,
): Promise<SavedMembers | null> {
  const { layout } = host;
  const { instanceId } = move;
  const { packageId } = record;
  const opened: MoveRef = { ...move, packageId };
  const staged: SavedMembers = {
    folder: layout.stage(move.moveId),
    disksOf: async () => sealedDisks((await readMovedEnvelope(host, opened)).origin),
  };
  if ((await isFolderOf(staged.folder, opened)) && (await isRewritten(host, move, staged.folder))) return staged;
  const own = layout.move(record.moveId);
  if ((await saveFileState(join(own, MEMBER.snapshot))) === 'complete') {
    if (!(await isRewritten(host, move, own))) {
      await copyMembers(host, record, own, work);
      await rewriteXml(host, move, own);
    }
    return { folder: own, disksOf: () => stagedDisks(own) };
  }
  if (!record.saved) return null;
  if (!(await exists(layout.package(packageId)))) {
    throw new VmferryError(
      'PackageNotFound',
      `the RAM of instance ${instanceId} lies in package ${packageId}, which host ${host.name} does not hold any more`,
    );
  }
  await openOwnIntoStage(host, opened, work);
  await rewriteOpened(host, opened);
  return staged;
}

/** What the save left where it was, as members beside the snapshot: overlays with a base that is named by its digest, and what it boots from. */
async function copyMembers({ layout }: HostContext, record: SaveRecord, folder: string, work: Work): Promise<void> {
  for (const { target, path } of record.disks) {
    const copy = join(folder, MEMBER.disk(target));
    await copyFile({ from: path, to: copy, work });
    const { backingFormat } = await inspectQcow2(copy);
    const backing = await imageOfOverlay(layout, path);
    await rebaseUnsafe({ path: copy, backing, backingFormat: backingFormat ?? 'qcow2' });
    await syncFile(copy);
  }
  await copyBootFiles(await readFile(join(folder, MEMBER.domainXml), 'utf8'), folder, work);
}
