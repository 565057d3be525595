/**
 * Ends an instance for ever: first the statement that it is over, then domain, disks and network entries. A repeated
 * attempt finds the statement and goes on clearing up. Its packages stay until they are deleted themselves.
 */
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import type { HostActivities } from '../workflows/contract.ts';
import { removeGenerations } from './discard-copy.ts';
import type { HostContext } from './host-context.ts';
import { exists, removeDurably } from './records/durable.ts';
import { withInstanceLock } from './records/lock.ts';

export function createDeleteInstance(host: HostContext): HostActivities['deleteInstance'] {
  return ({ instanceId }) =>
    withInstanceLock(host.layout, instanceId, async () => {
      const { hypervisor, ledger, layout, network } = host;
      const folder = layout.instance(instanceId);
      await ledger.end(instanceId);
      await hypervisor.destroy(instanceId);
      await hypervisor.undefine(instanceId);
      await network.expel(instanceId);
      await removeGenerations(folder);
      if (!(await exists(folder))) return;
      for (const name of await readdir(folder)) {
        if (/^((save|resumed)-[0-9]+|reserved)\.json$/.test(name)) await removeDurably(join(folder, name));
      }
    });
}
