/** The schedule of the scrub, as the client sees and changes it. A control worker makes it. */
import { setTimeout as sleep } from 'node:timers/promises';
import { ScheduleNotFoundError } from '@temporalio/client';
import type { Client, ScheduleDescription, ScheduleHandle } from '@temporalio/client';
import { SCRUB_SCHEDULE } from '../workflows/contract.ts';
import { VmferryError } from '../workflows/failures.ts';
import type { ScrubSchedule } from './api.ts';

/** Milliseconds in which the server starts what was triggered. */
const TRIGGER_MS = 15_000;

/** A scrub that the schedule has started. */
export interface StartedScrub {
  workflowId: string;
  firstExecutionRunId: string;
}

/** Every call to the server goes through `call`, which gives its failures our types. */
type Call = <T>(run: () => Promise<T>) => Promise<T>;

export async function scrubSchedule(client: Client, call: Call): Promise<ScrubSchedule | null> {
  const schedule = await call(() => describe(handleOf(client)));
  if (schedule === null) return null;
  const { spec, state, info } = schedule;
  const every = spec.intervals?.length === 1 && !spec.calendars?.length ? (spec.intervals[0]?.every ?? null) : null;
  return {
    every: every === null ? null : every / 1000,
    off: state.paused,
    last: info.recentActions.at(-1)?.takenAt.getTime() ?? null,
    next: state.paused ? null : (info.nextActionTimes[0]?.getTime() ?? null),
  };
}

/** @param every seconds; null: no more, until it is set again */
export async function changeScrubSchedule(client: Client, call: Call, every: number | null): Promise<void> {
  const handle = handleOf(client);
  await needed(call, handle);
  if (every === null) return call(() => handle.pause('by `vmferry packages scrub --every off`'));
  await call(() =>
    handle.update((schedule) => ({
      ...schedule,
      spec: { intervals: [{ every: every * 1000 }] },
      state: { ...schedule.state, paused: false },
    })),
  );
}

/** The scrub that runs, or one that is started now. */
export async function triggerScrub(client: Client, call: Call): Promise<{ started: StartedScrub; joined: boolean }> {
  const handle = handleOf(client);
  const before = await needed(call, handle);
  const [running] = before.info.runningActions;
  if (running !== undefined) return { started: running.workflow, joined: true };
  const known = new Set(runsOf(before));
  await call(() => handle.trigger('SKIP'));
  for (const deadline = Date.now() + TRIGGER_MS; ; await sleep(100)) {
    const { info } = await needed(call, handle);
    const started = info.recentActions.findLast(({ action }) => !known.has(action.workflow.firstExecutionRunId));
    if (started !== undefined) return { started: started.action.workflow, joined: false };
    if (Date.now() > deadline) {
      throw new VmferryError('ServerRefused', `Temporal was told to start schedule ${SCRUB_SCHEDULE}, and did not`);
    }
  }
}

const handleOf = (client: Client): ScheduleHandle => client.schedule.getHandle(SCRUB_SCHEDULE);

const runsOf = ({ info }: ScheduleDescription): string[] =>
  info.recentActions.map(({ action }) => action.workflow.firstExecutionRunId);

async function describe(handle: ScheduleHandle): Promise<ScheduleDescription | null> {
  try {
    return await handle.describe();
  } catch (error) {
    if (error instanceof ScheduleNotFoundError) return null;
    throw error;
  }
}

/** @throws VmferryError `ServerRefused` */
async function needed(call: Call, handle: ScheduleHandle): Promise<ScheduleDescription> {
  const schedule = await call(() => describe(handle));
  if (schedule !== null) return schedule;
  throw new VmferryError('ServerRefused', `Temporal has no schedule ${SCRUB_SCHEDULE}; a control worker makes it`);
}
