/**
 * One instance in a pretended pool, and what is to go wrong with it. The fakes act on it and write down what they were
 * asked; a test reads it afterwards. It keeps its own account of who may run the instance, so that a workflow that would
 * fork it is caught here, whatever else the test looks at.
 */
import { Context } from '@temporalio/activity';
import { ApplicationFailure } from '@temporalio/common';
import { randomUUID } from 'node:crypto';
import type {
  Comparison,
  HostActivities,
  HostId,
  InstanceId,
  InstanceState,
  MoveId,
  PackageDamage,
  PackageId,
} from '../../workflows/contract.ts';
import { FAILURES, type FailureType } from '../../workflows/failures.ts';
import type { Finding, HostReport } from '../../workflows/findings.ts';

/** `alpha.saveInstance`; the control worker is `control`. */
export type Call = `${HostId}.${string}`;

/** An activity that waits inside until the test lets it go on. */
export interface Held {
  /** Resolves when the activity has begun. */
  entered: Promise<void>;
  /** Resolves when Temporal has cancelled it. */
  cancelled: Promise<void>;
  goOn(): void;
}

interface Fault {
  call: Call;
  type: FailureType;
  left: number;
  when: 'before' | 'after' | 'cancelled';
}

/** A failure as a host worker reports it: repeated or not by the table. */
export function reported(type: FailureType, message: string): ApplicationFailure {
  return ApplicationFailure.create({ type, message, nonRetryable: !FAILURES[type].retry });
}

export class Scenario {
  readonly instanceId = randomUUID();
  readonly name: string;
  readonly source: HostId;
  packageId: PackageId | null = null;

  /** Every activity that began, in order; attempts count each. */
  readonly calls: Call[] = [];
  readonly inputs: { call: Call; input: unknown }[] = [];
  /** What must never happen. Empty at the end of every test. */
  readonly violations: string[] = [];

  /** Where vCPUs run. */
  runningOn: HostId | null;
  /** Hosts with a paused copy. */
  readonly pausedOn = new Set<HostId>();
  /** By the ledgers: who owns the newest generation; null after a release, until the destination takes over. */
  owner: HostId | null;
  generation = 1;
  releasedTo: HostId | null = null;
  /** Hosts that know of a fence that ended their generation. */
  readonly fencedHosts = new Set<HostId>();

  /** The catalog's view. */
  recorded: { host: HostId; state: InstanceState; generation: number };
  imageHosts: HostId[];
  openMove: { moveId: string; destination: HostId } | null = null;
  closed: string | null = null;
  readonly packageHosts = new Set<HostId>();
  /** What is known of the copies of its package. */
  readonly verified = new Map<HostId, { at: string; damage: PackageDamage | null }>();

  readonly #faults: Fault[] = [];
  readonly #held = new Map<Call, { enter(): void; cancel(): void; open: Promise<void> }>();

  constructor(options: { name?: string; source?: HostId; imageHosts?: HostId[] } = {}) {
    this.name = options.name ?? `web-${this.instanceId.slice(0, 4)}`;
    this.source = options.source ?? 'alpha';
    this.runningOn = this.source;
    this.owner = this.source;
    this.imageHosts = options.imageHosts ?? [this.source, 'beta', 'gamma'];
    this.recorded = { host: this.source, state: 'running', generation: 1 };
  }

  /** The next `times` calls fail: before they do anything, or after they did all, as when the answer is lost. */
  fail(call: Call, type: FailureType, options: { times?: number; when?: Fault['when'] } = {}): this {
    this.#faults.push({ call, type, left: options.times ?? Infinity, when: options.when ?? 'before' });
    return this;
  }

  /** What was to fail works from now on. */
  mend(call: Call): void {
    for (const fault of this.#faults) if (fault.call === call) fault.left = 0;
  }

  hold(call: Call): Held {
    const entered = Promise.withResolvers<void>();
    const cancelled = Promise.withResolvers<void>();
    const open = Promise.withResolvers<void>();
    this.#held.set(call, { enter: entered.resolve, cancel: cancelled.resolve, open: open.promise });
    return {
      entered: entered.promise,
      cancelled: cancelled.promise,
      goOn: () => {
        this.#held.delete(call);
        open.resolve();
      },
    };
  }

  /** The frame of every fake activity. */
  async act<T>(host: string, activity: string, input: unknown, effect: () => T): Promise<T> {
    const call: Call = `${host}.${activity}`;
    this.calls.push(call);
    this.inputs.push({ call, input });
    await this.#wait(call);
    this.#fault(call, 'before');
    const result = effect();
    this.#fault(call, 'after');
    return result;
  }

  async #wait(call: Call): Promise<void> {
    const held = this.#held.get(call);
    if (!held) return;
    const context = Context.current();
    const beat = setInterval(() => context.heartbeat(), 100);
    held.enter();
    try {
      await Promise.race([held.open, context.cancelled]);
    } catch (reason) {
      held.cancel();
      this.#fault(call, 'cancelled');
      throw reason;
    } finally {
      clearInterval(beat);
    }
  }

  #fault(call: Call, when: Fault['when']): void {
    const fault = this.#faults.find((one) => one.call === call && one.when === when && one.left > 0);
    if (!fault) return;
    fault.left--;
    throw reported(fault.type, `${call} was told to fail`);
  }

  /** vCPUs run on `host` from now on. */
  run(host: HostId): void {
    if (this.runningOn !== null && this.runningOn !== host)
      this.violations.push(`${host} runs it while ${this.runningOn} does`);
    if (this.owner !== host) this.violations.push(`${host} runs it though ${this.owner ?? 'nobody'} owns it`);
    this.runningOn = host;
    this.pausedOn.delete(host);
  }

  stop(host: HostId): void {
    if (this.runningOn === host) this.runningOn = null;
  }

  /** How often it was called. */
  count(call: Call): number {
    return this.calls.filter((one) => one === call).length;
  }

  inputOf<A extends keyof HostActivities>(host: HostId, activity: A): Parameters<HostActivities[A]>[0] {
    const found = this.inputs.findLast(({ call }) => call === `${host}.${activity}`);
    return found?.input as Parameters<HostActivities[A]>[0];
  }
}

/** All scenarios of a test file, found by what an activity is given. */
export class FakePool {
  /** For what belongs to no instance: hosts and images. */
  readonly common = new Scenario({ name: 'pool' });
  /** Instances that use the image. */
  imageUsers: InstanceId[] = [];
  /** What hosts answer when they are asked how things stand; what is left out is empty. */
  readonly reports = new Map<HostId, Partial<HostReport>>();
  hosts: HostId[] = ['alpha', 'beta', 'gamma'];
  /** What is found by comparing them with the catalog. */
  compared: (input: Comparison) => Finding[] = ({ reports }) => reports.flatMap(({ findings }) => findings);
  readonly #scenarios: Scenario[] = [];
  readonly #moves = new Map<MoveId, Scenario>();

  scenario(options?: ConstructorParameters<typeof Scenario>[0]): Scenario {
    const scenario = new Scenario(options);
    this.#scenarios.push(scenario);
    return scenario;
  }

  ofInstance(id: InstanceId): Scenario {
    return found(
      this.#scenarios.find(({ instanceId }) => instanceId === id),
      'InstanceNotFound',
      id,
    );
  }

  ofPackage(id: PackageId): Scenario {
    return found(
      this.#scenarios.find(({ packageId }) => packageId === id),
      'PackageNotFound',
      id,
    );
  }

  /** A package of that host which was not verified since. */
  nextToVerify(host: HostId, before: string): PackageId | null {
    const due = this.#scenarios.find(
      ({ packageHosts, verified }) => packageHosts.has(host) && !((verified.get(host)?.at ?? '') >= before),
    );
    return due?.packageId ?? null;
  }

  ofMove(id: MoveId): Scenario {
    return found(this.#moves.get(id), 'MoveNotFound', id);
  }

  isOpened(id: MoveId): boolean {
    return this.#moves.has(id);
  }

  opened(move: MoveId, scenario: Scenario): void {
    this.#moves.set(move, scenario);
  }
}

function found(scenario: Scenario | undefined, otherwise: FailureType, id: string): Scenario {
  if (!scenario) throw reported(otherwise, `${id} is not known`);
  return scenario;
}
