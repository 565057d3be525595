/**
 * The client's world, pretended: a catalog of rows, a Temporal that notes what is asked of it, streams that collect, a
 * clock that only sleeping moves.
 */
import { Readable } from 'node:stream';
import type { HostId, MoveProgress, ReaddressInput, Scrubbed, StepRecord } from '../../workflows/contract.ts';
import { VmferryError } from '../../workflows/failures.ts';
import type { Api, Catalog, Orchestrator, Poller, Running, ScrubSchedule, Snapshot } from '../../client/api.ts';
import type { HostRow, ImageRow, InstanceRow, MoveRow, PackageRow } from '../../client/catalog-queries.ts';
import { run } from '../../client/cli.ts';
import type { Profile } from '../../client/profile.ts';
import { systemClock } from '../../client/session.ts';
import type { Clock } from '../../client/session.ts';

export const NOW = Date.parse('2026-11-24T12:00:00Z');
const at = new Date(NOW - 3_600_000);

export function hostRow(id: HostId, values: Partial<HostRow> = {}): HostRow {
  const fingerprint = id.charCodeAt(0).toString(16).toUpperCase().padStart(2, '0').repeat(32);
  return {
    id,
    fingerprint,
    record: `record of ${id}`,
    location: 'lab',
    architecture: 'x86_64',
    instances: 0,
    images: 0,
    packages: 0,
    addedAt: at,
    ...values,
  };
}

export function imageRow(id: string, values: Partial<ImageRow> = {}): ImageRow {
  return {
    id: id.padEnd(64, '0'),
    name: 'debian',
    format: 'qcow2',
    bytes: 1e8,
    virtualBytes: 2 ** 30,
    boot: {},
    hosts: ['alpha'],
    instances: [],
    addedAt: at,
    ...values,
  };
}

export function instanceRow(id: string, values: Partial<InstanceRow> = {}): InstanceRow {
  return {
    id,
    name: 'counter',
    host: 'alpha',
    generation: 1,
    state: 'running',
    imageId: 'ab'.repeat(32),
    imageName: 'debian',
    address: { ip: '10.77.0.2', mac: '52:54:00:4d:00:02' },
    memoryBytes: 2 ** 28,
    vcpus: 1,
    domainType: 'auto',
    packageId: null,
    moveId: null,
    createdAt: at,
    updatedAt: at,
    ...values,
  };
}

export function moveRow(id: string, values: Partial<MoveRow> = {}): MoveRow {
  return {
    id,
    kind: 'migrate',
    instanceId: 'i',
    instanceName: 'counter',
    source: 'alpha',
    destination: 'beta',
    packageId: 'p',
    generation: 2,
    phase: 'blackout',
    step: 'transferPackage',
    outcome: null,
    owner: null,
    failure: null,
    result: null,
    startedAt: at,
    updatedAt: at,
    endedAt: null,
    ...values,
  };
}

export function packageRow(id: string, values: Partial<PackageRow> = {}): PackageRow {
  return {
    id,
    instanceId: 'i',
    instanceName: 'counter',
    generation: 2,
    bytes: 4e7,
    sealedAt: at,
    hosts: ['alpha', 'beta'],
    copies: ['alpha', 'beta'].map((host) => ({ host, verifiedAt: null, damage: null })),
    needed: false,
    ...values,
  };
}

export function progress(values: Partial<MoveProgress> = {}): MoveProgress {
  return {
    moveId: 'm-1',
    instanceId: 'i-1',
    instanceName: 'counter',
    source: 'alpha',
    destination: 'beta',
    generation: 2,
    packageId: 'p-1',
    phase: 'preparing',
    step: 'preflight',
    steps: [],
    packageBytes: 0,
    wireBytes: 0,
    ...values,
  };
}

export const step = (name: StepRecord['step'], startedAt: number, endedAt?: number, summary?: string): StepRecord => ({
  step: name,
  host: 'alpha',
  startedAt,
  ...(endedAt === undefined ? {} : { endedAt }),
  ...(summary === undefined ? {} : { summary }),
});

export const snapshot = (values: Partial<Snapshot> = {}): Snapshot => ({
  progress: null,
  activities: [],
  trouble: null,
  ...values,
});

/** What `start` finds or makes; replaceable piece by piece. */
export class FakeRunning implements Running<unknown> {
  workflowId = 'instance:i-1';
  runId = '01a20abf-1234-7000-8000-000000000000';
  type = 'migrate';
  joined = false;
  /** One for each look; the last is repeated. */
  snapshots: Snapshot[] = [snapshot()];
  /** After so many looks the result is there. */
  looks = 0;
  outcome: () => unknown = () => ({});
  readonly decisions: string[] = [];
  #looked = Promise.withResolvers<void>();
  #count = 0;

  async result(signal: AbortSignal): Promise<unknown> {
    if (this.#count >= this.looks) this.#looked.resolve();
    const aborted = new Promise<never>((_, reject) =>
      signal.addEventListener('abort', () => reject(new Error('aborted'))),
    );
    await Promise.race([this.#looked.promise, aborted]);
    return this.outcome();
  }
  snapshot(): Promise<Snapshot> {
    const shown = this.snapshots[Math.min(this.#count, this.snapshots.length - 1)] ?? snapshot();
    this.#count++;
    if (this.#count >= this.looks) this.#looked.resolve();
    return Promise.resolve(shown);
  }
  cancel(): Promise<void> {
    return this.#decide('cancel');
  }
  retry(): Promise<void> {
    return this.#decide('retry');
  }
  return(): Promise<void> {
    return this.#decide('return');
  }
  abandon(): Promise<void> {
    return this.#decide('abandon');
  }
  /** The fence with which it was sent elsewhere. */
  fence: ReaddressInput['fence'];
  readdress(destination: HostId, fence?: ReaddressInput['fence']): Promise<void> {
    this.fence = fence;
    return this.#decide(`readdress ${destination}`);
  }
  #decide(decision: string): Promise<void> {
    this.decisions.push(decision);
    return Promise.resolve();
  }
}

function find<Row extends { id: string; name?: string }>(
  rows: Row[],
  type: 'ImageNotFound' | 'InstanceNotFound' | 'PackageNotFound' | 'HostNotFound',
  word: string,
): Promise<Row> {
  const row = rows.find(({ id, name }) => id === word || name === word) ?? rows.find(({ id }) => id.startsWith(word));
  return row === undefined ? Promise.reject(new VmferryError(type, `nothing is called ${word}`)) : Promise.resolve(row);
}

export class FakeApi implements Api {
  profile: Profile = {
    file: '/etc/profile.toml',
    text: '',
    temporalProfile: 'default',
    temporal: { address: '127.0.0.1:7233', namespace: 'default' },
    catalog: 'postgres://reader@db/vmferry',
    pool: null,
    ui: 'http://ui',
  };
  rows = {
    hosts: [hostRow('alpha'), hostRow('beta')],
    images: [] as ImageRow[],
    instances: [] as InstanceRow[],
    packages: [] as PackageRow[],
    moves: [] as MoveRow[],
  };
  migrations = ['0001_catalog', '0002_scrub'];
  mayWrite = false;
  /** What the workflows that are started, or run already, do; by type. */
  workflows: Record<string, () => Running<unknown>> = {};
  running: Running<unknown> | null = null;
  pollersOf: Record<string, Poller[]> = {};
  searchAttributes = ['VmferryInstance', 'VmferrySource', 'VmferryDestination', 'VmferryPhase'];
  scrubSchedule: ScrubSchedule | null = { every: 86_400, off: false, last: NOW, next: null };
  closed = false;
  readonly started: { type: string; input: object; story: object | undefined }[] = [];

  catalog = (): Promise<Catalog> => {
    const { rows } = this;
    return Promise.resolve({
      hosts: () => Promise.resolve(rows.hosts),
      images: () => Promise.resolve(rows.images),
      instances: () => Promise.resolve(rows.instances),
      packages: (instanceId) =>
        Promise.resolve(rows.packages.filter((row) => instanceId === undefined || row.instanceId === instanceId)),
      moves: ({ instanceId, openOnly = false } = {}) =>
        Promise.resolve(
          rows.moves.filter(
            (row) => (instanceId === undefined || row.instanceId === instanceId) && (!openOnly || row.outcome === null),
          ),
        ),
      findHost: (word) => find(rows.hosts, 'HostNotFound', word),
      findImage: (word) => find(rows.images, 'ImageNotFound', word),
      findInstance: (word) => find(rows.instances, 'InstanceNotFound', word),
      findPackage: (word) => find(rows.packages, 'PackageNotFound', word),
      findMove: (word) => {
        const row =
          rows.moves.find(({ id }) => id.startsWith(word)) ??
          rows.moves.find(({ instanceId, instanceName }) => instanceId === word || instanceName === word);
        return row === undefined
          ? Promise.reject(new VmferryError('MoveNotFound', `no move is called ${word}`))
          : Promise.resolve(row);
      },
      facts: () => Promise.resolve({ migrations: this.migrations, role: 'reader', mayWrite: this.mayWrite }),
    });
  };

  temporal = (): Promise<Orchestrator> => {
    const orchestrator: Orchestrator = {
      start: (type, input, story) => {
        this.started.push({ type, input, story });
        const running = this.workflows[type]?.() ?? new FakeRunning();
        return Promise.resolve(running as Running<never>);
      },
      runningOn: () => Promise.resolve(this.running),
      move: () => Promise.resolve(this.running ?? new FakeRunning()),
      scrub: () => Promise.resolve((this.workflows['scrub']?.() ?? new FakeRunning()) as Running<Scrubbed>),
      scrubSchedule: () => Promise.resolve(this.scrubSchedule),
      scrubEvery: (every) => {
        this.scrubSchedule = { every, off: every === null, last: null, next: null };
        return Promise.resolve();
      },
      pollers: (queue) =>
        Promise.resolve(
          this.pollersOf[queue === 'control' ? 'control' : queue.host] ?? [
            { identity: 'worker', lastSeen: Date.now() },
          ],
        ),
      facts: () => Promise.resolve({ version: '1.29.1', searchAttributes: this.searchAttributes }),
    };
    return Promise.resolve(orchestrator);
  };

  close(): Promise<void> {
    this.closed = true;
    return Promise.resolve();
  }

  /** A workflow that ends at once. */
  answers(type: string, result: unknown): this {
    return this.runs(type, { outcome: () => result });
  }

  runs(type: string, values: Partial<FakeRunning>): this {
    this.workflows[type] = () => Object.assign(new FakeRunning(), { type }, values);
    return this;
  }

  fails(type: string, error: Error): this {
    return this.runs(type, {
      outcome: () => {
        throw error;
      },
    });
  }
}

/** Sleeping lets time pass and yields once, so that a loop cannot starve what it waits for. */
export function fakeClock(): Clock {
  let now = NOW;
  return {
    now: () => now,
    sleep: async (milliseconds) => {
      now += milliseconds;
      await new Promise((resolve) => setImmediate(resolve));
    },
  };
}

class Collector {
  text = '';
  isTTY: boolean;
  columns = 100;
  constructor(isTTY: boolean) {
    this.isTTY = isTTY;
  }
  write(text: string): boolean {
    this.text += text;
    return true;
  }
}

export interface Outcome {
  exit: number;
  stdout: string;
  stderr: string;
}

export interface Circumstances {
  api?: FakeApi;
  /** What the user types; default: nothing, and no terminal. */
  stdin?: string;
  terminal?: boolean;
  env?: Record<string, string>;
  interrupt?: AbortSignal;
  /** Default: one that only sleeping moves. */
  clock?: 'real';
}

const PROFILE = '[profile.default]\naddress = "127.0.0.1:1"\n';

/** Runs one command line in this process, against `api` if one is given, else against what the profile names. */
export async function command(line: string | string[], options: Circumstances = {}): Promise<Outcome> {
  const { api, terminal = false } = options;
  const stdout = new Collector(terminal);
  const stderr = new Collector(terminal);
  const stdin = Object.assign(Readable.from(options.stdin === undefined ? [] : [options.stdin]), { isTTY: terminal });
  const { mkdtemp, rm, writeFile } = await import('node:fs/promises');
  const { tmpdir } = await import('node:os');
  const folder = await mkdtemp(`${tmpdir()}/vmferry-client-`);
  try {
    await writeFile(`${folder}/profile.toml`, PROFILE);
    const exit = await run(typeof line === 'string' ? line.split(' ').filter((word) => word !== '') : line, {
      stdin,
      stdout,
      stderr,
      env: { VMFERRY_PROFILE: `${folder}/profile.toml`, ...options.env },
      clock: options.clock === 'real' ? systemClock : fakeClock(),
      interrupt: options.interrupt ?? new AbortController().signal,
      ...(api === undefined ? {} : { openApi: () => api }),
    });
    return { exit, stdout: stdout.text, stderr: stderr.text };
  } finally {
    await rm(folder, { recursive: true });
  }
}

/** Every line of jsonl. */
export const lines = (text: string): Record<string, unknown>[] =>
  text
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => JSON.parse(line) as Record<string, unknown>);
