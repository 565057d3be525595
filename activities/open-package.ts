/**
 * Step 9 [destination]: who made the package, for whom, of which generation, continuing which releases; only then is
 * anything decrypted and unpacked, into `staging/<move>/`.
 *
 * How it can die half way: the acceptance is durable and answers the same again; streams that are whole are kept.
 */
import type { HostActivities, MoveRef, SignedText } from '../workflows/contract.ts';
import { withHeartbeat, type Work } from './heartbeat.ts';
import type { HostContext } from './host-context.ts';
import { passed } from './marks.ts';
import { openPackage } from './package/open.ts';
import { withInstanceLock } from './records/lock.ts';
import { readMovedEnvelope } from './moved-envelope.ts';

export function createOpenPackage(host: HostContext): HostActivities['openPackage'] {
  return (input) =>
    withHeartbeat('openPackage', (work) =>
      withInstanceLock(host.layout, input.instanceId, () => openIntoStage(host, input, work)),
    );
}

/** @returns bytes of the opened members */
export async function openIntoStage(
  host: HostContext,
  move: MoveRef & { source: SignedText },
  work: Work,
): Promise<{ bytes: number }> {
  const { layout, ledger } = host;
  const { origin, sessionKey } = await readMovedEnvelope(host, move, { source: move.source });
  await ledger.accept(origin);
  await passed('accepted');
  const folder = layout.package(move.packageId);
  return openPackage({ folder, origin, sessionKey, target: layout.stage(move.moveId), work });
}
