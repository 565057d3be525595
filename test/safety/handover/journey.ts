/**
 * What an honest orchestrator does with one move: the steps of the workflows `migrate`, `save` and `restore`, in their
 * order, with their way back. It knows only what it was answered, and can be told the same answer twice or none.
 */
import type {
  Address,
  HostActivities,
  ImageId,
  InstanceFacts,
  MoveKind,
  MoveRef,
  SignedText,
} from '../../../workflows/contract.ts';
import { FAILURES, isFailureType } from '../../../workflows/failures.ts';
import type { ActivityName, Outcome, SimHost } from './world.ts';

export interface Call {
  host: SimHost;
  activity: ActivityName;
  input: unknown;
}

export type End = 'moved' | 'returned' | 'saved' | 'failed';

/** A failing step before the release is tried this often; what comes after is tried for ever. */
const PATIENCE = 3;

interface Step {
  activity: ActivityName;
  at: 'source' | 'destination';
  input: (journey: Journey) => object;
  learn?: (journey: Journey, answer: never) => void;
  /** Tried until it succeeds: the workflow has no other way to go. */
  forEver?: true;
}

type Answer<Name extends ActivityName> = Awaited<ReturnType<HostActivities[Name]>>;

const STEP = {
  preflightSource: {
    activity: 'preflightSource',
    at: 'source',
    input: ({ ref, kind }) => ({ instanceId: ref.instanceId, kind }),
    learn: (journey, facts: Answer<'preflightSource'>) => (journey.facts = facts),
  },
  preflightDestination: {
    activity: 'preflightDestination',
    at: 'destination',
    input: ({ ref, facts, options, source }) => ({
      ...{ instanceId: ref.instanceId, facts, imageId: options.imageId, source: source.signedRecord },
    }),
  },
  reserve: {
    activity: 'reserve',
    at: 'destination',
    input: ({ ref, options }) => ({ ...ref, name: options.name, address: options.address }),
  },
  saveInstance: { activity: 'saveInstance', at: 'source', input: ({ ref }) => ref },
  rebaseOverlay: { activity: 'rebaseOverlay', at: 'source', input: ({ ref }) => ref },
  buildPackage: { activity: 'buildPackage', at: 'source', input: ({ ref }) => ({ ...ref, compressionLevel: 1 }) },
  encryptPackage: {
    activity: 'encryptPackage',
    at: 'source',
    input: ({ ref, kind, destination }) => ({
      ...ref,
      destination: kind === 'save' ? null : destination.signedRecord,
    }),
  },
  readdressPackage: {
    activity: 'readdressPackage',
    at: 'source',
    input: ({ ref, destination }) => ({
      ...{ packageId: ref.packageId, instanceId: ref.instanceId, destination: destination.signedRecord },
    }),
  },
  transferPackage: {
    activity: 'transferPackage',
    at: 'destination',
    input: ({ ref, source }) => ({ ...ref, source: source.signedRecord }),
  },
  openPackage: {
    activity: 'openPackage',
    at: 'destination',
    input: ({ ref, source }) => ({ ...ref, source: source.signedRecord }),
  },
  rewriteXml: {
    activity: 'rewriteXml',
    at: 'destination',
    input: ({ ref, options }) => ({ ...ref, address: options.address }),
  },
  restoreInstance: {
    activity: 'restoreInstance',
    at: 'destination',
    input: ({ ref }) => ref,
    learn: (journey, { receipt }: Answer<'restoreInstance'>) => (journey.receipt = receipt),
  },
  releaseInstance: {
    activity: 'releaseInstance',
    at: 'source',
    input: ({ ref, receipt, destination }) => ({ ...ref, receipt, destination: destination.signedRecord }),
    learn: (journey, { release }: Answer<'releaseInstance'>) => (journey.release = release),
    forEver: true,
  },
  resumeInstance: {
    activity: 'resumeInstance',
    at: 'destination',
    input: ({ ref, release, source }) => ({ ...ref, release, source: source.signedRecord }),
    forEver: true,
  },
  settleDestination: {
    activity: 'settleMove',
    at: 'destination',
    input: ({ ref }) => ({ ...ref, role: 'destination', outcome: 'moved' }),
    forEver: true,
  },
  settleSource: {
    activity: 'settleMove',
    at: 'source',
    input: ({ ref }) => ({ ...ref, role: 'source', outcome: 'moved' }),
    forEver: true,
  },
  settleSaved: {
    activity: 'settleMove',
    at: 'source',
    input: ({ ref }) => ({ ...ref, role: 'source', outcome: 'saved' }),
    forEver: true,
  },
  settleReturned: {
    activity: 'settleMove',
    at: 'source',
    input: ({ ref }) => ({ ...ref, role: 'source', outcome: 'returned' }),
    forEver: true,
  },
  returnInstance: { activity: 'returnInstance', at: 'source', input: ({ ref }) => ref, forEver: true },
  discardCopy: { activity: 'discardCopy', at: 'destination', input: ({ ref }) => ref },
} as const satisfies Record<string, Step>;

const S: Record<keyof typeof STEP, Step> = STEP;
const PREPARE = [S.preflightDestination, S.reserve];
const PACK = [S.saveInstance, S.rebaseOverlay, S.buildPackage, S.encryptPackage];
const CARRY = [S.transferPackage, S.openPackage, S.rewriteXml, S.restoreInstance];
const HAND_OVER = [S.releaseInstance, S.resumeInstance, S.settleDestination, S.settleSource];
const ROUTES: Record<MoveKind | 'restore at home', Step[]> = {
  migrate: [S.preflightSource, ...PREPARE, ...PACK, ...CARRY, ...HAND_OVER],
  save: [S.preflightSource, ...PACK, S.settleSaved],
  restore: [S.preflightSource, ...PREPARE, S.readdressPackage, ...CARRY, ...HAND_OVER],
  // At home the destination is the source.
  'restore at home': [S.preflightSource, S.openPackage, S.rewriteXml, S.returnInstance, S.settleReturned],
};

export interface JourneyOptions {
  ref: MoveRef;
  kind: MoveKind;
  source: SimHost;
  destination: SimHost;
  name: string;
  address: Address;
  imageId: ImageId;
}

export class Journey {
  readonly options: JourneyOptions;
  readonly ref: MoveRef;
  readonly kind: MoveKind;
  readonly source: SimHost;
  destination: SimHost;
  /** Where it was to go before. */
  readonly former = new Set<SimHost>();
  facts: InstanceFacts | null = null;
  receipt: SignedText | null = null;
  release: SignedText | null = null;
  end: End | null = null;
  /** How it ends if no step fails. */
  readonly #goal: End;
  #steps: Step[];
  /** Something was done to the guest or for it. */
  #touched = false;
  #prepared = false;
  #releasing = false;
  #failed = 0;

  constructor(options: JourneyOptions) {
    const { ref, kind, source, destination } = options;
    this.options = options;
    this.ref = ref;
    this.kind = kind;
    this.source = source;
    this.destination = destination;
    const atHome = kind === 'restore' && source === destination;
    this.#steps = [...ROUTES[atHome ? 'restore at home' : kind]];
    this.#goal = kind === 'save' ? 'saved' : atHome ? 'returned' : 'moved';
  }

  /** The step that comes next. */
  get step(): ActivityName | null {
    return this.end === null ? (this.#steps[0]?.activity ?? null) : null;
  }

  /** What to ask of whom, now. */
  next(): Call | null {
    const step = this.#steps[0];
    if (this.end !== null || !step) return null;
    if (step === S.saveInstance) this.#touched = true;
    if (step === S.reserve) this.#prepared = true;
    // Once the call is made, only the source knows whether it decided.
    this.#releasing = step === S.releaseInstance;
    return { host: this[step.at], activity: step.activity, input: step.input(this) };
  }

  /** The answer to the last question, if there is one: the step is repeated otherwise. */
  told(outcome: Outcome): void {
    const step = this.#steps[0];
    if (!step) return;
    if (outcome.kind === 'answered') {
      this.#failed = 0;
      step.learn?.(this, outcome.value as never);
      this.#steps.shift();
      if (this.#steps.length === 0) this.end = this.#goalNow;
      return;
    }
    const retried = outcome.kind !== 'refused' || (isFailureType(outcome.type) && FAILURES[outcome.type].retry);
    this.#failed += 1;
    if (step === S.releaseInstance && retried) return;
    if (step === S.releaseInstance) return this.back();
    if (step.forEver) return;
    if (step === S.discardCopy || !retried || this.#failed >= PATIENCE) this.back();
  }

  get #goalNow(): End {
    return this.#onTheWayBack ? (this.#touched ? 'returned' : 'failed') : this.#goal;
  }
  #onTheWayBack = false;

  /** May the operator still call it off? */
  get returnable(): boolean {
    const beforeItsEnd = this.#steps.includes(S.releaseInstance) || this.#steps.includes(S.settleSaved);
    return this.end === null && !this.#onTheWayBack && beforeItsEnd && !this.#releasing;
  }

  /** Undoes what was done: as `withWayBack` does. */
  back(): void {
    this.#failed = 0;
    if (this.#onTheWayBack) {
      // A copy that cannot be given up now is given up later; nothing depends on it.
      this.#steps.shift();
    } else {
      this.#onTheWayBack = true;
      this.#steps = [
        ...(this.#touched ? [S.returnInstance] : []),
        ...(this.#prepared ? [S.discardCopy] : []),
        ...(this.#touched ? [S.settleReturned] : []),
      ];
    }
    if (this.#steps.length === 0) this.end = this.#goalNow;
  }

  /** Sent to another destination, once it is sealed and before it is released. */
  elsewhere(destination: SimHost): boolean {
    const at = this.#steps.indexOf(S.releaseInstance);
    if (this.#onTheWayBack || at < 0 || !CARRY.includes(this.#steps[0]!) || destination === this.source) return false;
    this.former.add(this.destination);
    this.former.delete(destination);
    this.destination = destination;
    this.receipt = null;
    this.#failed = 0;
    this.#steps = [S.readdressPackage, ...PREPARE, ...CARRY, ...HAND_OVER];
    return true;
  }
}
