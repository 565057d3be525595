/**
 * What a person may decide about a move, and until when. Before the release: `retry`, `readdress` and `abandon` while it is
 * parked, `return`, `cancel` and Temporal's own cancellation at any time. Once the instance is released, or may be: `retry`,
 * and `readdress` with a fence, while the host that it depends on fails or is absent. Everything else is refused, and why.
 */
import { CancellationScope, condition, setHandler, Trigger } from '@temporalio/workflow';
import {
  abandonUpdate,
  cancelUpdate,
  readdressUpdate,
  retryUpdate,
  returnUpdate,
  type FenceOffer,
  type HostId,
  type MoveKind,
  type ParkChoice,
  type ReaddressInput,
  type SignedText,
} from '../contract.ts';
import { CancelledFailure, failure } from '../failing.ts';
import type { Story } from './story.ts';

/** On a parked move. The others end the scope of the forward steps instead. */
export type Decision = { kind: 'retry' } | { kind: 'readdress'; destination: HostId } | FenceDecision;

/** `readdress` of an instance that is released, or may be. */
export interface FenceDecision {
  kind: 'fence';
  destination: HostId;
  fence: SignedText;
  /** The operator's call waits for it: resolved when the fence is in use, rejected if it is not and never was. */
  verdict: Trigger<void>;
}

/** How the operator called a move off. */
export type CalledOff = 'return' | 'cancel' | 'abandon';

export class Operator {
  /** The steps before the release run in it; what calls the move off ends it. */
  readonly forward = new CancellationScope();
  /** Set once the operator has called the move off by an update. */
  calledOff: CalledOff | null = null;
  /** Why nothing can be taken back any more. */
  beyondReturn: string | null = null;

  readonly #story: Story;
  #decision: Decision | null = null;

  constructor(story: Story, kind: MoveKind) {
    this.#story = story;
    setHandler(retryUpdate, () => this.#decide({ kind: 'retry' }), { validator: () => this.#mustBeParked('retry') });
    setHandler(readdressUpdate, (input) => this.#readdress(input), {
      validator: (input: ReaddressInput) => this.#mustBeReaddressable(input),
    });
    setHandler(returnUpdate, () => this.#callOff('return'), { validator: () => this.#mustBeReturnable() });
    setHandler(cancelUpdate, () => this.#callOff('cancel'), { validator: () => this.#mustBeReturnable() });
    setHandler(abandonUpdate, () => this.#callOff('abandon'), {
      validator: () => {
        this.#mustBeReturnable();
        if (kind === 'save')
          throw failure('NotParked', 'A save is called off with `cancel`; there is nothing to abandon');
        this.#mustBeParked('abandon');
      },
    });
    CancellationScope.current().cancelRequested.catch(() => {
      if (this.beyondReturn !== null) story.note(`Cancel was asked for and not followed: ${this.beyondReturn}`);
    });
  }

  /** Waits, with the guest stopped, for `retry` or `readdress`; what calls the move off ends the wait by throwing. */
  async park(cause: unknown): Promise<Decision> {
    this.#decision = null;
    this.#story.parked(cause, { choices: ['retry', 'return', 'readdress', 'abandon'], released: false });
    try {
      for (;;) {
        await condition(() => this.hasDecided);
        const decision = this.takeDecision();
        if (decision) return decision;
      }
    } finally {
      this.#story.unparked();
    }
  }

  get hasDecided(): boolean {
    return this.#decision !== null;
  }

  /** The decision that was made last and nobody has taken up yet. */
  takeDecision(): Decision | null {
    const decision = this.#decision;
    this.#decision = null;
    return decision;
  }

  /** Waits for so many seconds, or until the operator wants a try at once. */
  async retryWithin(seconds: number): Promise<void> {
    const asked = (): boolean => this.#decision?.kind === 'retry';
    if (await condition(asked, seconds * 1000)) this.#decision = null;
  }

  /** From here on the move can only go forward; a cancellation that came first is obeyed. */
  pointOfNoReturn(why: string): void {
    if (this.forward.consideredCancelled) throw new CancelledFailure('Called off before the point of no return');
    this.beyondReturn = why;
  }

  /** The source has decided that nothing was released: the move can be taken back as before. */
  backBeforeRelease(): void {
    this.beyondReturn = null;
  }

  /** From now on only a fence of this host could send the move elsewhere. */
  offerFence(offer: FenceOffer): void {
    this.#story.progress.fence = offer;
  }

  /** The host has done its part: whoever asked for a fence in the meantime is told that none was needed. */
  withdrawFence(): void {
    const { fence } = this.#story.progress;
    delete this.#story.progress.fence;
    const decision = this.takeDecision();
    if (decision?.kind === 'fence') {
      decision.verdict.reject(failure('FenceRefused', `Host ${fence?.host} lives: it has just gone on with the move`));
    }
  }

  #decide(decision: Decision): void {
    this.#decision = decision;
  }

  async #readdress({ destination, fence }: ReaddressInput): Promise<void> {
    if (fence === undefined) return this.#decide({ kind: 'readdress', destination });
    const verdict = new Trigger<void>();
    this.#decide({ kind: 'fence', destination, fence: fence.fence, verdict });
    await verdict;
  }

  #callOff(how: CalledOff): void {
    if (this.forward.consideredCancelled) return;
    this.calledOff = how;
    this.forward.cancel();
  }

  #mustBeReturnable(): void {
    if (this.beyondReturn !== null) throw failure('PointOfNoReturn', this.beyondReturn);
  }

  #mustBeParked(update: ParkChoice): void {
    const { parked, instanceName, instanceId } = this.#story.progress;
    if (parked?.choices.includes(update)) return;
    this.#mustBeReturnable();
    throw failure(
      'NotParked',
      `The move of ${instanceName || instanceId} is not parked; there is nothing to ${update}`,
    );
  }

  #mustBeReaddressable({ destination, fence }: ReaddressInput): void {
    const { phase, source, fence: offer, instanceName } = this.#story.progress;
    if (!offer) {
      this.#mustBeParked('readdress');
      if (fence !== undefined)
        throw failure('FenceRefused', `Instance ${instanceName} is not released; it goes elsewhere without a fence`);
      if (destination !== source) return;
      throw failure('SameHost', `The instance comes from ${destination}; \`return\` takes it back there`);
    }
    // A host that answers and does not fail is at work on it.
    if (phase !== 'parked' && phase !== 'waiting') this.#mustBeReturnable();
    if (fence === undefined)
      throw failure('FenceMissing', `${this.beyondReturn}; another host needs a fence of ${offer.host}`);
    if (fence.after !== offer.last)
      throw failure('FenceConflict', `The move goes on by another fence already, and waits for ${offer.host} now`);
    if (destination === offer.host)
      throw failure('SameHost', `The move waits for ${destination} itself; a fence is for another host to go on`);
    if (this.#decision !== null) throw failure('InstanceBusy', 'Another decision about this move is being carried out');
  }
}
