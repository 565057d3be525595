/**
 * An orchestrator that is wrong, or hostile, or a step that wakes when it should be dead: it asks the real host workers of
 * a testbed, through the real Temporal server, for whatever a test likes. What hosts refuse, they refuse by themselves.
 */
import { randomUUID } from 'node:crypto';
import { fileURLToPath } from 'node:url';
import { Client, Connection, WorkflowFailedError } from '@temporalio/client';
import { ActivityFailure, ApplicationFailure } from '@temporalio/common';
import { bundleWorkflowCode, DefaultLogger, NativeConnection, Worker } from '@temporalio/worker';
import type { HostActivities, HostId } from '../../workflows/contract.ts';
import { quietRuntime } from './quiet-runtime.ts';
import type { ask } from './rogue-workflow.ts';

const QUEUE = 'rogue';

export class RogueOrchestrator {
  readonly #client: Client;
  readonly #connection: NativeConnection;
  readonly #worker: Worker;
  readonly #ended: Promise<void>;

  private constructor(client: Client, connection: NativeConnection, worker: Worker) {
    this.#client = client;
    this.#connection = connection;
    this.#worker = worker;
    this.#ended = worker.run();
  }

  static async start(temporalAddress: string): Promise<RogueOrchestrator> {
    quietRuntime();
    const workflowsPath = fileURLToPath(new URL('rogue-workflow.ts', import.meta.url));
    const connection = await NativeConnection.connect({ address: temporalAddress });
    const worker = await Worker.create({
      connection,
      taskQueue: QUEUE,
      identity: 'rogue',
      workflowBundle: await bundleWorkflowCode({ workflowsPath, logger: new DefaultLogger('ERROR') }),
    });
    return new RogueOrchestrator(
      new Client({ connection: await Connection.connect({ address: temporalAddress }), identity: 'rogue' }),
      connection,
      worker,
    );
  }

  /** What the host answered: `done`, or the type of its failure. */
  async ask<A extends keyof HostActivities>(
    host: HostId,
    activity: A,
    ...[input]: Parameters<HostActivities[A]>
  ): Promise<string> {
    const workflow = { workflowId: `rogue:${randomUUID()}`, taskQueue: QUEUE };
    try {
      await this.#client.workflow.execute<typeof ask>('ask', { ...workflow, args: [host, activity, input] });
      return 'done';
    } catch (error) {
      const cause = error instanceof WorkflowFailedError && error.cause instanceof ActivityFailure && error.cause.cause;
      if (cause instanceof ApplicationFailure) return cause.type ?? 'no type';
      throw error;
    }
  }

  /** Ends a workflow as an operator's slip in Temporal's web interface does: it gets no chance to clear up. */
  async terminate(workflowId: string): Promise<void> {
    await this.#client.workflow.getHandle(workflowId).terminate('terminated by a test');
  }

  async stop(): Promise<void> {
    this.#worker.shutdown();
    await this.#ended;
    await this.#connection.close();
    await this.#client.connection.close();
  }
}
