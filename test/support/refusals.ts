/** Expecting a refusal by its type: the text of a message is for people. */
import assert from 'node:assert/strict';
import { VmferryError, type FailureType } from '../../workflows/failures.ts';

/** The promise rejects with this failure, whose message is short enough for Temporal to keep. */
export async function refused(type: FailureType, promise: Promise<unknown>): Promise<void> {
  await assert.rejects(promise, (error) => {
    assert.ok(error instanceof VmferryError, `expected ${type}, got ${String(error)}`);
    assert.equal(error.type, type, error.message);
    assert.ok(error.message.length < 2048);
    return true;
  });
}
