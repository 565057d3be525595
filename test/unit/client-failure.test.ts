import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { WorkflowFailedError, WorkflowUpdateFailedError } from '@temporalio/client';
import {
  ActivityFailure,
  ApplicationFailure,
  CancelledFailure,
  TimeoutFailure,
  WorkflowNotFoundError,
} from '@temporalio/common';
import { causes, explain, Interrupted, trace } from '../../client/failure.ts';
import { EXIT, FAILURES, VmferryError } from '../../workflows/failures.ts';
import type { FailureType } from '../../workflows/failures.ts';

const application = (type: string, message: string, cause?: Error): ApplicationFailure =>
  ApplicationFailure.create({ type, message, ...(cause === undefined ? {} : { cause }) });
const failed = (cause: Error): WorkflowFailedError =>
  new WorkflowFailedError('Workflow execution failed', cause, 'NON_RETRYABLE_FAILURE');
const inActivity = (cause: Error): ActivityFailure =>
  new ActivityFailure('Activity task failed', 'addImage', '1', 'NON_RETRYABLE_FAILURE', 'host alpha', cause);

describe('failures of the client', () => {
  it('finds the failure that a step named under all of Temporal’s wrappers', () => {
    const error = failed(inActivity(application('FileNotFound', 'there is no file /srv/x.qcow2 on alpha')));
    assert.deepEqual(explain(error), {
      type: 'FileNotFound',
      message: 'there is no file /srv/x.qcow2 on alpha.',
      advice: FAILURES.FileNotFound.advice,
      exit: EXIT.notFound,
    });
  });

  it('lets the outermost of our failures speak', () => {
    const error = failed(
      application('MoveReturned', 'counter runs on alpha again', inActivity(application('NoSpace', 'beta is full'))),
    );
    assert.equal(explain(error).type, 'MoveReturned');
    assert.equal(explain(error).exit, EXIT.returned);
  });

  it('passes by application failures that are not ours', () => {
    const error = failed(application('Whatever', 'outer', application('InUse', 'image is in use')));
    assert.equal(explain(error).type, 'InUse');
  });

  it('explains a refused update', () => {
    const error = new WorkflowUpdateFailedError(
      'Workflow Update failed',
      application('NotParked', 'the move is not parked'),
    );
    assert.equal(explain(error).type, 'NotParked');
  });

  it('knows what Temporal says of its own', () => {
    const cases: [Error, FailureType][] = [
      [failed(new TimeoutFailure('timed out', undefined, 'START_TO_CLOSE')), 'HostUnreachable'],
      [failed(new CancelledFailure('cancelled')), 'Cancelled'],
      [new WorkflowNotFoundError('not found', 'instance:x', undefined), 'MoveNotFound'],
    ];
    for (const [error, type] of cases) assert.equal(explain(error).type, type);
  });

  it('gives every type of the table its own exit code and advice', () => {
    for (const [type, { exit, advice }] of Object.entries(FAILURES)) {
      const explanation = explain(new VmferryError(type as FailureType, 'x'));
      assert.equal(explanation.exit, exit);
      assert.equal(explanation.advice, advice);
    }
  });

  it('calls everything else a defect, with the innermost message', () => {
    const error = new Error('outer', { cause: new TypeError('x is not a function') });
    assert.deepEqual([explain(error).type, explain(error).message], ['Internal', 'x is not a function.']);
    assert.equal(explain('a string').message, 'a string.');
  });

  it('makes one sentence of several lines and never shows a stack', () => {
    const { message } = explain(new VmferryError('CommandFailed', 'qemu-img failed:\n  could not open\n'));
    assert.equal(message, 'qemu-img failed: could not open.');
    assert.doesNotMatch(JSON.stringify(explain(new Error('x'))), / {4}at /);
  });

  it('interrupts with 130', () => {
    assert.deepEqual(explain(new Interrupted('The move goes on')), {
      type: 'Interrupted',
      message: 'The move goes on.',
      advice: '',
      exit: 130,
    });
  });

  it('follows a cycle of causes once', () => {
    const one = new Error('one');
    const two = new Error('two', { cause: one });
    one.cause = two;
    assert.deepEqual(
      causes(two).map(({ message }) => message),
      ['two', 'one'],
    );
  });

  it('traces the whole chain for debugging', () => {
    assert.match(trace(new Error('outer', { cause: new Error('inner') })), /Error: outer[\s\S]+caused by Error: inner/);
  });
});
