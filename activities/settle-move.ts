/**
 * Step 14 [both]: sets the guest's clock, removes what only this move needed. The sealed package stays on both sides until it is deleted.
 * Everything removed lies under a name that carries the move's id, or is a working copy of an instance that this host
 * has given away. Idempotent.
 */
import { rm } from 'node:fs/promises';
import { packageGeneration, type HostActivities } from '../workflows/contract.ts';
import { VmferryError } from '../workflows/failures.ts';
import { removeGenerations } from './discard-copy.ts';
import type { HostContext } from './host-context.ts';
import { passed } from './marks.ts';
import { withInstanceLock } from './records/lock.ts';
import { overtaken } from './reservation.ts';

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
      await passed('settled');
      await rm(layout.move(moveId), { recursive: true, force: true });
      // A move that was called off while it sealed has no use for the half.
      if (role === 'source') await rm(`${layout.package(packageId)}.partial`, { recursive: true, force: true });
      await rm(layout.stage(moveId), { recursive: true, force: true });
    });
}
