/**
 * Gives up a paused copy that was never released to this host, and what the move prepared for it. The sealed package
 * stays: it belongs to whoever may still need it. Idempotent.
 *
 * How it can die half way: from its first act on, steps of the move that were asked for before change nothing here; each of
 * the others removes one thing whole, and the next attempt goes on with what is left.
 */
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import type { HostActivities, InstanceId, MoveRef, PackageId } from '../workflows/contract.ts';
import { VmferryError } from '../workflows/failures.ts';
import { giveUp } from './given-up.ts';
import type { HostContext } from './host-context.ts';
import { diskFiles } from './hypervisor/domain-xml.ts';
import type { Domain } from './hypervisor/hypervisor.ts';
import { passed } from './marks.ts';
import { removeFolder } from './move-folder.ts';
import { instanceOf } from './moved-envelope.ts';
import { exists, removeDurably } from './records/durable.ts';
import { withInstanceLock, withPackageLock } from './records/lock.ts';
import { overtaken } from './reservation.ts';

export function createDiscardCopy(host: HostContext): HostActivities['discardCopy'] {
  return (move) =>
    withInstanceLock(host.layout, move.instanceId, async () => {
      await giveUp(host, move);
      // First what holds the guest in clear: libvirt may be what fails here.
      await removeFolder(host.layout.stage(move.moveId), move);
      if (await isComingFor(host, move)) await removeIncoming(host, move.packageId);
      await passed('cleared');
      if (await overtaken(host.layout, move)) return;
      await discardUnowned(host, move.instanceId);
      await host.network.expel(move.instanceId);
    });
}

/** What came of a package so far; unless somebody else is fetching it now, to keep. */
export async function removeIncoming({ layout }: HostContext, packageId: PackageId): Promise<void> {
  const remove = (): Promise<void> => removeDurably(layout.incoming(packageId));
  try {
    await withPackageLock(layout, packageId, remove, { wait: 0 });
  } catch (error) {
    if (!(error instanceof VmferryError && error.type === 'InstanceBusy')) throw error;
  }
}

/** Is what came of a package of this instance, or of nobody yet? */
async function isComingFor(host: HostContext, { packageId, instanceId }: MoveRef): Promise<boolean> {
  const folder = host.layout.incoming(packageId);
  if (!(await exists(folder))) return false;
  // A transfer that died before its envelope came has left nothing that would tell whose it is, nor anything else.
  const nothing = (await readdir(folder)).every((name) => name.startsWith('.tmp-'));
  return nothing || (await instanceOf(host, folder)) === instanceId;
}

/**
 * Removes domain and working copies of an instance that this host does not own.
 *
 * @throws OwnershipDecided if it does own it, AlreadyExists if the domain runs or was not made by vmferry: that needs a
 *   person
 */
export async function discardUnowned(host: HostContext, instanceId: InstanceId): Promise<void> {
  const { hypervisor, layout, ledger } = host;
  const owned = await ledger.owned(instanceId);
  if (owned) {
    throw new VmferryError(
      'OwnershipDecided',
      `host ${host.name} owns generation ${owned.generation} of instance ${instanceId}; it is no copy`,
    );
  }
  const domain = await hypervisor.find(instanceId);
  if (domain?.state === 'running') {
    throw new VmferryError(
      'AlreadyExists',
      `domain ${instanceId} runs on ${host.name}, though no release gave it to this host`,
    );
  }
  if (domain && (await isForeign(host, domain))) {
    throw new VmferryError(
      'AlreadyExists',
      `host ${host.name} has a domain ${domain.name} with the UUID ${instanceId} that vmferry did not make; it is not touched`,
    );
  }
  if (domain?.process) await hypervisor.destroy(instanceId);
  await removeGenerations(layout.instance(instanceId));
}

/** Does it work elsewhere than in this instance's folder? A QEMU that libvirt has lost sight of has no XML to tell. */
async function isForeign({ hypervisor, layout }: HostContext, domain: Domain): Promise<boolean> {
  const { instanceId, persistent, state } = domain;
  if (state === 'shut off' && !persistent) return false;
  const xml = await hypervisor.domainXml(instanceId, state === 'shut off' ? 'inactive' : 'live');
  return !diskFiles(xml).some((path) => path.startsWith(`${layout.instance(instanceId)}/`));
}

/** The folders g1, g2, … that QEMU worked in, or those `below` a generation; ledger and records stay. */
export async function removeGenerations(instanceFolder: string, below = Infinity): Promise<void> {
  if (!(await exists(instanceFolder))) return;
  for (const name of await readdir(instanceFolder)) {
    const generation = Number(/^g([0-9]+)$/.exec(name)?.[1] ?? Infinity);
    if (generation < below) await removeDurably(join(instanceFolder, name));
  }
}
