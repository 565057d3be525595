/**
 * How workflows call activities: one table of options by duration class, and typed proxies made from it.
 *
 * `onHost('alpha').saveInstance(…)` runs on the worker of alpha; `onControl().planMove(…)` on any control worker. What
 * they throw has a type of failures.ts (see failing.ts).
 */
import { ActivityCancellationType, scheduleActivity, type ActivityOptions } from '@temporalio/workflow';
import { CONTROL_QUEUE, hostQueue, type ControlActivities, type HostActivities, type HostId } from './contract.ts';
import { understood } from './failing.ts';
import type { FailureType } from './failures.ts';

/** Seconds during which a failing call is repeated, or without limit. */
export type Patience = number | 'for ever';

export interface CallOptions {
  /** One line for the history: what this call is for. */
  summary?: string;
  /** Default: what fits a command that somebody waits for. */
  patience?: Patience;
  /** Seconds until a worker that takes nothing counts as absent; null: the call stays in the queue until it is back. */
  absentAfter?: number | null;
}

/** Nobody polls the queue of a host whose worker is down; only this limit tells. */
export const ABSENT_AFTER = 20;

/** For commands other than moves: long enough for a worker to be started again, short enough to wait for. */
const COMMAND_PATIENCE = 60;

const FIRST_RETRY = 0.5;
const LAST_RETRY = 15;

/** Every activity of a host beats once a second; a worker that was killed is noticed by the silence. */
const HEARTBEAT = '10s';

/**
 * Classes of duration. A cancelled call is waited for only where the way back begins with what it leaves behind: on the
 * source. Nothing that goes on elsewhere can hold up the return, since without a release no copy runs.
 */
const DURATIONS = {
  /** Looks and small changes. */
  quick: {
    startToCloseTimeout: '60s',
    heartbeatTimeout: HEARTBEAT,
    cancellationType: ActivityCancellationType.TRY_CANCEL,
  },
  /** Works on RAM and disks of a guest. */
  long: {
    startToCloseTimeout: '6h',
    heartbeatTimeout: HEARTBEAT,
    cancellationType: ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
  },
  /** Fetches over the network, or works on what was fetched; any number of hours. */
  remote: {
    startToCloseTimeout: '30 days',
    heartbeatTimeout: HEARTBEAT,
    cancellationType: ActivityCancellationType.TRY_CANCEL,
  },
} as const satisfies Record<string, ActivityOptions>;

const HOST_ACTIVITIES: Record<keyof HostActivities, keyof typeof DURATIONS> = {
  describeHost: 'quick',
  keepRecord: 'quick',
  inspectHost: 'long',
  addImage: 'long',
  pullImage: 'remote',
  deleteImage: 'quick',
  spawnInstance: 'long',
  deleteInstance: 'quick',
  preflightSource: 'quick',
  preflightDestination: 'quick',
  reserve: 'quick',
  announceMove: 'quick',
  saveInstance: 'long',
  rebaseOverlay: 'long',
  buildPackage: 'long',
  encryptPackage: 'long',
  readdressPackage: 'quick',
  transferPackage: 'remote',
  openPackage: 'remote',
  rewriteXml: 'quick',
  restoreInstance: 'remote',
  releaseInstance: 'quick',
  resumeInstance: 'long',
  settleMove: 'quick',
  returnInstance: 'long',
  startInstance: 'long',
  findRelease: 'quick',
  discardCopy: 'quick',
  obeyFence: 'quick',
  verifyPackage: 'long',
  pullPackage: 'remote',
  deletePackage: 'quick',
};

/** Failures that the table lets be repeated, and that these activities only give again, after as much reading as before. */
const FINAL: Partial<Record<keyof HostActivities, FailureType[]>> = { verifyPackage: ['SegmentDamaged'] };

/** The activities of one host's worker. Throws HostUnreachable if it is absent or stops answering. */
export function onHost(host: HostId, call: CallOptions = {}): HostActivities {
  const { absentAfter = ABSENT_AFTER } = call;
  return proxy<HostActivities>(host, (activity) => ({
    ...DURATIONS[HOST_ACTIVITIES[activity]],
    ...common(call, FINAL[activity]),
    taskQueue: hostQueue(host),
    ...(absentAfter !== null && { scheduleToStartTimeout: absentAfter * 1000 }),
  }));
}

/**
 * The catalog activities. They share a worker with the workflow itself, so nobody is ever absent. Cancelled, they are waited
 * for: what is undone next depends on what they did.
 */
export function onControl(call: CallOptions = {}): ControlActivities {
  return proxy<ControlActivities>('control', () => ({
    startToCloseTimeout: '30s',
    cancellationType: ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
    ...common(call),
    taskQueue: CONTROL_QUEUE,
  }));
}

/** Which failures are not repeated is said by each failure itself: workers read it from the table in failures.ts. */
function common({ summary, patience = COMMAND_PATIENCE }: CallOptions, final: FailureType[] = []): ActivityOptions {
  return {
    ...(summary !== undefined && { summary }),
    retry: {
      initialInterval: FIRST_RETRY * 1000,
      backoffCoefficient: 2,
      maximumInterval: LAST_RETRY * 1000,
      ...(final.length > 0 && { nonRetryableErrorTypes: final }),
      ...(patience !== 'for ever' && { maximumAttempts: attemptsWithin(patience) }),
    },
  };
}

/**
 * How many attempts fill this many seconds with their waits. Counted in waits rather than by schedule-to-close, because
 * time in which a step works must not count: a transfer of hours may well fail once at its end.
 */
export function attemptsWithin(seconds: number): number {
  let attempts = 1;
  let wait = FIRST_RETRY;
  for (let left = seconds - wait; left >= 0; left -= wait) {
    attempts++;
    wait = Math.min(wait * 2, LAST_RETRY);
  }
  return attempts;
}

function proxy<A extends object>(where: string, optionsOf: (activity: keyof A & string) => ActivityOptions): A {
  return new Proxy({} as A, {
    get: (_, activity: keyof A & string) => {
      return async (...input: unknown[]) => {
        try {
          return await scheduleActivity(activity, input, optionsOf(activity));
        } catch (error) {
          throw understood(error, where, activity);
        }
      };
    },
  });
}
