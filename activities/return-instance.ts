/**
 * The way back [source]: the instance runs again where it was, whatever state the move left it in.
 *
 * First the decision, then the deed: once `takeBack` is on disk this generation can never be released, so nothing that
 * another host holds or does can make a second copy. Every call ends with the instance running; repeated, it finds what
 * the call before it reached.
 */
import { join } from 'node:path';
import type { HostActivities, MoveRef } from '../workflows/contract.ts';
import { VmferryError } from '../workflows/failures.ts';
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
import { requireNotStopped } from './ownership.ts';
import { exists } from './records/durable.ts';
import { MEMBER } from './records/layout.ts';
import { withInstanceLock } from './records/lock.ts';
import { hasRun, markRun, runCopy } from './resume-instance.ts';
import { LOCAL_XML, rewriteXml } from './rewrite-xml.ts';
import { changedDisk, readSaveRecord, sameProcess, type SaveRecord } from './save-record.ts';

type How = Awaited<ReturnType<HostActivities['returnInstance']>>['how'];

export function createReturnInstance(host: HostContext): HostActivities['returnInstance'] {
  return (move) =>
    withHeartbeat('returnInstance', (work) =>
      withInstanceLock(host.layout, move.instanceId, async () => {
        await requireNotStopped(host, move.instanceId, move.generation);
        await requireSameSave(host, move);
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
 * Lets an instance that was taken back run, as far as it got before.
 *
 * `resumed-<generation>.json` is written before the vCPUs start, whatever they start from: once it is there the saved RAM is
 * never used again, for the guest may have written to its disk since.
 *
 * @throws PackageNotFound if its RAM is in a package that was not opened
 */
export async function runTakenBack(host: HostContext, move: MoveRef, work: Work): Promise<How> {
  const record = await readSaveRecord(host.layout, move.instanceId, move.generation - 1);
  const how = await run(host, move, record, work);
  if (record?.autostart) await host.hypervisor.setAutostart(move.instanceId, true);
  return how;
}

async function run(host: HostContext, move: MoveRef, record: SaveRecord | null, work: Work): Promise<How> {
  const { hypervisor, layout } = host;
  const { instanceId, generation } = move;
  // Another process that stands paused is a copy that an earlier attempt restored, and that runCopy judges. One that runs was
  // started by somebody since, and goes on: this host owns it.
  const goesOn = (domain: Domain | null): boolean =>
    domain?.state === 'running' || (domain?.process ? !record || sameProcess(domain.process, record.process) : false);
  const domain = await hypervisor.find(instanceId);
  if (goesOn(domain) && goesOn(await endJob(host, instanceId, work))) {
    await markRun(host, instanceId, generation);
    await hypervisor.resume(instanceId);
    return domain?.state === 'running' ? 'never stopped' : 'resumed';
  }

  const ranBefore = await hasRun(host, instanceId, generation);
  // It ran on after the save and has stopped since: RAM that is older than its disk would corrupt it.
  const ranOn = !ranBefore && record?.saved ? (await changedDisk(record))?.how === 'written' : false;
  const folder = ranBefore || ranOn ? null : await membersFolder(host, move, work);
  if (folder === null && !ranBefore && !ranOn && record?.saved) {
    throw new VmferryError(
      'PackageNotFound',
      `the RAM of instance ${instanceId} lies in package ${record.packageId}; it is restored from there`,
    );
  }
  if (folder === null && !ranBefore) {
    // The host lost power while the guest ran or before its RAM was saved: what any power loss does to it.
    await markRun(host, instanceId, generation);
    await hypervisor.start(instanceId);
    return 'rebooted';
  }
  await runCopy(host, instanceId, generation, folder ?? layout.move(move.moveId), work);
  return 'restored';
}

/**
 * Where the members lie from which to restore: opened from this host's own package, or still as the save left them.
 * Null if the instance's RAM was never saved whole.
 */
async function membersFolder(host: HostContext, move: MoveRef, work: Work): Promise<string | null> {
  const { layout } = host;
  const staged = layout.stage(move.moveId);
  if (await exists(join(staged, LOCAL_XML))) return staged;
  const own = layout.move(move.moveId);
  if ((await saveFileState(join(own, MEMBER.snapshot))) !== 'complete') return null;
  if (await exists(join(own, LOCAL_XML))) return own;
  const record = await readSaveRecord(layout, move.instanceId, move.generation - 1);
  if (!record) return null;
  for (const { target, path } of record.disks) {
    const copy = join(own, MEMBER.disk(target));
    await copyFile({ from: path, to: copy, work });
    const { backingFormat } = await inspectQcow2(copy);
    await rebaseUnsafe({
      path: copy,
      backing: await imageOfOverlay(layout, path),
      backingFormat: backingFormat ?? 'qcow2',
    });
  }
  await rewriteXml(host, move, own);
  return own;
}
