/**
 * The operator's fence, told to a host that owned the instance, or would have: its generation is over. It takes note of
 * that for ever, and gives up what it has of the instance.
 *
 * Asked first (not `final`), it refuses while it runs the instance, or has what is newer than the package from which
 * another host is to go on: then it is not dead, whatever the operator believes. Told that the other goes on (`final`), it
 * ends even a running instance, as a power loss would; disks that are newer than the package are put aside in
 * `instances/<instance>/fenced-<generation>/`, where nothing of vmferry looks at them again.
 *
 * How it can die half way: the note comes first. Domain and disks are judged by records that the note does not change, so
 * the next attempt goes on with whatever is left of them.
 */
import { readdir, rename } from 'node:fs/promises';
import { join } from 'node:path';
import type { FenceObeyed, HostActivities, MoveRef } from '../workflows/contract.ts';
import { VmferryError } from '../workflows/failures.ts';
import { requireAtRest } from './at-rest.ts';
import { removeGenerations, removeIncoming } from './discard-copy.ts';
import { giveUp } from './given-up.ts';
import type { HostContext } from './host-context.ts';
import { passed } from './marks.ts';
import { removeFolder } from './move-folder.ts';
import { exists, makeDirectory, syncDirectory } from './records/durable.ts';
import { withInstanceLock } from './records/lock.ts';
import { overtaken } from './reservation.ts';
import { hasRun } from './resume-instance.ts';
import { readSaveRecord } from './save-record.ts';
import { verifyFence } from './trust/chain.ts';

export function createObeyFence(host: HostContext): HostActivities['obeyFence'] {
  return (move) => withInstanceLock(host.layout, move.instanceId, () => obeyFence(host, move));
}

const NOTHING: FenceObeyed = { found: 'nothing', kept: null };

async function obeyFence(host: HostContext, move: MoveRef & { final: boolean }): Promise<FenceObeyed> {
  const { layout, ledger, hypervisor, network } = host;
  const { instanceId, packageId, generation, final } = move;
  const text = move.fence?.at(-1);
  if (text === undefined) throw new VmferryError('FenceMissing', `there is no fence for instance ${instanceId}`);
  const { payload } = await verifyFence(text, host.pool);
  if (payload.instanceId !== instanceId || payload.packageId !== packageId || payload.generation !== generation) {
    throw new VmferryError(
      'FenceInvalid',
      `the fence is for generation ${payload.generation} of instance ${payload.instanceId} from package ` +
        `${payload.packageId}, not for generation ${generation} of ${instanceId} from ${packageId}`,
    );
  }
  if (!final) await refuseAlive(host, move);
  await ledger.obeyFence(text, { final });
  await passed('noted');

  const goesOnHere = payload.to === host.name && payload.toFingerprint === host.keys.fingerprint;
  if (goesOnHere || (await ledger.owned(instanceId)) || (await overtaken(layout, move))) return NOTHING;
  await giveUp(host, move);
  const domain = await hypervisor.find(instanceId);
  const running = domain?.state === 'running';
  const newer = running || (await newerThanPackage(host, move));
  await hypervisor.destroy(instanceId);
  await hypervisor.undefine(instanceId);
  const folder = layout.instance(instanceId);
  const copies = await generationFolders(folder);
  const kept = newer ? await setAside(folder, copies, generation) : null;
  if (!newer) await removeGenerations(folder);
  await network.expel(instanceId);
  await removeFolder(layout.stage(move.moveId), move);
  // That the package is the instance's is what the fence says.
  await removeIncoming(host, packageId);
  await removeFolder(layout.move(move.moveId), move);
  const found = running
    ? 'a running instance'
    : newer
      ? 'a stopped instance'
      : domain || copies.length > 0
        ? 'a paused copy'
        : 'nothing';
  return { found, kept };
}

/** @throws FenceRefused */
async function refuseAlive(host: HostContext, move: MoveRef): Promise<void> {
  const { instanceId, generation, packageId } = move;
  const refuse = (why: string): VmferryError =>
    new VmferryError('FenceRefused', `host ${host.name} refuses the fence for instance ${instanceId}: ${why}`);
  if ((await host.hypervisor.find(instanceId))?.state === 'running') throw refuse('the instance runs there');
  if (await newerThanPackage(host, move)) {
    throw refuse(`it has run generation ${generation - 1}, and its disks are newer than package ${packageId}`);
  }
}

/**
 * May this host have run the instance after the package was sealed? By its own records alone, whatever was decided since.
 *
 * @throws SourceStillRunning while libvirt still ends the QEMU that was saved
 */
async function newerThanPackage(host: HostContext, move: MoveRef): Promise<boolean> {
  const { instanceId, packageId } = move;
  const fenced = move.generation - 1;
  const last = await host.ledger.lastOwned(instanceId);
  if (!last || last.generation < fenced) return false;
  if (last.generation > fenced) return true;
  const record = await readSaveRecord(host.layout, instanceId, fenced);
  if (record?.saved && record.packageId === packageId) return !(await atRest(host, instanceId, fenced));
  // Given to this host by another, it runs only once the marker is there; spawned or taken back, at once.
  return !last.given || (await hasRun(host, instanceId, fenced));
}

async function atRest(host: HostContext, instanceId: string, owned: number): Promise<boolean> {
  try {
    await requireAtRest(host, instanceId, owned);
    return true;
  } catch (error) {
    if (error instanceof VmferryError && error.type === 'SourceRanOn') return false;
    throw error;
  }
}

async function generationFolders(folder: string): Promise<string[]> {
  return (await exists(folder)) ? (await readdir(folder)).filter((name) => /^g[0-9]+$/.test(name)) : [];
}

/** @returns where the disks are now; null if there were none, now or at an attempt before */
async function setAside(folder: string, copies: readonly string[], generation: number): Promise<string | null> {
  const aside = join(folder, `fenced-${generation}`);
  if (copies.length > 0) await makeDirectory(aside);
  for (const name of copies) await rename(join(folder, name), join(aside, name));
  if (!(await exists(aside))) return null;
  await syncDirectory(aside);
  await syncDirectory(folder);
  return aside;
}
