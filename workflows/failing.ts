/** Failures as workflows see and make them. Every error that leaves a workflow has a type of the table in failures.ts. */
import {
  ActivityFailure,
  ApplicationFailure,
  CancelledFailure,
  isCancellation,
  TimeoutFailure,
} from '@temporalio/workflow';
import { FAILURES, isFailureType, type FailureType } from './failures.ts';

/** Anything but a Temporal failure thrown in workflow code would fail the workflow's task, and for ever. */
export function failure(type: FailureType, message: string, cause?: unknown): ApplicationFailure {
  return ApplicationFailure.create({ type, message, nonRetryable: true, ...(cause instanceof Error && { cause }) });
}

/**
 * Translates what a call to an activity threw. The activity's own type and message come to the front; a time-out becomes
 * HostUnreachable (CatalogUnreachable from the control worker). A cancellation stays what it is.
 */
export function understood(error: unknown, where: string, activity: string): unknown {
  if (isCancellation(error) || !(error instanceof ActivityFailure)) return error;
  const { cause } = error;
  if (cause instanceof ApplicationFailure) {
    // The worker's own word for an attempt that a shutdown has ended.
    if (cause.type === 'WorkerShutdown')
      return failure('HostUnreachable', `The worker of ${where} was stopped during ${activity}`, error);
    return failure(isFailureType(cause.type) ? cause.type : 'Internal', cause.message, error);
  }
  const timeout = cause instanceof TimeoutFailure ? cause.timeoutType : undefined;
  if (timeout === undefined)
    return failure('Internal', `${activity} on ${where}: ${cause?.message ?? error.message}`, error);
  if (where === 'control')
    return failure('CatalogUnreachable', `The catalog did not answer ${activity} in time`, error);
  const message =
    timeout === 'SCHEDULE_TO_START'
      ? `${absence(where)}: nobody took ${activity}`
      : `Host ${where} stopped answering during ${activity}`;
  return failure('HostUnreachable', message, error);
}

export const absence = (host: string): string => `The worker of host ${host} is absent`;

/** Did nobody take the activity? Then nothing was begun, and it can be scheduled again when the worker is back. */
export function isAbsence(error: unknown): boolean {
  const cause =
    error instanceof ApplicationFailure && error.cause instanceof ActivityFailure ? error.cause.cause : null;
  return cause instanceof TimeoutFailure && cause.timeoutType === 'SCHEDULE_TO_START';
}

/** Could the same call succeed later without anyone deciding anything? What is no failure of ours is taken for a defect. */
export function mayPass(error: unknown): boolean {
  return FAILURES[reasonOf(error).type].retry;
}

/** The failure in the words of the table, for the catalog and for people. */
export function reasonOf(error: unknown): { type: FailureType; message: string } {
  if (isCancellation(error)) return { type: 'Cancelled', message: 'The operator cancelled it' };
  const message = error instanceof Error ? error.message : String(error);
  return { type: error instanceof ApplicationFailure && isFailureType(error.type) ? error.type : 'Internal', message };
}

export { CancelledFailure, isCancellation };
