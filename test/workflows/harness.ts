/** A Temporal server, a control worker and host workers of fakes in this process: what tests of workflows run in. */
import assert from 'node:assert/strict';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import {
  Client,
  Connection,
  WorkflowFailedError,
  type WorkflowHandle,
  type WorkflowHandleWithFirstExecutionRunId,
} from '@temporalio/client';
import { bundleWorkflowCode, DefaultLogger, NativeConnection, Worker, type WorkflowBundle } from '@temporalio/worker';
import {
  CONTROL_QUEUE,
  hostQueue,
  progressQuery,
  workflowId,
  type HostId,
  type MigrateInput,
  type MoveOptions,
  type MovePhase,
  type MoveProgress,
  type MoveResult,
  type RestoreInput,
  type Workflows,
} from '../../workflows/contract.ts';
import { createFakeControlActivities } from '../fakes/control-activities.ts';
import { createFakeHostActivities } from '../fakes/host-activities.ts';
import { FakePool, type Scenario } from '../fakes/scenario.ts';
import { quietRuntime } from '../support/quiet-runtime.ts';
import { startTemporal, type TestTemporal } from '../support/temporal.ts';

export const WORKFLOWS = fileURLToPath(new URL('../../workflows/index.ts', import.meta.url));

export class Harness {
  readonly pool = new FakePool();
  readonly temporal: TestTemporal;
  readonly client: Client;
  readonly #connection: NativeConnection;
  readonly #workflowBundle: WorkflowBundle;
  readonly #begun: WorkflowHandle[] = [];
  readonly #running = new Map<string, { worker: Worker; ended: Promise<void> }>();

  private constructor(
    temporal: TestTemporal,
    client: Client,
    connection: NativeConnection,
    workflowBundle: WorkflowBundle,
  ) {
    this.temporal = temporal;
    this.client = client;
    this.#connection = connection;
    this.#workflowBundle = workflowBundle;
  }

  /** With the workers of these hosts. */
  static async start(hosts: HostId[]): Promise<Harness> {
    quietRuntime();
    const [temporal, workflowBundle] = await Promise.all([
      startTemporal(),
      bundleWorkflowCode({ workflowsPath: WORKFLOWS, logger: new DefaultLogger('ERROR') }),
    ]);
    const { address, namespace } = temporal;
    const connection = await NativeConnection.connect({ address });
    const harness = new Harness(
      temporal,
      new Client({ connection: await Connection.connect({ address }), namespace, identity: 'test' }),
      connection,
      workflowBundle,
    );
    const control = await Worker.create({
      connection,
      namespace,
      taskQueue: CONTROL_QUEUE,
      identity: 'control',
      workflowBundle,
      activities: createFakeControlActivities(harness.pool),
    });
    harness.#running.set('control', { worker: control, ended: control.run() });
    for (const host of hosts) await harness.startHost(host);
    return harness;
  }

  async startHost(host: HostId): Promise<void> {
    const worker = await Worker.create({
      connection: this.#connection,
      namespace: this.temporal.namespace,
      taskQueue: hostQueue(host),
      identity: `host ${host}`,
      activities: createFakeHostActivities(host, this.pool),
      // Cancellation comes with the answer to a heartbeat.
      maxHeartbeatThrottleInterval: 100,
      defaultHeartbeatThrottleInterval: 100,
    });
    this.#running.set(host, { worker, ended: worker.run() });
  }

  async stopHost(host: HostId): Promise<void> {
    const running = this.#running.get(host);
    this.#running.delete(host);
    running?.worker.shutdown();
    await running?.ended;
  }

  async stop(): Promise<void> {
    for (const { worker } of this.#running.values()) worker.shutdown();
    await Promise.all([...this.#running.values()].map(({ ended }) => ended));
    await this.#connection.close();
    await this.client.connection.close();
    await this.temporal.stop();
  }

  async begin<N extends keyof Workflows>(
    name: N,
    id: string,
    input: Parameters<Workflows[N]>[0],
  ): Promise<WorkflowHandleWithFirstExecutionRunId<Workflows[N]>> {
    const handle = await this.client.workflow.start<Workflows[N]>(name, {
      taskQueue: CONTROL_QUEUE,
      workflowId: id,
      args: [input] as unknown as Parameters<Workflows[N]>,
      // A test that hangs should say so rather than hang.
      workflowExecutionTimeout: '60s',
    });
    this.#begun.push(handle);
    return handle;
  }

  /**
   * Replays every workflow that this harness has seen, as a control worker does after a crash.
   *
   * @returns what went another way than before
   */
  async replayAll(): Promise<string[]> {
    const histories = async function* (
      handles: WorkflowHandle[],
    ): AsyncIterable<{ workflowId: string; history: unknown }> {
      for (const handle of handles) yield { workflowId: handle.workflowId, history: await handle.fetchHistory() };
    };
    const failed: string[] = [];
    const workflowBundle = this.#workflowBundle;
    for await (const { workflowId: id, error } of Worker.runReplayHistories(
      { workflowBundle },
      histories(this.#begun),
    )) {
      if (error) failed.push(`${id}: ${error.message}`);
    }
    return failed;
  }

  async run<N extends keyof Workflows>(
    name: N,
    input: Parameters<Workflows[N]>[0],
  ): Promise<Awaited<ReturnType<Workflows[N]>>> {
    const handle = await this.begin(name, `${name}:${crypto.randomUUID()}`, input);
    return (await handle.result()) as Awaited<ReturnType<Workflows[N]>>;
  }

  /** save or restore of an instance, by its own workflow id. */
  async start<N extends 'save' | 'restore'>(
    name: N,
    { instanceId }: Scenario,
    input: Omit<RestoreInput, 'instanceId'> = {},
  ): Promise<WorkflowHandleWithFirstExecutionRunId<Workflows[N]>> {
    const options: MoveOptions = { retryWindowSeconds: 1, ...input.options };
    return await this.begin(name, workflowId.instance(instanceId), { ...input, instanceId, options });
  }

  async move(scenario: Scenario, options: MigrateInput['options'] = {}, destination = 'beta'): Promise<Migration> {
    const input: MigrateInput = {
      instanceId: scenario.instanceId,
      destination,
      options: { retryWindowSeconds: 1, ...options },
    };
    return new Migration(await this.begin('migrate', workflowId.instance(scenario.instanceId), input), scenario);
  }
}

/** A move that a test follows. */
export class Migration {
  readonly handle: WorkflowHandleWithFirstExecutionRunId<Workflows['migrate']>;
  readonly scenario: Scenario;

  constructor(handle: WorkflowHandleWithFirstExecutionRunId<Workflows['migrate']>, scenario: Scenario) {
    this.handle = handle;
    this.scenario = scenario;
  }

  async progress(): Promise<MoveProgress> {
    return await this.handle.query(progressQuery);
  }

  /** Polls, as a client does. */
  async until(what: MovePhase | ((progress: MoveProgress) => boolean)): Promise<MoveProgress> {
    const holds = typeof what === 'string' ? (progress: MoveProgress): boolean => progress.phase === what : what;
    for (let waited = 0; ; waited += 100) {
      const progress = await this.progress();
      if (holds(progress)) return progress;
      if (waited > 20_000) assert.fail(`waited in vain; the move is ${JSON.stringify(progress)}`);
      await sleep(100);
    }
  }

  async result(): Promise<MoveResult> {
    return await this.handle.result();
  }

  /** What the workflow failed with, outermost first: `Type: message`, or the name of a failure without type. */
  async failure(): Promise<string[]> {
    return await failureOf(this.handle.result());
  }

  /** Types only. */
  async failureTypes(): Promise<string[]> {
    return (await this.failure()).map((line) => line.split(':', 1)[0] ?? '');
  }
}

export async function failureOf(result: Promise<unknown>): Promise<string[]> {
  const error: unknown = await result.then(
    () => assert.fail('it succeeded'),
    (reason: unknown) => reason,
  );
  assert.ok(error instanceof WorkflowFailedError, String(error));
  const chain: string[] = [];
  for (let cause = error.cause; cause; cause = cause.cause as Error | undefined) {
    chain.push(`${'type' in cause && typeof cause.type === 'string' ? cause.type : cause.name}: ${cause.message}`);
  }
  return chain;
}
