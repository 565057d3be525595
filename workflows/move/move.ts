/** One run of migrate, save or restore: what it knows and has done so far. The steps are in steps.ts. */
import { CancellationScope, setHandler, uuid4, workflowInfo } from '@temporalio/workflow';
import {
  progressQuery,
  type Address,
  type Host,
  type HostId,
  type Image,
  type InstanceFacts,
  type InstanceId,
  type MoveKind,
  type MoveOptions,
  type MovePhase,
  type MovePlan,
  type MoveRef,
  type SignedText,
} from '../contract.ts';
import { absence, failure, reasonOf } from '../failing.ts';
import { onControl } from '../options.ts';
import { CatalogNews } from './catalog-news.ts';
import { Operator } from './operator.ts';
import { Story } from './story.ts';

export class Move {
  readonly kind: MoveKind;
  readonly id = workflowInfo().firstExecutionRunId;
  readonly instanceId: InstanceId;
  readonly options: Required<MoveOptions>;
  readonly story: Story;
  readonly operator: Operator;
  readonly startedAt = Date.now();

  // Known once planned
  name = '';
  source!: Host;
  destination!: Host;
  /** Who hands out the package: the source, as long as that is not fenced. */
  holder!: Host;
  image!: Image;
  imageHosts: Host[] = [];
  packageId = uuid4();
  // Known once the source has been looked at, and the move reserved
  facts!: InstanceFacts;
  address!: Address;

  // What the way back has to undo. Each is set before the call that may make it true.
  /** The catalog may show the move as open. */
  reserved = false;
  /** The destination may expect the instance. */
  prepared = false;
  /** The source may have stopped the guest. */
  touched = false;

  /** What was said about the instance after its package was sealed: the release, then fences. */
  readonly later: SignedText[] = [];
  /** Hosts of whom the operator said that they died for good. They hold up nothing any more. */
  readonly fenced = new Set<HostId>();

  /** Hosts that keep a copy of theirs because they could not be told to give it up. */
  readonly keepers = new Set<HostId>();

  /** Hosts that fetched the package whole. */
  readonly packageAt = new Set<HostId>();

  /** When the guest stopped, by the workflow's clock. */
  #stoppedAt: number | null = null;
  readonly #news: CatalogNews;
  readonly #beside: Promise<void>[] = [];

  constructor(kind: MoveKind, input: { instanceId: InstanceId; options?: MoveOptions }) {
    this.kind = kind;
    this.instanceId = input.instanceId;
    this.options = { onFailure: 'return', retryWindowSeconds: 120, compressionLevel: 1, ...input.options };
    const { id: moveId, instanceId, packageId } = this;
    this.#news = new CatalogNews((word) =>
      onControl({ patience: 'for ever', summary: `Tell the catalog: ${word.phase}` }).recordMove({ moveId, ...word }),
    );
    this.story = new Story(kind, { moveId, instanceId, packageId }, (phase) => this.#tellCatalog(phase));
    this.operator = new Operator(this.story, kind);
    setHandler(progressQuery, () => this.story.progress);
  }

  /** The names of this move that every step at a host is given. */
  get ref(): MoveRef {
    const { id: moveId, instanceId, packageId, facts, later, fenced } = this;
    // The first statement makes the generation of the package, each fence that follows one more.
    const generation = facts.ownedGeneration + Math.max(1, later.length);
    return { moveId, instanceId, packageId, generation, ...(fenced.size > 0 && { fence: [...later] }) };
  }

  /** The names, if one more fence were used. */
  refAfter(fence: SignedText): MoveRef {
    const later = [...this.later, fence];
    return { ...this.ref, generation: this.facts.ownedGeneration + later.length, fence: later };
  }

  /** Who addressed the package to the destination: one that hands it out itself has it from the source. */
  get sender(): Host {
    return this.holder.id === this.destination.id ? this.source : this.holder;
  }

  /** Does it end on the host where it begins? So do a save, and a restore by the owner. */
  get atHome(): boolean {
    return this.source.id === this.destination.id;
  }

  // ---- What it learns ----

  planned({ instance, source, destination, image, imageHosts, packageId }: MovePlan): void {
    this.name = instance.name;
    this.source = source;
    this.holder = source;
    this.destination = destination;
    this.image = image;
    this.imageHosts = imageHosts;
    this.story.route(instance.name, source, destination);
    if (this.kind !== 'restore') return;
    if (packageId === null)
      throw failure('PackageNotFound', `There is no package of instance ${instance.name} to restore`);
    this.packageId = packageId;
    this.story.progress.packageId = packageId;
  }

  found(facts: InstanceFacts): void {
    this.facts = facts;
    this.story.progress.generation = this.ref.generation;
  }

  redirected(destination: Host): void {
    this.destination = destination;
    this.story.route(this.name, this.source, destination);
  }

  /** A fence is in use: `fenced` is out of it, `next` goes on. */
  goesOnBy(fence: SignedText, fenced: HostId, next: Host): void {
    this.later.push(fence);
    this.fenced.add(fenced);
    // Before the release the destination has the package too; nobody else could have been asked.
    if (fenced === this.holder.id) this.holder = this.destination;
    this.redirected(next);
    this.story.progress.generation = this.ref.generation;
  }

  // ---- The blackout ----

  blackoutBegins(): void {
    this.touched = true;
    this.#stoppedAt = Date.now();
    this.story.phase('blackout');
  }

  /** What the source measured is nearer to the guest than the workflow's clock. */
  stopped(stoppedMillis: number): void {
    this.#stoppedAt = Date.now() - stoppedMillis;
  }

  /** By the workflow's clock. */
  get stoppedAt(): number {
    return this.#stoppedAt ?? this.startedAt;
  }

  /** A restore begins with the guest stopped: its blackout is counted from the start of the workflow. */
  blackoutEnds(): void {
    this.story.blackoutEnded((Date.now() - this.stoppedAt) / 1000);
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
    if (!this.reserved || ['settling', 'moved', 'returned', 'abandoned', 'failed'].includes(phase)) return;
    const { step, parked, waitingFor } = this.story.progress;
    const reason = parked
      ? { type: parked.failure, message: parked.reason }
      : waitingFor !== undefined && { type: 'HostUnreachable' as const, message: absence(waitingFor) };
    this.#news.tell({ phase, step, ...(reason && { failure: reason }) });
  }
}
