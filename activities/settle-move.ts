/**
 * Step 14 [both]: sets the guest's clock, removes what only this move needed. The sealed package stays on both sides until it is deleted.
 * Everything removed lies under a name that carries the move's id, or is a working copy of an instance that this host
 * has given away, or runs from a later one. Idempotent.
 */
import { dirname } from 'node:path';
import { packageGeneration, type HostActivities, type MoveRef } from '../workflows/contract.ts';
import { VmferryError } from '../workflows/failures.ts';
import { removeGenerations } from './discard-copy.ts';
import type { HostContext } from './host-context.ts';
import { describeDomain } from './hypervisor/domain-xml.ts';
import { passed } from './marks.ts';
import { isOfPackage, removeFolder } from './move-folder.ts';
import { isSealed } from './moved-envelope.ts';
import { removeDurably } from './records/durable.ts';
import { withInstanceLock } from './records/lock.ts';
import { overtaken } from './reservation.ts';
import { hasRun } from './resume-instance.ts';
import { readSaveRecord } from './save-record.ts';

const AGENT_TIMEOUT_MS = 2_000;

export function createSettleMove(host: HostContext): HostActivities['settleMove'] {
  return (input) =>
    withInstanceLock(host.layout, input.instanceId, async () => {
      const { instanceId, moveId, packageId, role, outcome } = input;
      const { hypervisor, layout, ledger, network } = host;
      // Here and not in the step before: a guest without an agent would keep the move waiting in its blackout.
      if (role === 'destination') await hypervisor.setGuestTime(instanceId, AGENT_TIMEOUT_MS);
      if (role === 'source' && outcome === 'moved') {
        const released = packageGeneration(input);
        const decision = await ledger.decision(instanceId, released - 1);
        if (decision?.kind !== 'release' && decision?.kind !== 'fence') {
          throw new VmferryError(
            'NotOwner',
            `host ${host.name} has not released generation ${released} of instance ${instanceId}`,
          );
        }
        // The instance may have come back meanwhile with a later move, or be expected; then neither its folders nor its
        // address are ours to remove.
        const gone = !(await ledger.owned(instanceId)) && !(await hypervisor.find(instanceId));
        if (gone && !(await overtaken(layout, input))) {
          await network.expel(instanceId);
          await removeGenerations(layout.instance(instanceId));
        }
      }
      const needed = await neededOf(host, input);
      if (needed && needed.generation <= packageGeneration(input)) {
        throw new VmferryError(
          'InUse',
          `what move ${moveId} saved of instance ${instanceId} is needed on ${host.name}: ${needed.why}`,
        );
      }
      if (outcome === 'returned') await removeOutlived(host, input);
      await passed('settled');
      // By its name the instance was saved once more since: that is not this move's to clear away.
      if (needed) return;
      // A move that was called off while it sealed has no use for the half. Its folder says whose that is.
      if (await isOfPackage(layout.move(moveId), input)) await removeDurably(`${layout.package(packageId)}.partial`);
      await removeFolder(layout.move(moveId), input);
      await removeFolder(layout.stage(moveId), input);
    });
}

/**
 * An instance that was restored on the way back runs from copies of its own, in the folder of its new generation; one that
 * never stopped goes on where it was. So only what the domain itself says is believed.
 */
async function removeOutlived({ hypervisor, layout }: HostContext, { instanceId, generation }: MoveRef): Promise<void> {
  if (!(await hypervisor.find(instanceId))?.persistent) return;
  const folder = layout.generation(instanceId, generation);
  const descriptions = [
    await hypervisor.domainXml(instanceId, 'live'),
    await hypervisor.domainXml(instanceId, 'inactive'),
  ];
  const files = descriptions.map(describeDomain).flatMap(({ disks }) => disks.map(({ path }) => path));
  const moved = files.length > 0 && files.every((file) => dirname(file) === folder);
  if (moved) await removeGenerations(layout.instance(instanceId), generation);
}

/** What a move saved, and the instance would still be continued from. */
interface Needed {
  /** That it makes of the instance. */
  generation: number;
  why: string;
}

/** Null if the instance goes on without it: it is sealed, or it has run since, or it is another host's. */
async function neededOf(host: HostContext, { instanceId, moveId }: MoveRef): Promise<Needed | null> {
  const { layout, ledger } = host;
  const owned = await ledger.owned(instanceId);
  if (!owned) return null;
  const { generation } = owned;
  const stopped = await readSaveRecord(layout, instanceId, generation);
  if (stopped?.moveId === moveId && !(await isSealed(host, stopped.packageId, instanceId, generation + 1))) {
    return { generation: generation + 1, why: 'it is not sealed yet' };
  }
  const before = await readSaveRecord(layout, instanceId, generation - 1);
  if (before?.moveId === moveId && !(await hasRun(host, instanceId, generation))) {
    return { generation, why: 'it is not restored from it yet' };
  }
  return null;
}
