/**
 * Sending a move elsewhere once its instance is released, or may be: only with a fence, which the operator's pool key signs
 * here. What is shown before comes from the signed statement that the fence follows, never from who carried it.
 */
import type { FenceOffer, MoveProgress } from '../../workflows/contract.ts';
import { VmferryError } from '../../workflows/failures.ts';
import type { Running } from '../api.ts';
import type { HostRow } from '../catalog-queries.ts';
import { causes } from '../failure.ts';
import { formatSeconds, formatTime, short } from '../format.ts';
import { confirm, declined } from '../session.ts';
import type { Session } from '../session.ts';
import { poolFolder } from './pool.ts';

export async function readdressByFence(
  session: Session,
  running: Running<unknown>,
  progress: MoveProgress & { fence: FenceOffer },
  to: HostRow,
  sure: boolean,
): Promise<void> {
  const api = await session.api();
  const { Fences } = await import('../../activities/trust/fences.ts');
  const fences = await Fences.open(poolFolder(api.profile));
  const { fence: offer } = progress;
  const hosts = await (await api.catalog()).hosts();
  const last = await fences.readLast(
    offer.last,
    hosts.map(({ record }) => record),
  );
  if (last.instanceId !== progress.instanceId || last.owner !== offer.host) {
    throw new VmferryError(
      'SignatureInvalid',
      `The move of ${progress.instanceId} waits for ${offer.host}, but shows a statement about ${last.owner} and instance ${last.instanceId}`,
    );
  }
  if (to.fingerprint === last.ownerFingerprint) {
    throw new VmferryError('SameHost', `The move waits for ${to.id} itself; a fence is for another host to go on`);
  }
  session.output.ask(`${warning(progress, last, to, session.clock.now())}\n`);
  if (!sure && !(await confirm(session, `Is ${last.owner} dead for good, and shall ${to.id} go on?`))) throw declined();
  const fence = await fences.sign(last, offer.packageId, to.record);
  try {
    await running.readdress(to.id, { fence, after: offer.last });
  } catch (error) {
    // Refused by the move itself, which still waits for the same host: nobody has acted on the fence.
    if (causes(error).some(({ name }) => name === 'WorkflowUpdateFailedError')) {
      const { progress: now } = await running.snapshot();
      if (now?.fence?.last === offer.last) await fences.setAside(last);
    }
    throw error;
  }
}

/** What the operator is about to say, and what may be lost. */
function warning(
  { instanceName, parked, waitingFor, fence }: MoveProgress & { fence: FenceOffer },
  { owner, generation, instanceId, time }: { owner: string; generation: number; instanceId: string; time: string },
  { id: to }: HostRow,
  now: number,
): string {
  const why =
    parked?.reason ?? (waitingFor === undefined ? 'it goes on' : `the worker of host ${waitingFor} is absent`);
  return [
    `Instance ${instanceName} (${instanceId}) belongs to ${owner}, as generation ${generation}, since ${formatTime(time)}.`,
    `The move waits for ${owner}: ${why}.`,
    `A fence says, signed with your pool key: ${owner} died for good, and will never run this generation.`,
    `With it ${to} goes on from package ${short(fence.packageId)}, saved ${formatTime(fence.savedAt)}, ` +
      `${formatSeconds((now - fence.savedAt) / 1000)} ago.`,
    `If ${instanceName} has run on ${owner} since then, what it did there is lost.`,
    `If ${owner} is only cut off, two copies of ${instanceName} may run until it hears of the fence.`,
  ].join('\n');
}
