/**
 * Step 5 [source]: a private copy of each overlay, with a backing name that means the same on every host.
 *
 * The instance's own overlay stays as it is, for the way back. The copies carry the move's id in their folder; a repeated
 * attempt begins a copy anew unless `members.json`, written last, says that all are there and checked.
 */
import { readFile, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import type { HostActivities, MoveRef } from '../workflows/contract.ts';
import { VmferryError } from '../workflows/failures.ts';
import { copyBootFiles } from './boot-files.ts';
import { copyFile } from './disk/copy.ts';
import { inspectQcow2 } from './disk/qcow2.ts';
import { rebaseUnsafe } from './disk/qemu-img.ts';
import { withHeartbeat, type Work } from './heartbeat.ts';
import type { HostContext } from './host-context.ts';
import { describeDomain } from './hypervisor/domain-xml.ts';
import { imageOfOverlay } from './images.ts';
import { passed } from './marks.ts';
import { requireOwned } from './ownership.ts';
import { MEMBERS_FILE, Members } from './package/members.ts';
import { readJson, syncFile, writeRecord } from './records/durable.ts';
import { MEMBER } from './records/layout.ts';
import { withInstanceLock } from './records/lock.ts';
import { changedDisk, readSaveRecord } from './save-record.ts';

export function createRebaseOverlay(host: HostContext): HostActivities['rebaseOverlay'] {
  return (move) =>
    withHeartbeat('rebaseOverlay', (work) =>
      withInstanceLock(host.layout, move.instanceId, () => rebaseOverlay(host, move, work)),
    );
}

async function rebaseOverlay(host: HostContext, move: MoveRef, work: Work): Promise<{ bytes: number }> {
  const { generation: owned } = await requireOwned(host, move);
  const record = await readSaveRecord(host.layout, move.instanceId, owned);
  if (!record?.saved) {
    throw new VmferryError('InstanceNotRunning', `instance ${move.instanceId} was not saved by move ${move.moveId}`);
  }
  if (record.moveId !== move.moveId) {
    throw new VmferryError('InstanceBusy', `instance ${move.instanceId} was stopped by move ${record.moveId}`);
  }
  const folder = host.layout.move(move.moveId);
  const copies = record.disks.map(({ target, path }) => ({
    target,
    from: path,
    to: join(folder, MEMBER.disk(target)),
  }));

  if (!(await readJson(join(folder, MEMBERS_FILE), Members))) {
    const disks: Members['disks'] = [];
    for (const { target, from, to } of copies) {
      await rm(to, { force: true });
      await copyFile({ from, to, work });
      await passed('copied');
      const imageId = await imageOfOverlay(host.layout, to);
      const { virtualBytes, backingFormat } = await inspectQcow2(to);
      await rebaseUnsafe({ path: to, backing: imageId, backingFormat: backingFormat ?? 'qcow2' });
      await syncFile(to);
      disks.push({ target, virtualBytes, imageId });
    }
    if (await changedDisk(record)) {
      throw new VmferryError(
        'SourceRanOn',
        `instance ${move.instanceId} was written to on ${host.name} after its RAM was saved`,
      );
    }
    const xml = await readFile(join(folder, MEMBER.domainXml), 'utf8');
    const domain = describeDomain(xml);
    const members: Members['members'] = [MEMBER.domainXml, ...(await copyBootFiles(xml, folder, work))];
    const { qemuVersion } = await host.hypervisor.facts();
    const requirements = { ...domain.requirements, qemuVersion };
    const about = `${new Date().toISOString()}: all that move ${move.moveId} takes of instance ${move.instanceId} is in this folder, and checked`;
    await writeRecord(join(folder, MEMBERS_FILE), about, { disks, members, requirements } satisfies Members);
  }
  let bytes = 0;
  for (const { to } of copies) bytes += (await stat(to)).size;
  return { bytes };
}
