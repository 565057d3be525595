/**
 * Step 3 [source]: notice to the guest. The step has its place in the workflow; until guests have a way to ask for
 * notices nobody is waiting for one, so it passes through.
 */
import type { HostActivities } from '../workflows/contract.ts';

export function createAnnounceMove(): HostActivities['announceMove'] {
  return () => Promise.resolve({ acknowledged: false });
}
