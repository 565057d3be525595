/**
 * One run of migrate, save or restore: what it knows, what the operator may decide, and how it calls the hosts. The steps
 * are in steps.ts; what undoes them is in way-back.ts.
 */
import { CancellationScope, condition, setHandler, sleep, uuid4, workflowInfo } from '@temporalio/workflow';
import {
  progressQuery,
  readdressUpdate,
  retryUpdate,
  returnUpdate,
  type Address,
  type Host,
  type HostActivities,
  type HostId,
  type Image,
  type InstanceFacts,
  type InstanceId,
  type MoveKind,
  type MoveOptions,
  type MovePhase,
  type MovePlan,
  type MoveRef,
  type StepRecord,
} from '../contract.ts';
import { CancelledFailure, failure, isAbsence, isCancellation, reasonOf } from '../failing.ts';
import { ABSENT_AFTER, onControl, onHost, type CallOptions, type Patience } from '../options.ts';
import { CatalogNews } from './catalog-news.ts';
import { Story } from './story.ts';

/** The operator's word on a parked move. `return` ends the scope of the forward steps instead. */
export type Decision = { kind: 'retry' } | { kind: 'readdress'; destination: HostId };

/** Seconds. Nothing is at stake yet, and somebody waits for the answer. */
const PREFLIGHT_PATIENCE = 15;

/** How long a call is repeated when it fails, and how long it waits for an absent worker. */
interface Endurance {
  failing: Patience;
  absent: Patience;
}

export class Move {
  readonly kind: MoveKind;
  readonly id = workflowInfo().firstExecutionRunId;
  readonly instanceId: InstanceId;
  readonly options: Required<MoveOptions>;
  readonly story: Story;
  readonly startedAt = Date.now();
  /** The steps before the release run in it; `return` and Temporal's cancellation end it. */
  readonly forward = new CancellationScope();

  // Known once planned (steps.ts, plan)
  name = '';
  source!: Host;
  destination!: Host;
  image!: Image;
  imageHosts: Host[] = [];
  packageId = uuid4();
  // Known once the source has been looked at, and the move reserved
  facts!: InstanceFacts;
  address!: Address;

  /** Something must be undone at the catalog. */
  reserved = false;
  /** Something must be undone at the destination. */
  prepared = false;
  /** The source may have stopped the guest. */
  touched = false;
  /** Why nothing can be taken back any more. */
  beyondReturn: string | null = null;
  /** The operator asked for the return. */
  returnAsked = false;
  /** By the workflow's clock, corrected by what the source measured: the guest runs no more. */
  stoppedAt: number | null = null;

  readonly #news: CatalogNews;
  readonly #beside: Promise<void>[] = [];
  #decision: Decision | null = null;

  constructor(kind: MoveKind, input: { instanceId: InstanceId; options?: MoveOptions }) {
    this.kind = kind;
    this.instanceId = input.instanceId;
    this.#news = new CatalogNews((word) =>
      onControl({ patience: 'for ever', summary: `Tell the catalog: ${word.phase}` }).recordMove({
        moveId: this.id,
        ...word,
      }),
    );
    this.story = new Story(kind, { moveId: this.id, instanceId: this.instanceId, packageId: this.packageId }, (phase) =>
      this.#tellCatalog(phase),
    );
    this.options = checkedOptions(input.options);
    this.#listen();
  }

  /** The names of this move that every step at a host is given. */
  get ref(): MoveRef {
    return {
      moveId: this.id,
      instanceId: this.instanceId,
      packageId: this.packageId,
      generation: this.facts.ownedGeneration + 1,
    };
  }

  /** Does it end on the host where it begins? So do a save, and a restore by the owner. */
  get atHome(): boolean {
    return this.source.id === this.destination.id;
  }

  planned(plan: MovePlan): void {
    this.name = plan.instance.name;
    this.source = plan.source;
    this.destination = plan.destination;
    this.image = plan.image;
    this.imageHosts = plan.imageHosts;
    if (this.kind === 'restore') {
      if (plan.packageId === null)
        throw failure('PackageNotFound', `There is no package of instance ${this.name} to restore`);
      this.packageId = plan.packageId;
    }
    Object.assign(this.story.progress, { packageId: this.packageId });
    this.story.route(this.name, this.source, this.destination);
  }

  found(facts: InstanceFacts): void {
    this.facts = facts;
    this.story.progress.generation = this.ref.generation;
  }

  redirected(destination: Host): void {
    this.destination = destination;
    this.story.route(this.name, this.source, destination);
  }

  // ---- Steps ----

  /** A step on the source. It is the only host that has the guest, so its absent worker is waited for without limit. */
  async atSource<T>(
    step: StepRecord['step'],
    summary: string,
    call: (source: HostActivities) => Promise<T>,
    told?: (result: T) => string,
  ): Promise<T> {
    const endurance: Endurance = { failing: this.#patience(step), absent: 'for ever' };
    return this.story.step(step, this.source.id, () => this.call(this.source.id, summary, endurance, call), told);
  }

  /** A step on the destination. There are others: failing and absence are borne for the retry window. */
  async atDestination<T>(
    step: StepRecord['step'],
    summary: string,
    call: (destination: HostActivities) => Promise<T>,
    told?: (result: T) => string,
  ): Promise<T> {
    const { id } = this.destination;
    const endurance: Endurance = { failing: this.#patience(step), absent: this.options.retryWindowSeconds };
    return this.story.step(step, id, () => this.call(id, summary, endurance, call), told);
  }

  #patience(step: StepRecord['step']): number {
    const { retryWindowSeconds } = this.options;
    return step === 'preflight' ? Math.min(retryWindowSeconds, PREFLIGHT_PATIENCE) : retryWindowSeconds;
  }

  /** A step that must come to its end, whoever cancels; only the host's refusal ends it otherwise. */
  async shielded<T>(
    step: StepRecord['step'],
    host: HostId,
    summary: string,
    call: (host: HostActivities) => Promise<T>,
    told?: (result: T) => string,
  ): Promise<T> {
    const endurance: Endurance = { failing: 'for ever', absent: 'for ever' };
    return CancellationScope.nonCancellable(() =>
      this.story.step(step, host, () => this.call(host, summary, endurance, call), told),
    );
  }

  /** A step that must come to its end whatever happens. */
  async unfailing<T>(
    step: StepRecord['step'],
    host: HostId,
    summary: string,
    call: (host: HostActivities) => Promise<T>,
    told?: (result: T) => string,
  ): Promise<T> {
    return this.story.step(step, host, () => this.callForEver(host, summary, call), told);
  }

  /** Calls one host, once its worker is there. */
  async call<T>(
    host: HostId,
    summary: string,
    { failing, absent }: Endurance,
    call: (host: HostActivities) => Promise<T>,
  ): Promise<T> {
    const absentAfter = Math.max(1, Math.min(ABSENT_AFTER, this.options.retryWindowSeconds));
    for (;;) {
      const options: CallOptions = { summary, patience: failing, absentAfter };
      try {
        return await call(onHost(host, options));
      } catch (error) {
        const left = absent === 'for ever' ? absent : absent - absentAfter;
        if (!isAbsence(error) || !(await this.#workerBack(host, left))) throw error;
      }
    }
  }

  /** Like `call`, but it comes to its end whatever happens. */
  async callForEver<T>(host: HostId, summary: string, call: (host: HostActivities) => Promise<T>): Promise<T> {
    return this.insist(host, () => this.call(host, summary, { failing: 'for ever', absent: 'for ever' }, call));
  }

  /** Repeats also what was refused, whoever cancels: a person has to mend the cause, and sees it. */
  async insist<T>(who: string, run: () => Promise<T>): Promise<T> {
    return CancellationScope.nonCancellable(async () => {
      for (let wait = 5; ; wait = Math.min(wait * 2, 300)) {
        try {
          return await run();
        } catch (error) {
          this.story.note(`${who} refuses, and is asked again in ${wait} s: ${reasonOf(error).message}`);
          await sleep(wait * 1000, { summary: `Ask ${who} again` });
        }
      }
    });
  }

  /**
   * Waits for a worker by a small question that stays in its queue: the history does not grow, and the answer comes the
   * moment the worker is back. False if patience ends first.
   */
  async #workerBack(host: HostId, patience: Patience): Promise<boolean> {
    const question = async (): Promise<boolean> => {
      const asked = onHost(host, { summary: `Wait for the worker of ${host}`, patience: 0, absentAfter: null });
      await asked.describeHost().catch((error: unknown) => {
        if (isCancellation(error)) throw error; // any other failure is an answer too
      });
      return true;
    };
    const outer = CancellationScope.current();
    this.story.waiting(host);
    try {
      if (patience === 'for ever') return await question();
      return patience > 0 && (await CancellationScope.withTimeout(patience * 1000, question));
    } catch (error) {
      if (outer.consideredCancelled) throw error;
      return false;
    } finally {
      this.story.waitingOver();
    }
  }

  // ---- The blackout ----

  blackoutBegins(): void {
    this.touched = true;
    this.stoppedAt = Date.now();
    this.story.phase('blackout');
  }

  /** What the source measured is nearer to the guest than the workflow's clock. */
  stopped(stoppedMillis: number): void {
    this.stoppedAt = Date.now() - stoppedMillis;
  }

  /** A restore begins with the guest stopped: its blackout is counted from the start of the workflow. */
  blackoutEnds(): void {
    this.story.blackoutEnded((Date.now() - (this.stoppedAt ?? this.startedAt)) / 1000);
  }

  // ---- Beside the steps ----

  /** Work that no step waits for; the move ends after it. Its failure is told and changes nothing. */
  beside(what: string, run: () => Promise<unknown>): void {
    const done = CancellationScope.nonCancellable(run).then(
      () => undefined,
      (error: unknown) => this.story.note(`${what}: ${reasonOf(error).message}`),
    );
    this.#beside.push(done);
  }

  /** All that was begun beside the steps is over. */
  async besideDone(): Promise<void> {
    await Promise.all([this.#news.told(), ...this.#beside]);
  }

  /** Listings follow; the last word is closeMove's. */
  #tellCatalog(phase: MovePhase): void {
    const last = ['settling', 'moved', 'returned', 'failed'].includes(phase);
    if (!this.reserved || last) return;
    const { step, parked } = this.story.progress;
    this.#news.tell({ phase, step, ...(parked && { failure: { type: parked.failure, message: parked.reason } }) });
  }

  // ---- The operator ----

  #listen(): void {
    const { progress } = this.story;
    setHandler(progressQuery, () => progress);
    setHandler(retryUpdate, () => this.#decide({ kind: 'retry' }), { validator: () => this.#mustBeParked('retry') });
    setHandler(readdressUpdate, ({ destination }) => this.#decide({ kind: 'readdress', destination }), {
      validator: ({ destination }) => {
        this.#mustBeParked('readdress');
        if (destination === this.source.id)
          throw failure('SameHost', `The instance comes from ${destination}; \`return\` takes it back there`);
      },
    });
    setHandler(
      returnUpdate,
      () => {
        this.returnAsked = true;
        this.forward.cancel();
      },
      { validator: () => this.#mustBeReturnable() },
    );
    CancellationScope.current().cancelRequested.catch(() => {
      if (this.beyondReturn !== null) this.story.note(`Cancel was asked for and not followed: ${this.beyondReturn}`);
    });
  }

  #decide(decision: Decision): void {
    this.#decision = decision;
  }

  #mustBeReturnable(): void {
    if (this.beyondReturn !== null) throw failure('PointOfNoReturn', this.beyondReturn);
  }

  #mustBeParked(update: string): void {
    this.#mustBeReturnable();
    if (this.story.progress.phase !== 'parked')
      throw failure(
        'NotParked',
        `The move of ${this.name || this.instanceId} is not parked; there is nothing to ${update}`,
      );
  }

  /** Waits, with the guest stopped, for `retry` or `readdress`; `return` and a cancellation end the wait by throwing. */
  async park(cause: unknown): Promise<Decision> {
    this.#decision = null;
    this.story.parked(cause);
    try {
      await condition(() => this.#decision !== null);
      return this.#decision!;
    } finally {
      this.story.unparked();
    }
  }

  /** From here on the move can only go forward; a cancellation that came first is obeyed. */
  pointOfNoReturn(why: string): void {
    if (this.forward.consideredCancelled)
      throw new CancelledFailure(this.returnAsked ? 'The operator asked for the return' : 'Cancelled');
    this.beyondReturn = why;
  }
}

function checkedOptions(options: MoveOptions = {}): Required<MoveOptions> {
  const { onFailure = 'return', retryWindowSeconds = 120, compressionLevel = 1 } = options;
  const refuse = (name: string, range: string): never => {
    throw failure('InvalidInput', `${name} must be ${range}`);
  };
  if (onFailure !== 'park' && onFailure !== 'return') refuse('onFailure', '`park` or `return`');
  if (!(retryWindowSeconds >= 0 && retryWindowSeconds <= 30 * 86_400))
    refuse('retryWindowSeconds', 'between 0 and 30 days');
  if (!(Number.isInteger(compressionLevel) && compressionLevel >= 1 && compressionLevel <= 19))
    refuse('compressionLevel', 'between 1 and 19');
  return { onFailure, retryWindowSeconds, compressionLevel };
}
