/**
 * Watches a testbed from outside vmferry while a campaign moves instances about in it, and keeps what it saw as a history
 * for the checker. Hosts may lose power and come back under its eyes.
 *
 *   const observer = await Observer.start(testbed);
 *   observer.watch(guest);
 *   observer.disturbance({ kind: 'power-loss', host: 'beta' });    // before it happens
 *   const violations = judge(await observer.finish());
 */
import { once } from 'node:events';
import { Worker } from 'node:worker_threads';
import type { Testbed } from '../../../infra/testbed/testbed.ts';
import { VmferryError } from '../../../workflows/failures.ts';
import { judge } from '../checker.ts';
import type {
  Bystander,
  Checkpoint,
  DiskCheck,
  Disturbance,
  DisturbanceKind,
  Expectation,
  History,
  HostState,
  Time,
  Violation,
  WatchedInstance,
} from '../history.ts';
import { lookAtBystanders, plantBystanders } from './bystanders.ts';
import { now } from './clock.ts';
import type { Calls, ThreadData } from './thread.ts';

export interface ObserverOptions {
  /** Told of what the observer itself cannot do. */
  log?: (line: string) => void;
  /** Plant things that no move made, to see whether they survive. Default true. */
  bystanders?: boolean;
}

export interface DisturbanceOptions {
  kind: DisturbanceKind;
  host?: string;
  /** Instances, or for `operator-deleted` ids of anything. Without them it strikes whatever is on the host. */
  ids?: string[];
  note?: string;
}

type Planted = Awaited<ReturnType<typeof plantBystanders>>;

export class Observer {
  readonly #testbed: Testbed;
  readonly #thread: Thread;
  readonly #planted: Planted;
  readonly #log: (line: string) => void;
  readonly #from = now();
  readonly #instances = new Map<string, WatchedInstance>();
  readonly #disturbances: Disturbance[] = [];
  readonly #checkpoints: Checkpoint[] = [];
  readonly #diskChecks: DiskCheck[] = [];

  private constructor(testbed: Testbed, thread: Thread, planted: Planted, log: (line: string) => void) {
    this.#testbed = testbed;
    this.#thread = thread;
    this.#planted = planted;
    this.#log = log;
  }

  /** Observes all hosts of the testbed from when this resolves. */
  static async start(testbed: Testbed, options: ObserverOptions = {}): Promise<Observer> {
    const { log = (): void => undefined, bystanders = true } = options;
    const planted = bystanders ? await plantBystanders(testbed) : [];
    return new Observer(testbed, await Thread.start(testbed), planted, log);
  }

  /** From now on the instance is judged. Call it when the instance has been spawned and nothing else happens to it yet. */
  watch(instance: { id: string; ip: string; name: string }): void {
    const { id, ip, name } = instance;
    this.#instances.set(id, { id, ip, name, from: now(), expected: 'running' });
  }

  /** How the instance should be found when it is next judged. Until then `running`. */
  expect(id: string, expected: Expectation): void {
    this.#instance(id).expected = expected;
  }

  /** Says what is about to be done to the pool. What it may cost is excused, and nothing more; so call it before. */
  disturbance({ kind, host, ids, note }: DisturbanceOptions): void {
    this.#disturbances.push({ kind, at: now(), host: host ?? null, ids: ids ?? null, note: note ?? null });
  }

  /** What the guest says of itself now; null if it does not answer, which is no violation by itself. */
  async checkpoint(id: string): Promise<Checkpoint | null> {
    const said = await this.#ask(id, (host, ip) => this.#testbed.guestGet(host, ip, '/', 5));
    if (!said) return null;
    const { token, counter, synced } = said.answer as { token: string; counter: number; synced: number };
    const { host, asked, answered } = said;
    const checkpoint: Checkpoint = { instance: id, host, asked, answered, token, counter, synced };
    this.#checkpoints.push(checkpoint);
    return checkpoint;
  }

  /** Everything that was seen so far, with the hosts as they are now. Observation goes on. */
  async snapshot(ids?: readonly string[]): Promise<History> {
    const wanted = ids ?? [...this.#instances.keys()];
    const expectRunning = wanted.filter((id) => this.#instance(id).expected === 'running');
    for (const id of expectRunning) {
      await this.checkpoint(id);
      await this.#checkDisk(id);
    }
    const before = await this.#thread.call('collect');
    const packages = new Set(
      before.ledger.filter(({ instance }) => wanted.includes(instance)).map(({ packageId }) => packageId ?? ''),
    );
    const final = await this.#thread.call('settle', ids ? [...packages] : null);
    return this.#history(final, await lookAtBystanders(this.#planted));
  }

  /**
   * The verdict on these instances while others are still moving: on all of their past, and on what they have left. Bystanders
   * are looked at too.
   */
  async judgeNow(ids: readonly string[]): Promise<Violation[]> {
    return judge(await this.snapshot(ids), { instances: ids });
  }

  /** The whole history. The observer is of no use afterwards. */
  async finish(): Promise<History> {
    try {
      return await this.snapshot();
    } finally {
      await this.stop();
    }
  }

  /** Ends without a verdict. Idempotent. */
  stop(): Promise<void> {
    return this.#thread.stop();
  }

  async #history(final: HostState[], bystanders: Bystander[]): Promise<History> {
    return {
      version: 1,
      from: this.#from,
      to: now(),
      hosts: this.#testbed.hosts,
      instances: [...this.#instances.values()],
      disturbances: this.#disturbances,
      ...(await this.#thread.call('collect')),
      checkpoints: this.#checkpoints,
      diskChecks: this.#diskChecks,
      bystanders,
      final,
    };
  }

  async #checkDisk(id: string): Promise<void> {
    const said = await this.#ask(id, (host, ip) => this.#testbed.guestDiskCheck(host, ip));
    if (!said) return;
    const { host, asked, answered, answer } = said;
    this.#diskChecks.push({ instance: id, host, asked, answered, ...answer });
  }

  /** Asks the guest where it runs; null if it does not answer there. */
  async #ask<T>(
    id: string,
    question: (host: string, ip: string) => Promise<T>,
  ): Promise<{ host: string; asked: Time; answered: Time; answer: T } | null> {
    const host = await this.#thread.call('whereabouts', id);
    if (host === null) return null;
    const asked = now();
    try {
      const answer = await question(host, this.#instance(id).ip);
      return { host, asked, answered: now(), answer };
    } catch (error) {
      if (!(error instanceof VmferryError)) throw error;
      this.#log(`${this.#instance(id).name} does not answer on ${host}: ${error.message}`);
      return null;
    }
  }

  #instance(id: string): WatchedInstance {
    const instance = this.#instances.get(id);
    if (!instance) throw new Error(`instance ${id} is not watched`);
    return instance;
  }
}

/** Longest that a power loss waits for the observers. */
const LAST_LOOK_MS = 10_000;

/** The thread that looks, and the questions to it. */
class Thread {
  readonly #worker: Worker;
  readonly #open = new Map<number, { resolve: (result: never) => void; reject: (error: unknown) => void }>();
  #last = 0;
  #stopping: Promise<unknown> | null = null;
  #stopLooking = (): void => undefined;
  /** Why no question is answered any more. */
  #failure: Error | null = null;

  private constructor(worker: Worker) {
    this.#worker = worker;
    worker.on('message', ({ id, result, error }: { id: number; result?: unknown; error?: unknown }) => {
      const asked = this.#open.get(id);
      this.#open.delete(id);
      if (error === undefined) asked?.resolve(result as never);
      else asked?.reject(error);
    });
    // What is asked of a thread that has died must not wait for ever.
    worker.on('error', (error: Error) => this.#fail(error));
    worker.on('exit', () => this.#fail(new Error('the observers have stopped')));
  }

  static async start(testbed: Testbed): Promise<Thread> {
    const roots = testbed.hosts.map((host) => [host, testbed.outside(host, '/var/lib/vmferry')] as const);
    const lastLookTaken = new Int32Array(new SharedArrayBuffer(4));
    const workerData: ThreadData = { testbed: testbed.directory, hosts: Object.fromEntries(roots), lastLookTaken };
    const worker = new Worker(new URL('./thread.ts', import.meta.url), { workerData });
    await once(worker, 'message');
    const thread = new Thread(worker);
    thread.#stopLooking = testbed.beforePowerLoss((host) => thread.#lastLook(host, lastLookTaken));
    return thread;
  }

  call<K extends keyof Calls>(call: K, ...args: Parameters<Calls[K]>): Promise<Awaited<ReturnType<Calls[K]>>> {
    const id = ++this.#last;
    return new Promise((resolve, reject) => {
      if (this.#failure) return reject(this.#failure);
      this.#open.set(id, { resolve, reject });
      this.#worker.postMessage({ id, call, args });
    });
  }

  async stop(): Promise<void> {
    this.#stopLooking();
    if (!this.#failure) this.#stopping ??= Promise.all([once(this.#worker, 'exit'), this.call('stop')]);
    await this.#stopping;
  }

  /** The testbed does not wait for promises here: the host must not lose its power while it is still looked at. */
  #lastLook(host: string, taken: Int32Array<SharedArrayBuffer>): void {
    if (this.#failure) return;
    Atomics.store(taken, 0, 0);
    this.call('lastLook', host).catch((error: unknown) => this.#fail(error as Error));
    Atomics.wait(taken, 0, 0, LAST_LOOK_MS);
  }

  #fail(error: Error): void {
    this.#failure ??= error;
    for (const { reject } of this.#open.values()) reject(error);
    this.#open.clear();
  }
}
