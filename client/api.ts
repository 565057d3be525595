/**
 * The typed API under the command line: starts, watches and steers workflows through Temporal, reads listings from
 * the catalog. Either is reached only when first needed, and any machine that reaches both may use it.
 */
import type {
  Heartbeat,
  HostId,
  InstanceId,
  MoveId,
  MoveProgress,
  ReaddressInput,
  Scrubbed,
  Workflows,
} from '../workflows/contract.ts';
import type { CatalogReader } from './catalog-queries.ts';
import type { Profile } from './profile.ts';

// ---- Catalog ----

/** Read-only listings, and objects by id, unique beginning of an id, or name. */
export type Catalog = Pick<
  CatalogReader,
  | 'hosts'
  | 'images'
  | 'instances'
  | 'packages'
  | 'moves'
  | 'findHost'
  | 'findImage'
  | 'findInstance'
  | 'findPackage'
  | 'findMove'
> & {
  facts(): Promise<CatalogFacts>;
};

export interface CatalogFacts {
  /** Names of the migrations that the catalog has, in order. */
  migrations: string[];
  role: string;
  /** May this role change anything? It should not. */
  mayWrite: boolean;
}

// ---- Temporal ----

export type WorkflowName = keyof Workflows;
export type InputOf<K extends WorkflowName> = Parameters<Workflows[K]>[0];
export type ResultOf<K extends WorkflowName> = Awaited<ReturnType<Workflows[K]>>;

/** Known from the catalog; makes the history in Temporal's web interface readable. */
export interface Story {
  instanceName?: string;
  source?: HostId;
}

export interface PendingActivity {
  /** Name of the activity. */
  type: string;
  /** A worker has taken it. */
  started: boolean;
  /** 1 for the first try. */
  attempt: number;
  /** Why the last try failed. */
  lastFailure: string | null;
  heartbeat: Heartbeat | null;
}

/** What can be known of a running workflow at one moment. */
export interface Snapshot {
  /** Null for workflows that answer no progress query, and while no control worker answers. */
  progress: MoveProgress | null;
  activities: PendingActivity[];
  /** Why less is known than should be. */
  trouble: string | null;
}

/** One workflow execution. */
export interface Running<Result> {
  workflowId: string;
  /** Of a move: its move id. */
  runId: string;
  type: string;
  /** The same request was under way already, and this is it. */
  joined: boolean;
  /** Rejects as the workflow failed, or with `Interrupted`'s reason once `signal` aborts; the workflow goes on then. */
  result(signal: AbortSignal): Promise<Result>;
  snapshot(): Promise<Snapshot>;
  /** Of a move: refused from the point of no return on, as `return` is. */
  cancel(): Promise<void>;
  retry(): Promise<void>;
  return(): Promise<void>;
  abandon(): Promise<void>;
  /** With a fence it answers once the fence is in use, or is refused. */
  readdress(destination: HostId, fence?: ReaddressInput['fence']): Promise<void>;
}

export interface Poller {
  identity: string;
  /** Milliseconds since the epoch; a worker that lives is never silent for much longer than a minute. */
  lastSeen: number;
}

export interface ServerFacts {
  version: string;
  /** Search attributes of the namespace, by name. */
  searchAttributes: string[];
}

/** When packages are verified without anybody asking. */
export interface ScrubSchedule {
  /** Seconds; null if it was given another form. */
  every: number | null;
  off: boolean;
  /** Milliseconds since the epoch; null: never yet, or not foreseen. */
  last: number | null;
  next: number | null;
}

/** All calls reject with VmferryError `ServerUnreachable` or `ServerRefused` when it is Temporal that fails. */
export interface Orchestrator {
  /**
   * Starts a workflow under the id that its object gives it.
   *
   * @throws VmferryError `InstanceBusy`, `InUse`: something else runs under that id. The very same request is joined.
   */
  start<K extends WorkflowName>(type: K, input: InputOf<K>, story?: Story): Promise<Running<ResultOf<K>>>;
  /** The move, save, restore or delete of this instance that runs now. */
  runningOn(instanceId: InstanceId): Promise<Running<unknown> | null>;
  /** A move of the past or present. */
  move(instanceId: InstanceId, moveId: MoveId): Promise<Running<unknown>>;
  /** Has every package verified now, or joins the scrub that runs. */
  scrub(): Promise<Running<Scrubbed>>;
  /** Null while no control worker has made it. */
  scrubSchedule(): Promise<ScrubSchedule | null>;
  /** @param every seconds; null: no more scrubs but those that are asked for */
  scrubEvery(every: number | null): Promise<void>;
  /** Who polled this queue in the last minutes. */
  pollers(queue: { host: HostId } | 'control'): Promise<Poller[]>;
  facts(): Promise<ServerFacts>;
}

export interface Api {
  readonly profile: Profile;
  catalog(): Promise<Catalog>;
  temporal(): Promise<Orchestrator>;
  close(): Promise<void>;
}

/** Connects to what the profile names, each when first asked for. */
export function openApi(profile: Profile): Api {
  let catalog: Promise<Catalog & { close(): Promise<void> }> | undefined;
  let temporal: Promise<Orchestrator & { close(): Promise<void> }> | undefined;
  return {
    profile,
    catalog: () => (catalog ??= import('./catalog.ts').then(({ openCatalog }) => openCatalog(profile))),
    temporal: () => (temporal ??= import('./temporal.ts').then(({ connect }) => connect(profile))),
    close: async () => {
      // What never opened has thrown already where it was asked for.
      for (const opening of [catalog, temporal]) {
        const opened = await opening?.catch(() => undefined);
        await opened?.close();
      }
    },
  };
}
