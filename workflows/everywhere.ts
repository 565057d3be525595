import type { Host, HostId } from './contract.ts';

/** Does the same on several hosts at once. An absent host keeps none of the others from their part; the first failure is thrown at the end. */
export async function everywhere(hosts: readonly Host[], run: (host: HostId) => Promise<void>): Promise<void> {
  const outcomes = await Promise.allSettled(hosts.map(({ id }) => run(id)));
  for (const outcome of outcomes) if (outcome.status === 'rejected') throw outcome.reason;
}
