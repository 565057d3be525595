/**
 * Step 13 [destination]: given the release, or the operator's fence, the vCPUs run. The blackout ends.
 *
 * How it can die half way, and what the next attempt finds:
 * - ownership not recorded: the release is checked and recorded again.
 * - recorded, domain paused: resumed.
 * - recorded, domain gone before it ever ran here (the host was rebooted): restored once more from the package's members,
 *   which are opened once more if they are gone too: the sealed package is what this host took over.
 * - `resumed-<generation>.json` is written just before the vCPUs start. Once it is there the members are never used
 *   again, for the guest may have written to its disk: a domain that is gone then has ended by itself, or with its host,
 *   and is booted from its disk.
 */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { HostActivities, InstanceId, MoveRef, SignedText } from '../workflows/contract.ts';
import { withHeartbeat, type Work } from './heartbeat.ts';
import type { HostContext } from './host-context.ts';
import { passed } from './marks.ts';
import { requireFolder } from './move-folder.ts';
import { exists, writeRecord } from './records/durable.ts';
import { withInstanceLock } from './records/lock.ts';
import { requireNotStopped } from './ownership.ts';
import { ensureAddress } from './reservation.ts';
import { ensurePausedCopy, sealedDisks, type StagedDisk } from './restore-copy.ts';
import { openIntoStage } from './open-package.ts';
import { readMovedEnvelope } from './moved-envelope.ts';
import { isRewritten, LOCAL_XML, rewriteOpened } from './rewrite-xml.ts';

export function createResumeInstance(host: HostContext): HostActivities['resumeInstance'] {
  return (input) =>
    withHeartbeat('resumeInstance', (work) =>
      withInstanceLock(host.layout, input.instanceId, async () => {
        const { instanceId, generation, packageId, release, source } = input;
        await requireNotStopped(host, instanceId, generation);
        const fence = input.fence?.at(-1);
        if (fence === undefined) await host.ledger.takeOver({ instanceId, generation, packageId, release, source });
        else await host.ledger.takeOverByFence({ instanceId, generation, packageId, fence });
        await passed('owned');
        await runReleased(host, input, work);
      }),
    );
}

/** Runs what this host owns by a release: the paused copy, or one that is restored from the package's members once more. */
export async function runReleased(
  host: HostContext,
  move: MoveRef & { source?: SignedText },
  work: Work,
): Promise<void> {
  const stage = host.layout.stage(move.moveId);
  await requireFolder(stage, move);
  if (!(await hasRun(host, move.instanceId, move.generation)) && !(await isRewritten(host, move, stage))) {
    await openIntoStage(host, move, work);
    await rewriteOpened(host, move);
  }
  await ensureAddress(host, move.instanceId);
  const disksOf = async (): Promise<StagedDisk[]> => sealedDisks((await readMovedEnvelope(host, move)).origin);
  await runCopy(host, move, stage, disksOf, work);
}

const resumedPath = (host: HostContext, instanceId: InstanceId, generation: number): string =>
  join(host.layout.instance(instanceId), `resumed-${generation}.json`);

/** Written just before the vCPUs run: from here on the disk of this generation is the guest’s own. */
export async function markRun(host: HostContext, instanceId: InstanceId, generation: number): Promise<void> {
  const time = new Date().toISOString();
  const about = `${time}: ${host.name} lets generation ${generation} of instance ${instanceId} run; from here on its disk is its own`;
  await writeRecord(resumedPath(host, instanceId, generation), about, { time });
}

/** May the guest have written to its disk in this generation? Then nothing may be restored over it. */
export function hasRun(host: HostContext, instanceId: InstanceId, generation: number): Promise<boolean> {
  return exists(resumedPath(host, instanceId, generation));
}

/** Lets the paused copy of a generation that this host owns run, restoring it once more if it is gone. */
export async function runCopy(
  host: HostContext,
  { instanceId, generation }: Pick<MoveRef, 'instanceId' | 'generation'>,
  folder: string,
  disksOf: () => Promise<readonly StagedDisk[]>,
  work: Work,
): Promise<void> {
  const { hypervisor } = host;
  if (!(await hasRun(host, instanceId, generation))) {
    await ensurePausedCopy(host, instanceId, generation, folder, disksOf, work);
    // Restored domains are transient: without this the guest's own power-off would make libvirt forget it.
    await hypervisor.define(await readFile(join(folder, LOCAL_XML), 'utf8'));
    await markRun(host, instanceId, generation);
    await passed('marked');
  }
  await letRun(host, instanceId);
}

/** A generation that may have run before: goes on if it is there, and boots from its disk if it is not. */
export async function letRun(
  { hypervisor }: HostContext,
  instanceId: InstanceId,
): Promise<'never stopped' | 'resumed' | 'rebooted'> {
  const domain = await hypervisor.find(instanceId);
  if (domain?.state === 'running') return 'never stopped';
  if (domain?.process) {
    await hypervisor.resume(instanceId);
    return 'resumed';
  }
  await hypervisor.start(instanceId);
  return 'rebooted';
}
