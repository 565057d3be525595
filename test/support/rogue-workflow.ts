/** The one workflow of a wrong orchestrator: it asks a host for anything, once. See rogue-orchestrator.ts. */
import { scheduleActivity } from '@temporalio/workflow';
import { hostQueue, type HostId } from '../../workflows/contract.ts';

export async function ask(host: HostId, activity: string, input: unknown): Promise<unknown> {
  return scheduleActivity(activity, [input], {
    taskQueue: hostQueue(host),
    scheduleToStartTimeout: '30s',
    startToCloseTimeout: '60s',
    heartbeatTimeout: '10s',
    retry: { maximumAttempts: 1 },
  });
}
