/**
 * Step 9 [destination]: who made the package, for whom, of which generation, continuing which releases; only then is
 * anything decrypted and unpacked, into `staging/<move>/`.
 *
 * How it can die half way: the acceptance is durable and answers the same again; streams that are whole are kept.
 */
import type { HostActivities, MoveRef, SignedText } from '../workflows/contract.ts';
import { atDestination } from './given-up.ts';
import { withHeartbeat, type Work } from './heartbeat.ts';
import type { HostContext } from './host-context.ts';
import { passed } from './marks.ts';
import { claimFolder } from './move-folder.ts';
import type { OpenedEnvelope } from './package/envelope.ts';
import { openPackage } from './package/open.ts';
import { readMovedEnvelope } from './moved-envelope.ts';

export function createOpenPackage(host: HostContext): HostActivities['openPackage'] {
  return (input) =>
    withHeartbeat('openPackage', (work) => atDestination(host, input, () => openIntoStage(host, input, work)));
}

/** @returns bytes of the opened members */
export async function openIntoStage(
  host: HostContext,
  move: MoveRef & { source?: SignedText },
  work: Work,
): Promise<{ bytes: number }> {
  const opened = await readMovedEnvelope(host, move, move.source === undefined ? {} : { source: move.source });
  await host.ledger.accept(opened.origin, move.fence);
  await passed('accepted');
  return openMembers(host, move, opened, work);
}

/** This host’s own package, for an instance that it takes back: nothing has to be accepted from anybody. */
export async function openOwnIntoStage(host: HostContext, move: MoveRef, work: Work): Promise<void> {
  const source = await host.ledger.selfRecord();
  await openMembers(host, move, await readMovedEnvelope(host, move, { source }), work);
}

async function openMembers(
  { layout }: HostContext,
  move: MoveRef,
  { origin, sessionKey }: OpenedEnvelope,
  work: Work,
): Promise<{ bytes: number }> {
  const folder = layout.package(move.packageId);
  await claimFolder(layout, 'stage', move);
  return openPackage({ folder, origin, sessionKey, target: layout.stage(move.moveId), work });
}
