/**
 * What a person may decide about a move, and until when: `retry` and `readdress` while it is parked, `return` and Temporal's
 * cancellation until nothing can be taken back.
 */
import { CancellationScope, condition, setHandler } from '@temporalio/workflow';
import { readdressUpdate, retryUpdate, returnUpdate, type HostId } from '../contract.ts';
import { CancelledFailure, failure } from '../failing.ts';
import type { Story } from './story.ts';

/** On a parked move. `return` ends the scope of the forward steps instead. */
export type Decision = { kind: 'retry' } | { kind: 'readdress'; destination: HostId };

export class Operator {
  /** The steps before the release run in it; `return` and a cancellation of the workflow end it. */
  readonly forward = new CancellationScope();
  /** Set once the operator has said `return`. */
  returnAsked = false;
  /** Why nothing can be taken back any more. */
  beyondReturn: string | null = null;

  readonly #story: Story;
  #decision: Decision | null = null;

  constructor(story: Story) {
    this.#story = story;
    const decide = (decision: Decision): void => {
      this.#decision = decision;
    };
    setHandler(retryUpdate, () => decide({ kind: 'retry' }), { validator: () => this.#mustBeParked('retry') });
    setHandler(readdressUpdate, ({ destination }) => decide({ kind: 'readdress', destination }), {
      validator: ({ destination }) => {
        this.#mustBeParked('readdress');
        if (destination !== story.progress.source) return;
        throw failure('SameHost', `The instance comes from ${destination}; \`return\` takes it back there`);
      },
    });
    setHandler(
      returnUpdate,
      () => {
        if (this.forward.consideredCancelled) return;
        this.returnAsked = true;
        this.forward.cancel();
      },
      { validator: () => this.#mustBeReturnable() },
    );
    CancellationScope.current().cancelRequested.catch(() => {
      if (this.beyondReturn !== null) story.note(`Cancel was asked for and not followed: ${this.beyondReturn}`);
    });
  }

  /** Waits, with the guest stopped, for `retry` or `readdress`; `return` and a cancellation end the wait by throwing. */
  async park(cause: unknown): Promise<Decision> {
    this.#decision = null;
    this.#story.parked(cause);
    try {
      for (;;) {
        await condition(() => this.#decision !== null);
        if (this.#decision) return this.#decision;
      }
    } finally {
      this.#story.unparked();
    }
  }

  /** From here on the move can only go forward; a cancellation that came first is obeyed. */
  pointOfNoReturn(why: string): void {
    if (this.forward.consideredCancelled) throw new CancelledFailure('Called off before the point of no return');
    this.beyondReturn = why;
  }

  #mustBeReturnable(): void {
    if (this.beyondReturn !== null) throw failure('PointOfNoReturn', this.beyondReturn);
  }

  #mustBeParked(update: string): void {
    this.#mustBeReturnable();
    const { phase, instanceName, instanceId } = this.#story.progress;
    if (phase === 'parked') return;
    throw failure(
      'NotParked',
      `The move of ${instanceName || instanceId} is not parked; there is nothing to ${update}`,
    );
  }
}
