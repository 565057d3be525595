/**
 * Step 4 [source]: suspend, then RAM and CPU to the save file. The blackout begins.
 *
 * How it can die half way, and what the next attempt finds:
 * - before the record: nothing happened; it begins anew.
 * - after the record, guest running: it suspends and saves.
 * - guest paused, no save file: it saves.
 * - guest paused, a job of libvirt's under way: libvirt goes on without us, and its end is waited for.
 * - QEMU gone and the file complete: the guest was suspended before and cannot have run since; the file is taken.
 * - guest paused beside a file, and no job: libvirtd died, between file and QEMU's end if the file is complete. It is not
 *   believed. QEMU saves again only after it has run: the guest is resumed for an instant, which is its right while nothing
 *   was released; what the file held is thrown away before, for it is older than the disk from then on.
 * - QEMU gone and no complete file: the host lost power. Nothing can be saved; the way back boots the instance.
 * - the record says saved: the same answer again.
 *
 * Only who asks for the end of the move ends libvirt's job. A worker that shuts down, or an attempt that was given up, leaves
 * it going: the next attempt takes what it made.
 *
 * The step hands on as soon as the file is complete. libvirt then still ends QEMU; the release (step 12) waits for that.
 */
import { rm, stat, truncate } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { HostActivities, MoveRef, SaveFacts } from '../workflows/contract.ts';
import { VmferryError } from '../workflows/failures.ts';
import { jobEnded } from './end-job.ts';
import { isCalledOff, withHeartbeat, type Work } from './heartbeat.ts';
import type { HostContext } from './host-context.ts';
import { describeDomain } from './hypervisor/domain-xml.ts';
import type { Domain } from './hypervisor/hypervisor.ts';
import { saveFileState } from './hypervisor/save-file.ts';
import { passed } from './marks.ts';
import { claimFolder } from './move-folder.ts';
import { requireOwned } from './ownership.ts';
import { syncDirectory, syncFile, writeDurable } from './records/durable.ts';
import { MEMBER } from './records/layout.ts';
import { withInstanceLock } from './records/lock.ts';
import { fileStamp, readSaveRecord, writeSaveRecord, type SaveRecord } from './save-record.ts';

export function createSaveInstance(host: HostContext): HostActivities['saveInstance'] {
  return (move) =>
    withHeartbeat('saveInstance', (work) =>
      withInstanceLock(host.layout, move.instanceId, () => saveInstance(host, move, work)),
    );
}

async function saveInstance(host: HostContext, move: MoveRef, work: Work): Promise<SaveFacts> {
  const { hypervisor, layout } = host;
  const { generation: owned } = await requireOwned(host, move);
  const snapshot = join(layout.move(move.moveId), MEMBER.snapshot);

  const known = await readSaveRecord(layout, move.instanceId, owned);
  if (known && known.moveId !== move.moveId) {
    throw new VmferryError('InstanceBusy', `instance ${move.instanceId} was stopped by move ${known.moveId} already`);
  }
  if (known?.saved) return { stoppedMillis: known.saved.stoppedMillis, saveBytes: known.saved.bytes };

  const record = known ?? (await beginRecord(host, move, owned));
  await passed('recorded');
  const stoppedAt = performance.now();
  const domain = await (known ? untilLibvirtRests(host, move, work) : hypervisor.find(move.instanceId));
  if (domain?.process) {
    await hypervisor.setAutostart(move.instanceId, false);
    if ((await saveFileState(snapshot)) !== 'absent') {
      // For good, and before the guest can go on: a complete file beside no QEMU is taken for its last state.
      await truncate(snapshot, 0);
      await syncFile(snapshot);
      await hypervisor.resume(move.instanceId);
    }
    await hypervisor.suspend(move.instanceId);
    await passed('suspended');
    await rm(snapshot, { force: true });
    await writeSaveFile(host, move, snapshot, work);
  } else if ((await saveFileState(snapshot)) !== 'complete') {
    throw new VmferryError(
      'InstanceNotRunning',
      `instance ${move.instanceId} stopped on ${host.name} before its RAM was saved; did the host lose power?`,
    );
  }

  await syncFile(snapshot);
  await syncDirectory(layout.move(move.moveId));
  await passed('written');
  for (const disk of record.disks) disk.stamp = await fileStamp(disk.path);
  const bytes = (await stat(snapshot)).size;
  record.saved = { bytes, stoppedMillis: performance.now() - stoppedAt };
  await writeSaveRecord(layout, move.instanceId, owned, record);
  return { stoppedMillis: record.saved.stoppedMillis, saveBytes: bytes };
}

/** Written while the guest still runs: from here on the way back knows what to restore. */
async function beginRecord(host: HostContext, move: MoveRef, owned: number): Promise<SaveRecord> {
  const { hypervisor, layout } = host;
  const domain = await hypervisor.find(move.instanceId);
  if (domain?.state !== 'running') {
    throw new VmferryError(
      'InstanceNotRunning',
      `instance ${move.instanceId} is ${domain?.state ?? 'not defined'} on ${host.name}, so it has no RAM to save`,
    );
  }
  await claimFolder(layout, 'move', move);
  const xml = await hypervisor.domainXml(move.instanceId, 'inactive');
  await writeDurable(join(layout.move(move.moveId), MEMBER.domainXml), xml);
  const record: SaveRecord = {
    moveId: move.moveId,
    packageId: move.packageId,
    process: domain.process,
    autostart: domain.autostart,
    disks: describeDomain(xml).disks.map(({ target, path }) => ({ target, path, stamp: null })),
    saved: null,
  };
  await writeSaveRecord(layout, move.instanceId, owned, record);
  return record;
}

async function writeSaveFile(host: HostContext, move: MoveRef, snapshot: string, work: Work): Promise<void> {
  const save = host.hypervisor.save(move.instanceId, snapshot);
  let ended = false;
  const settled = save.finished.then(
    () => (ended = true),
    () => (ended = true), // its error is thrown below, by awaiting `finished` itself
  );
  const progress = setInterval(() => {
    host.hypervisor.saveProgress(move.instanceId).then(
      (job) => job && work.onProgress(job.done, job.total),
      () => undefined, // the job may end between two looks; its end is seen by `finished`
    );
  }, 500);
  try {
    while ((await saveFileState(snapshot)) !== 'complete') {
      if (ended) {
        await save.finished;
        // The magic may have been written since the look above.
        if ((await saveFileState(snapshot)) === 'complete') return;
        throw new VmferryError('SaveFileMalformed', `libvirt reported a save, but ${snapshot} is not complete`);
      }
      if (work.signal.aborted) {
        if (isCalledOff()) {
          await host.hypervisor.abortJob(move.instanceId);
          await settled;
        }
        work.signal.throwIfAborted();
      }
      await Promise.race([sleep(10), settled]);
    }
  } finally {
    clearInterval(progress);
  }
}

/** A save that an attempt before has begun goes on, whoever asked; only who calls the move off ends it. */
async function untilLibvirtRests(host: HostContext, { instanceId }: MoveRef, work: Work): Promise<Domain | null> {
  try {
    return await jobEnded(host, instanceId, work);
  } catch (error) {
    if (work.signal.aborted && isCalledOff()) await host.hypervisor.abortJob(instanceId);
    throw error;
  }
}
