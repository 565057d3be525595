/** What tests of moves look at, on whatever way the move went. */
import assert from 'node:assert/strict';
import { WorkflowUpdateFailedError } from '@temporalio/client';
import { ApplicationFailure } from '@temporalio/common';
import type { FailureType } from '../../workflows/failures.ts';
import type { Call, Scenario } from '../fakes/scenario.ts';
import type { Migration } from './harness.ts';

/** Every activity of a move that meets no trouble, but for those beside the steps. */
export const STEPS: Call[] = [
  'control.planMove',
  'alpha.preflightSource',
  'beta.preflightDestination',
  'control.reserveMove',
  'beta.reserve',
  'alpha.announceMove',
  'alpha.saveInstance',
  'alpha.rebaseOverlay',
  'alpha.buildPackage',
  'alpha.encryptPackage',
  'beta.transferPackage',
  'beta.openPackage',
  'beta.rewriteXml',
  'beta.restoreInstance',
  'alpha.releaseInstance',
  'beta.resumeInstance',
];
export const BEFORE_SAVE = STEPS.slice(0, 6);
export const SOURCE_STEPS = STEPS.slice(6, 10);
export const DESTINATION_STEPS = STEPS.slice(10, 14);

export const inOrder = (scenario: Scenario): Call[] => scenario.calls.filter((call) => STEPS.includes(call));

export function assertMoved(scenario: Scenario, destination = 'beta', generation = 2): void {
  assert.deepEqual(scenario.violations, []);
  assert.equal(scenario.runningOn, destination);
  assert.equal(scenario.owner, destination);
  assert.deepEqual(scenario.recorded, { host: destination, state: 'running', generation });
  assert.equal(scenario.closed, 'moved');
  assert.equal(scenario.count(`${destination}.settleMove`), 1);
  assert.ok(scenario.count(`${scenario.source}.settleMove`) >= 1);
}

export function assertReturned(scenario: Scenario): void {
  assert.deepEqual(scenario.violations, []);
  assert.equal(scenario.runningOn, scenario.source);
  assert.deepEqual([...scenario.pausedOn], []);
  assert.deepEqual(scenario.recorded, { host: scenario.source, state: 'running', generation: 2 });
  assert.equal(scenario.closed, 'returned');
  assert.equal(scenario.inputOf(scenario.source, 'settleMove').outcome, 'returned');
}

/** As if there had been no move. */
export function assertUntouched(scenario: Scenario): void {
  assert.deepEqual(scenario.violations, []);
  assert.equal(scenario.runningOn, scenario.source);
  assert.equal(scenario.count(`${scenario.source}.saveInstance`), 0);
  assert.equal(scenario.count(`${scenario.source}.returnInstance`), 0);
  assert.equal(scenario.openMove, null);
}

export async function refusal(update: Promise<unknown>): Promise<FailureType | null | undefined> {
  const error: unknown = await update.then(
    () => assert.fail('the update was accepted'),
    (reason: unknown) => reason,
  );
  assert.ok(error instanceof WorkflowUpdateFailedError && error.cause instanceof ApplicationFailure, String(error));
  return error.cause.type as FailureType;
}

export async function details(move: Migration): Promise<string> {
  const { currentDetails } = await move.handle.query<{ currentDetails: string }>('__temporal_workflow_metadata');
  return currentDetails;
}
