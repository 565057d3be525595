/** The schedule by which every package is verified; see workflows/scrub.ts. */
import { setTimeout as sleep } from 'node:timers/promises';
import { Client, ScheduleAlreadyRunning, type ScheduleOptions } from '@temporalio/client';
import type { NativeConnection } from '@temporalio/worker';
import { CONTROL_QUEUE, SCRUB_SCHEDULE, workflowId } from '../workflows/contract.ts';
import { log } from './temporal.ts';

const SCHEDULE: ScheduleOptions = {
  scheduleId: SCRUB_SCHEDULE,
  spec: { intervals: [{ every: '1 day' }] },
  action: {
    type: 'startWorkflow',
    workflowType: 'scrub',
    workflowId: workflowId.scrub(),
    taskQueue: CONTROL_QUEUE,
    args: [],
    staticSummary: 'Verify every package where it lies',
  },
  // After a time without Temporal one scrub is made up for, not one for each that was missed.
  policies: { overlap: 'SKIP', catchupWindow: '1 day' },
};

/**
 * Makes the schedule unless there is one: what the operator has changed stays, however often workers start. Tries again until
 * it works, and never throws.
 */
export async function ensureScrubSchedule(connection: NativeConnection, namespace: string): Promise<void> {
  const { schedule } = new Client({ connection, namespace });
  for (let wait = 500; ; wait = Math.min(wait * 2, 60_000)) {
    try {
      await schedule.create(SCHEDULE);
      return;
    } catch (error) {
      if (error instanceof ScheduleAlreadyRunning) return;
      log('WARN', 'the scrub is not scheduled yet', { error });
    }
    await sleep(wait);
  }
}
