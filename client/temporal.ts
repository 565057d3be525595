/** The Temporal side of the API. Loads the SDK, so it is imported only by commands that talk to the server. */
import { connect as connectSocket } from 'node:net';
import { hostname, userInfo } from 'node:os';
import {
  Client,
  Connection,
  isGrpcServiceError,
  ServiceError,
  WorkflowNotFoundError,
  WorkflowUpdateRPCTimeoutOrCancelledError,
} from '@temporalio/client';
import type { ConnectionOptions, WorkflowExecutionDescription, WorkflowHandle } from '@temporalio/client';
import { NamespaceNotFoundError, WorkflowExecutionAlreadyStartedError } from '@temporalio/common';
import type { SearchAttributePair } from '@temporalio/common';
import {
  decodeArrayFromPayloads,
  decodeOptionalFailureToOptionalError,
} from '@temporalio/common/lib/internal-non-workflow/index.js';
import { loadClientConnectConfig } from '@temporalio/envconfig';
import proto from '@temporalio/proto';
import {
  abandonUpdate,
  cancelUpdate,
  CONTROL_QUEUE,
  hostQueue,
  progressQuery,
  readdressUpdate,
  retryUpdate,
  returnUpdate,
  workflowId,
} from '../workflows/contract.ts';
import type {
  Heartbeat,
  HostId,
  InstanceId,
  MoveId,
  MoveProgress,
  ReaddressInput,
  Scrubbed,
} from '../workflows/contract.ts';
import { VmferryError } from '../workflows/failures.ts';
import type {
  InputOf,
  Orchestrator,
  PendingActivity,
  Poller,
  ResultOf,
  Running,
  ScrubSchedule,
  ServerFacts,
  Snapshot,
  Story,
  WorkflowName,
} from './api.ts';
import { causes, Interrupted } from './failure.ts';
import { shortMove } from './format.ts';
import type { Profile } from './profile.ts';
import { changeScrubSchedule, scrubSchedule, triggerScrub } from './scrub-schedule.ts';
import { ATTRIBUTES, STARTS } from './starts.ts';
import type { About } from './starts.ts';

/** Milliseconds for a call that a healthy server answers in a few. */
const CALL_MS = 15_000;
/** A query waits for a control worker; the next poll asks again. */
const QUERY_MS = 3_000;
/** Before a fence is used the host that it ends is asked, and the host that goes on. */
const FENCE_MS = 90_000;
const CONNECT_MS = 5_000;

/** gRPC status codes, as https://grpc.io/docs/guides/status-codes/ numbers them. */
const GRPC = {
  cancelled: 1,
  invalidArgument: 3,
  deadlineExceeded: 4,
  notFound: 5,
  permissionDenied: 7,
  failedPrecondition: 9,
  unavailable: 14,
  unauthenticated: 16,
};

/**
 * Connects to the server that the profile names.
 *
 * @throws VmferryError `ServerUnreachable`, `ServerRefused`
 */
export async function connect(profile: Profile): Promise<Orchestrator & { close(): Promise<void> }> {
  const server = new Server(profile);
  await server.open();
  return server;
}

class Server implements Orchestrator {
  readonly #profile: Profile;
  #connection: Connection | undefined;
  #client: Client | undefined;

  constructor(profile: Profile) {
    this.#profile = profile;
  }

  get #where(): string {
    return `Temporal at ${this.#profile.temporal.address} (profile ${this.#profile.file})`;
  }

  async open(): Promise<void> {
    const { address, namespace } = this.#profile.temporal;
    await this.#knock(address);
    await this.guard(async () => {
      const { connectionOptions } = loadClientConnectConfig({
        profile: this.#profile.temporalProfile,
        configSource: { data: this.#profile.text },
      });
      const options = { ...connectionOptions, address, connectTimeout: CONNECT_MS } as ConnectionOptions;
      this.#connection = await Connection.connect(options);
      const identity = `vmferry ${userInfo().username}@${hostname()}`;
      this.#client = new Client({ connection: this.#connection, namespace, identity });
    });
  }

  async close(): Promise<void> {
    await this.#connection?.close();
  }

  get client(): Client {
    if (this.#client === undefined) throw new Error('not connected');
    return this.#client;
  }

  /** gRPC tries a refused port until its deadline; a plain connection tells at once. */
  async #knock(address: string): Promise<void> {
    const at = address.lastIndexOf(':');
    const socket = connectSocket({
      host: address.slice(0, at).replaceAll(/[[\]]/g, ''),
      port: Number(address.slice(at + 1)),
    });
    try {
      await new Promise<void>((resolve, reject) => {
        socket.once('connect', resolve).once('error', reject);
        socket.setTimeout(CONNECT_MS, () => reject(new Error('no answer')));
      });
    } catch (cause) {
      throw new VmferryError('ServerUnreachable', `${this.#where} does not answer`, { cause });
    } finally {
      socket.destroy();
    }
  }

  /** Calls the server; what goes wrong on the way gets our types, what a workflow answered passes unchanged. */
  async guard<T>(call: () => Promise<T>): Promise<T> {
    try {
      return await call();
    } catch (error) {
      throw this.#translate(error);
    }
  }

  /** A call that is answered soon or not at all. */
  call<T>(run: () => Promise<T>, milliseconds = CALL_MS): Promise<T> {
    const connection = this.#connection;
    if (connection === undefined) throw new Error('not connected');
    return this.guard(() => connection.withDeadline(Date.now() + milliseconds, run));
  }

  /** A call that may take for ever, and ends when the user has enough. */
  patient<T>(run: () => Promise<T>, signal: AbortSignal): Promise<T> {
    const connection = this.#connection;
    if (connection === undefined) throw new Error('not connected');
    return this.guard(() => connection.withAbortSignal(signal, run));
  }

  #translate(error: unknown): unknown {
    const chain = causes(error);
    // Calls past the SDK's clients name no workflow: what they do not find is the namespace.
    const raw = isGrpcServiceError(error) && (error.code as number) === GRPC.notFound;
    if (raw || chain.some((one) => one instanceof NamespaceNotFoundError)) {
      const message = `${this.#where} has no namespace ${this.#profile.temporal.namespace}`;
      return new VmferryError('ServerRefused', message, { cause: error });
    }
    if (error instanceof WorkflowUpdateRPCTimeoutOrCancelledError) {
      const message = 'No control worker answers; the decision counts if one takes it up later';
      return new VmferryError('HostUnreachable', message, { cause: error });
    }
    const status = chain.find(isGrpcServiceError);
    switch (status?.code as number | undefined) {
      case GRPC.cancelled:
        return new Interrupted('What was started goes on');
      case GRPC.unavailable:
      case GRPC.deadlineExceeded:
        return new VmferryError('ServerUnreachable', `${this.#where} does not answer`, { cause: error });
      case GRPC.invalidArgument:
      case GRPC.permissionDenied:
      case GRPC.unauthenticated:
        return new VmferryError('ServerRefused', `${this.#where} refuses: ${status?.details ?? ''}`, { cause: error });
      default:
    }
    // Thrown without a status when the connection never came up.
    return error instanceof ServiceError && status === undefined && chain.length === 1
      ? new VmferryError('ServerUnreachable', `${this.#where} does not answer`, { cause: error })
      : error;
  }

  async start<K extends WorkflowName>(type: K, input: InputOf<K>, story: Story = {}): Promise<Running<ResultOf<K>>> {
    const how = STARTS[type];
    const id = how.id(input);
    const about = how.about(input, story);
    try {
      const handle = await this.call(() =>
        this.client.workflow.start(type, {
          workflowId: id,
          taskQueue: CONTROL_QUEUE,
          args: [input],
          workflowIdConflictPolicy: 'FAIL',
          workflowIdReusePolicy: 'ALLOW_DUPLICATE',
          typedSearchAttributes: pairs(about),
          staticSummary: how.summary(input, story),
          staticDetails: details(input, story),
          ...(how.timeout === undefined ? {} : { workflowExecutionTimeout: how.timeout }),
        }),
      );
      return new Execution<ResultOf<K>>(this, handle, handle.firstExecutionRunId, type, false);
    } catch (error) {
      if (!(error instanceof WorkflowExecutionAlreadyStartedError)) throw error;
      return this.#join(type, id, about, error);
    }
  }

  /** Something runs under this id: the same request, which is then watched, or another, which is in the way. */
  async #join<K extends WorkflowName>(type: K, id: string, about: About, cause: Error): Promise<Running<ResultOf<K>>> {
    const running = await this.#describe(id);
    // It ended in the meantime, or there is no telling what it was.
    if (running === null)
      throw new VmferryError('InstanceBusy', `Another operation on ${id} has just ended`, { cause });
    const same =
      running.type === type &&
      (STARTS[type].same ?? []).every((key) => {
        // What the user left open is whatever the running one has.
        return about[key] === undefined || running.typedSearchAttributes.get(ATTRIBUTES[key]) === about[key];
      });
    if (!same) {
      const what = (await running.staticSummary()) ?? running.type;
      const failure = id.startsWith('instance:') || id.startsWith('spawn:') ? 'InstanceBusy' : 'InUse';
      throw new VmferryError(failure, `Another operation is under way: ${what} (${shortMove(running.runId)})`, {
        cause,
      });
    }
    const handle = this.client.workflow.getHandle(id, undefined, { firstExecutionRunId: running.runId });
    return new Execution<ResultOf<K>>(this, handle, running.runId, type, true);
  }

  /** The open execution under this id, or null. */
  async #describe(id: string): Promise<WorkflowExecutionDescription | null> {
    try {
      const description = await this.call(() => this.client.workflow.getHandle(id).describe());
      return description.status.name === 'RUNNING' ? description : null;
    } catch (error) {
      if (error instanceof WorkflowNotFoundError) return null;
      throw error;
    }
  }

  async runningOn(instanceId: InstanceId): Promise<Running<unknown> | null> {
    const id = workflowId.instance(instanceId);
    const running = await this.#describe(id);
    if (running === null) return null;
    const handle = this.client.workflow.getHandle(id, undefined, { firstExecutionRunId: running.runId });
    return new Execution(this, handle, running.runId, running.type, true);
  }

  async move(instanceId: InstanceId, moveId: MoveId): Promise<Running<unknown>> {
    const handle = this.client.workflow.getHandle(workflowId.instance(instanceId), moveId);
    const { type } = await this.call(() => handle.describe());
    return new Execution(this, handle, moveId, type, true);
  }

  async scrub(): Promise<Running<Scrubbed>> {
    const { started, joined } = await triggerScrub(this.client, (run) => this.call(run));
    const { workflowId: id, firstExecutionRunId } = started;
    const handle = this.client.workflow.getHandle(id, undefined, { firstExecutionRunId });
    return new Execution<Scrubbed>(this, handle, firstExecutionRunId, 'scrub', joined);
  }

  scrubSchedule(): Promise<ScrubSchedule | null> {
    return scrubSchedule(this.client, (run) => this.call(run));
  }

  scrubEvery(every: number | null): Promise<void> {
    return changeScrubSchedule(this.client, (run) => this.call(run), every);
  }

  async pollers(queue: { host: HostId } | 'control'): Promise<Poller[]> {
    const { TASK_QUEUE_TYPE_ACTIVITY, TASK_QUEUE_TYPE_WORKFLOW } = proto.temporal.api.enums.v1.TaskQueueType;
    const answer = await this.call(() =>
      this.client.workflowService.describeTaskQueue({
        namespace: this.client.options.namespace,
        taskQueue: { name: queue === 'control' ? CONTROL_QUEUE : hostQueue(queue.host) },
        taskQueueType: queue === 'control' ? TASK_QUEUE_TYPE_WORKFLOW : TASK_QUEUE_TYPE_ACTIVITY,
      }),
    );
    return answer.pollers.map(({ identity, lastAccessTime }) => ({
      identity: identity ?? '',
      lastSeen: Number(lastAccessTime?.seconds ?? 0) * 1000,
    }));
  }

  async facts(): Promise<ServerFacts> {
    const { namespace } = this.client.options;
    const system = await this.call(() => this.client.workflowService.getSystemInfo({}));
    await this.call(() => this.client.workflowService.describeNamespace({ namespace }));
    const attributes = await this.call(() =>
      this.client.connection.operatorService.listSearchAttributes({ namespace }),
    );
    return {
      version: system.serverVersion,
      searchAttributes: Object.keys(attributes.customAttributes ?? {}),
    };
  }
}

function pairs(about: About): SearchAttributePair[] {
  return Object.entries(ATTRIBUTES).flatMap(([key, attribute]) => {
    const value = about[key as keyof About];
    return value === undefined ? [] : [{ key: attribute, value }];
  });
}

/** The request as Temporal's web interface shows it, in Markdown. */
function details(input: object, story: Story): string {
  const rows = Object.entries({ ...story, ...input }).filter(([key]) => key !== 'record');
  const lines = rows.map(
    ([key, value]) => `- ${key}: \`${typeof value === 'object' ? JSON.stringify(value) : String(value)}\``,
  );
  return [...lines, `- asked by ${userInfo().username}@${hostname()}`].join('\n');
}

class Execution<Result> implements Running<Result> {
  readonly workflowId: string;
  readonly runId: string;
  readonly type: string;
  readonly joined: boolean;
  readonly #server: Server;
  readonly #handle: WorkflowHandle;

  constructor(server: Server, handle: WorkflowHandle, runId: string, type: string, joined: boolean) {
    this.#server = server;
    this.#handle = handle;
    this.workflowId = handle.workflowId;
    this.runId = runId;
    this.type = type;
    this.joined = joined;
  }

  result(signal: AbortSignal): Promise<Result> {
    return this.#server.patient(() => this.#handle.result() as Promise<Result>, signal);
  }

  async snapshot(): Promise<Snapshot> {
    const [progress, activities] = await Promise.allSettled([this.#progress(), this.#activities()]);
    if (activities.status === 'rejected') throw activities.reason;
    return progress.status === 'fulfilled'
      ? { progress: progress.value, activities: activities.value, trouble: null }
      : { progress: null, activities: activities.value, trouble: 'no control worker answers' };
  }

  /** Null for workflows that have no such query. */
  async #progress(): Promise<MoveProgress | null> {
    if (!isMove(this.type)) return null;
    return this.#server.call(() => this.#handle.query(progressQuery), QUERY_MS);
  }

  async #activities(): Promise<PendingActivity[]> {
    const { raw } = await this.#server.call(() => this.#handle.describe());
    const converter = this.#server.client.options.loadedDataConverter;
    return Promise.all(
      (raw.pendingActivities ?? []).map(async (activity): Promise<PendingActivity> => {
        const [heartbeat] = await decodeArrayFromPayloads(converter, activity.heartbeatDetails?.payloads);
        const failure = await decodeOptionalFailureToOptionalError(converter, activity.lastFailure);
        return {
          type: activity.activityType?.name ?? '',
          started: activity.state === proto.temporal.api.enums.v1.PendingActivityState.PENDING_ACTIVITY_STATE_STARTED,
          attempt: activity.attempt ?? 1,
          lastFailure: failure?.message ?? null,
          heartbeat: isHeartbeat(heartbeat) ? heartbeat : null,
        };
      }),
    );
  }

  async cancel(): Promise<void> {
    // Temporal's own cancellation is never refused, only not followed.
    if (isMove(this.type)) await this.#decide(() => this.#handle.executeUpdate(cancelUpdate));
    else await this.#server.call(() => this.#handle.cancel());
  }

  async abandon(): Promise<void> {
    await this.#decide(() => this.#handle.executeUpdate(abandonUpdate));
  }

  async retry(): Promise<void> {
    await this.#decide(() => this.#handle.executeUpdate(retryUpdate));
  }

  async return(): Promise<void> {
    await this.#decide(() => this.#handle.executeUpdate(returnUpdate));
  }

  async readdress(destination: HostId, fence?: ReaddressInput['fence']): Promise<void> {
    await this.#decide(
      () => this.#handle.executeUpdate(readdressUpdate, { args: [{ destination, ...(fence && { fence }) }] }),
      fence ? FENCE_MS : CALL_MS,
    );
  }

  /** Hands a decision to the workflow, and answers when it was taken, or was refused. */
  async #decide(update: () => Promise<void>, milliseconds = CALL_MS): Promise<void> {
    try {
      await this.#server.call(update, milliseconds);
    } catch (error) {
      // The workflow task that brought it was lost with its worker; the server does not say whether it was taken.
      const lost = causes(error).some((one) => isGrpcServiceError(one) && Number(one.code) === GRPC.failedPrecondition);
      if (!lost) throw error;
      const message = 'The control worker fell silent over the decision; ask again';
      throw new VmferryError('HostUnreachable', message, { cause: error });
    }
  }
}

const isMove = (type: string): boolean => ['migrate', 'save', 'restore'].includes(type);

function isHeartbeat(details: unknown): details is Heartbeat {
  return (
    typeof details === 'object' &&
    details !== null &&
    'bytesDone' in details &&
    'bytesTotal' in details &&
    'step' in details
  );
}
