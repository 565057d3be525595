/**
 * Step 9 [destination]: who made the package, for whom, of which generation, continuing which releases; only then is
 * anything decrypted and unpacked, into `staging/<move>/`.
 *
 * How it can die half way: the acceptance is durable and answers the same again; streams that are whole are kept.
 */
import type { HostActivities } from '../workflows/contract.ts';
import { withHeartbeat } from './heartbeat.ts';
import type { HostContext } from './host-context.ts';
import { openPackage } from './package/open.ts';
import { withInstanceLock } from './records/lock.ts';
import { readMovedEnvelope } from './moved-envelope.ts';

export function createOpenPackage(host: HostContext): HostActivities['openPackage'] {
  return (input) =>
    withHeartbeat('openPackage', (work) =>
      withInstanceLock(host.layout, input.instanceId, async () => {
        const { layout, ledger } = host;
        const { origin, sessionKey } = await readMovedEnvelope(host, input, { source: input.source });
        await ledger.accept(origin);
        return openPackage({
          folder: layout.package(input.packageId),
          origin,
          sessionKey,
          target: layout.stage(input.moveId),
          work,
        });
      }),
    );
}
