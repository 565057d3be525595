/** A small pool in the catalog, written by the control worker's own activities, for tests that read or break it. */
import { createHash, randomUUID } from 'node:crypto';
import { after, afterEach, before, beforeEach } from 'node:test';
import { MockActivityEnvironment } from '@temporalio/testing';
import { DefaultLogger } from '@temporalio/worker';
import { generateKey } from 'openpgp';
import pg from 'pg';
import { Catalog } from '../../activities/catalog/catalog.ts';
import { migrateCatalog } from '../../activities/catalog/migrate.ts';
import { createControlActivities } from '../../activities/control.ts';
import { PROFILE } from '../../activities/trust/openpgp-profile.ts';
import { signText } from '../../activities/trust/signed-text.ts';
import type {
  ControlActivities,
  HostId,
  HostRecord,
  Image,
  InstanceId,
  PackageId,
  SpawnInput,
} from '../../workflows/contract.ts';
import { workflowId } from '../../workflows/contract.ts';
import type { TestPostgres } from './postgres.ts';
import { startPostgres } from './postgres.ts';

const { privateKey } = await generateKey({
  type: 'curve25519',
  userIDs: [{ name: 'pool' }],
  format: 'object',
  config: PROFILE,
});

const pem = (label: string): string => `-----BEGIN ${label}-----\nMA==\n-----END ${label}-----\n`;

/** A host's record. Each name has a key of its own; `key` stands for another one. */
export function hostRecord(name: HostId, key = name): HostRecord {
  const fingerprint = createHash('sha256').update(key).digest('hex').toUpperCase();
  return {
    version: 1,
    name,
    fingerprint,
    publicKey: pem('PGP PUBLIC KEY BLOCK'),
    tlsCertificate: pem('CERTIFICATE'),
    addresses: [`${name}:7443`],
    location: 'here',
    architecture: 'x86_64',
  };
}

export const signedRecord = async (record: HostRecord): Promise<string> => await signText(record, privateKey);

/** An image whose id is one digit, repeated. */
export function imageOf(digit: string, name = `image-${digit}`): Image {
  const kernel = { sha256: 'f'.repeat(64), bytes: 8_000_000 };
  const boot = { kernel, cmdline: 'console=ttyS0' };
  return { id: digit.repeat(64), name, format: 'qcow2', bytes: 1_000_000, virtualBytes: 5_000_000_000, boot };
}

/** One catalog in a database of its own. */
export interface TestCatalog {
  url: string;
  activities: ControlActivities;
  /** The activities, as the workflow of that id calls them. Other workflows are nobody's holder. */
  as(workflow: string): ControlActivities;
  /** The activities, as the instance's own workflow calls them. */
  holder(instance: InstanceId): ControlActivities;
  /** Ids of the workflows that run. */
  running: Set<string>;
  /** Statements of the superuser, in sessions of their own. */
  sql: pg.Pool;
  close(): Promise<void>;
}

/** A cluster, and a migrated database from which the others are copied. */
export async function startCatalogs(): Promise<{ server: TestPostgres; open: () => Promise<TestCatalog> }> {
  const server = await startPostgres();
  const template = await server.createDatabase();
  await migrateCatalog(server.url(template));
  return { server, open: async () => openCatalog(server.url(await server.createDatabase(template))) };
}

/** Each test of the suite has a catalog of its own, with these hosts; `use` is given it before the test. */
export function catalogForEachTest(hosts: readonly HostId[], use: (catalog: TestCatalog) => void): void {
  let server: TestPostgres;
  let open: () => Promise<TestCatalog>;
  let catalog: TestCatalog;
  before(async () => {
    ({ server, open } = await startCatalogs());
  });
  after(() => server.stop());
  beforeEach(async () => {
    catalog = await open();
    await addPool(catalog, ...hosts);
    use(catalog);
  });
  afterEach(() => catalog.close());
}

export function openCatalog(url: string): TestCatalog {
  const catalog = new Catalog(url);
  const sql = new pg.Pool({ connectionString: url, max: 4 });
  sql.on('error', () => undefined);
  const running = new Set<string>();
  const real = createControlActivities(catalog, (id) => Promise.resolve(running.has(id)));
  const as = (workflow: string): ControlActivities => calledBy(real, workflow);
  return {
    url,
    activities: as('somebody'),
    as,
    holder: (instance) => as(workflowId.instance(instance)),
    running,
    sql,
    close: async () => {
      await catalog.close();
      await sql.end();
    },
  };
}

function calledBy(activities: ControlActivities, workflow: string): ControlActivities {
  const all = activities as unknown as Record<string, (input: unknown) => Promise<unknown>>;
  const call = (_: object, name: string) => async (input: unknown) => {
    const info = { workflowExecution: { workflowId: workflow, runId: randomUUID() } };
    // Failures are what many of the tests provoke.
    const environment = new MockActivityEnvironment(info, { logger: new DefaultLogger('ERROR') });
    return await environment.run(async () => await all[name]?.(input));
  };
  return new Proxy({}, { get: call }) as ControlActivities;
}

/** Adds hosts, and image 1 on the first of them. */
export async function addPool({ activities }: TestCatalog, ...hosts: HostId[]): Promise<void> {
  for (const host of hosts) await activities.recordHost({ record: await signedRecord(hostRecord(host)) });
  await activities.recordImage({ image: imageOf('1'), host: hosts[0] ?? '' });
}

export function spawnInput(name: string, host: HostId, image = imageOf('1')): SpawnInput {
  const instanceId = randomUUID();
  return { instanceId, host, imageId: image.id, name, memoryBytes: 268_435_456, vcpus: 1, domainType: 'auto' };
}

/** An instance that runs at `host`. */
export async function addInstance({ activities }: TestCatalog, name: string, host: HostId): Promise<InstanceId> {
  const input = spawnInput(name, host);
  await activities.reserveInstance(input);
  await activities.recordInstance({ instanceId: input.instanceId, state: 'running', host, generation: 1 });
  return input.instanceId;
}

/** Opens a move of an instance that is at `source`; its ids. */
export async function openMove(
  catalog: TestCatalog,
  instanceId: InstanceId,
  destination: HostId,
  options: { kind?: 'migrate' | 'save'; ownedGeneration?: number } = {},
): Promise<{ moveId: string; packageId: string }> {
  const { kind = 'migrate', ownedGeneration = 1 } = options;
  const ids = { moveId: randomUUID(), packageId: randomUUID() };
  await catalog.holder(instanceId).reserveMove({ ...ids, kind, instanceId, destination, ownedGeneration });
  return ids;
}

type Sealed = Parameters<ControlActivities['recordPackage']>[0];

/** What recordPackage is told of a package at `host`. */
export function sealed(packageId: PackageId, instanceId: InstanceId, host: HostId, generation = 2): Sealed {
  const sealedAt = '2026-11-20T12:00:00.000Z';
  return { packageId, instanceId, generation, host, bytes: 40_000_000, sealedAt };
}

/** Saves an instance of generation 1 at its host; its package. */
export async function saveInstance(catalog: TestCatalog, instanceId: InstanceId, host: HostId): Promise<PackageId> {
  const { moveId, packageId } = await openMove(catalog, instanceId, host, { kind: 'save' });
  await catalog.activities.recordPackage(sealed(packageId, instanceId, host));
  await catalog.activities.closeMove({ moveId, outcome: 'saved', owner: host, generation: 1 });
  return packageId;
}
