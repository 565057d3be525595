/**
 * What lies between Temporal and every activity. The boundary where our failures become Temporal's: type and retryability from the one table. Everything else that
 * leaves an activity is a defect and says so, but is retried, since the world may have caused it.
 */
import type { ActivityInboundCallsInterceptor, ActivityInterceptorsFactory } from '@temporalio/worker';
import { ApplicationFailure, TemporalFailure } from '@temporalio/common';
import { CompleteAsyncError } from '@temporalio/activity';
import { FAILURES, VmferryError } from '../workflows/failures.ts';
import type { Draining } from './draining.ts';
import { faultPoints } from './fault-points.ts';

/** Temporal keeps 4 KB of a failure between attempts, causes included. */
const MAX_MESSAGE = 1500;

/** @param faultDirectory of the test that wants to interrupt this worker, if any */
export function activityInterceptors(
  draining: Draining,
  faultDirectory: string | undefined,
): ActivityInterceptorsFactory[] {
  const inbound = [
    draining.interceptor,
    failures,
    ...(faultDirectory === undefined ? [] : [faultPoints(faultDirectory)]),
  ];
  return inbound.map((interceptor) => () => ({ inbound: interceptor }));
}

const failures: ActivityInboundCallsInterceptor = {
  async execute(input, next) {
    try {
      return await next(input);
    } catch (error) {
      throw toTemporal(error);
    }
  },
};

/** Also used by tests. */
export function toTemporal(error: unknown): unknown {
  if (error instanceof TemporalFailure || error instanceof CompleteAsyncError) return error;
  if (error instanceof Error && error.name === 'AbortError') return error;
  const type = error instanceof VmferryError ? error.type : 'Internal';
  const message = error instanceof Error ? error.message : String(error);
  return ApplicationFailure.create({
    type,
    message: message.length > MAX_MESSAGE ? `${message.slice(0, MAX_MESSAGE)}…` : message,
    nonRetryable: !FAILURES[type].retry,
    ...short(error instanceof VmferryError ? error.cause : error),
  });
}

/** The cause, without what would not fit. */
function short(cause: unknown): { cause?: Error } {
  if (!(cause instanceof Error)) return {};
  const copy = new Error(cause.message.slice(0, 500));
  copy.name = cause.name;
  if (cause.stack !== undefined) copy.stack = cause.stack.split('\n').slice(0, 6).join('\n');
  return { cause: copy };
}
