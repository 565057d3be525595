/**
 * What the catalog knows, read with the read-only role. Listings come from here rather than from Temporal's visibility,
 * which lags behind; ownership is proved by the hosts, never by these rows.
 */
import pg from 'pg';
import type {
  Address,
  BootFiles,
  HostId,
  Image,
  ImageId,
  InstanceId,
  InstanceState,
  MoveId,
  MoveKind,
  MovePhase,
  PackageDamage,
  PackageId,
  SignedText,
} from '../workflows/contract.ts';
import { VmferryError } from '../workflows/failures.ts';
import type { FailureType } from '../workflows/failures.ts';

export interface HostRow {
  id: HostId;
  fingerprint: string;
  record: SignedText;
  location: string;
  architecture: string;
  /** How many it owns. */
  instances: number;
  images: number;
  packages: number;
  addedAt: Date;
}

export interface ImageRow extends Image {
  /** Hosts that hold it. */
  hosts: HostId[];
  /** Instances that stand on it. */
  instances: InstanceId[];
  addedAt: Date;
}

export interface InstanceRow {
  id: InstanceId;
  name: string;
  /** The owner. */
  host: HostId;
  generation: number;
  state: InstanceState;
  imageId: ImageId;
  imageName: string;
  address: Address;
  memoryBytes: number;
  vcpus: number;
  domainType: 'auto' | 'qemu' | 'kvm';
  /** From which it would be continued; null while it runs. */
  packageId: PackageId | null;
  /** The move that is under way. */
  moveId: MoveId | null;
  createdAt: Date;
  updatedAt: Date;
}

export interface PackageRow {
  id: PackageId;
  instanceId: InstanceId;
  /** The name that the instance had; it may have been deleted since. */
  instanceName: string;
  generation: number;
  bytes: number;
  sealedAt: Date;
  hosts: HostId[];
  /** One on each of those hosts. */
  copies: PackageCopy[];
  /** A stopped instance would be continued from it. */
  needed: boolean;
}

export interface PackageCopy {
  host: HostId;
  /** When it was last read and compared with its record; null: never since it came there. */
  verifiedAt: Date | null;
  /** What was wrong with it then. */
  damage: PackageDamage | null;
}

export interface MoveRow {
  id: MoveId;
  kind: MoveKind;
  instanceId: InstanceId;
  instanceName: string;
  source: HostId;
  destination: HostId;
  packageId: PackageId;
  generation: number;
  /** null once ended. */
  phase: MovePhase | null;
  /** The last step that was told. */
  step: string | null;
  /** null while under way. */
  outcome: 'moved' | 'returned' | 'saved' | 'failed' | null;
  /** The host that owns the instance at the end. */
  owner: HostId | null;
  failure: { type: FailureType; message: string } | null;
  result: {
    stepSeconds: Record<string, number>;
    blackoutSeconds: number;
    packageBytes: number;
    wireBytes: number;
  } | null;
  startedAt: Date;
  updatedAt: Date;
  endedAt: Date | null;
}

/**
 * A reader of the catalog. Every call may throw VmferryError: CatalogUnreachable, or from the `find…` calls the
 * NotFound type of the object, or InvalidInput when several answer to the reference.
 */
export class CatalogReader {
  readonly #pool: pg.Pool;

  /** Connects with the first query. */
  constructor(url: string) {
    this.#pool = new pg.Pool({
      connectionString: url,
      max: 2,
      connectionTimeoutMillis: 5_000,
      query_timeout: 15_000,
      application_name: 'vmferry',
      types: { getTypeParser: typeParser },
    });
    // An idle connection that breaks is replaced by the next query, which reports what is wrong.
    this.#pool.on('error', () => undefined);
  }

  async close(): Promise<void> {
    await this.#pool.end();
  }

  /** By name. */
  async hosts(): Promise<HostRow[]> {
    return await this.#rows<HostRow>(`${HOSTS} ORDER BY h.id`);
  }

  /** By name. */
  async images(): Promise<ImageRow[]> {
    return (await this.#rows<StoredImage>(`${IMAGES} ORDER BY i.name, i.id`)).map(imageRow);
  }

  /** By name. */
  async instances(): Promise<InstanceRow[]> {
    return await this.#rows<InstanceRow>(`${INSTANCES} ORDER BY i.name`);
  }

  /** Newest first; all, or those of one instance. */
  async packages(instanceId?: InstanceId): Promise<PackageRow[]> {
    const own = instanceId === undefined ? '' : 'WHERE p.instance_id = $1';
    const rows = await this.#rows<StoredPackage>(
      `${PACKAGES} ${own} ORDER BY p.sealed_at DESC, p.id`,
      instanceId === undefined ? [] : [instanceId],
    );
    return rows.map(packageRow);
  }

  /** Newest first; of all instances or one. */
  async moves(options: { instanceId?: InstanceId; openOnly?: boolean; limit?: number } = {}): Promise<MoveRow[]> {
    const { instanceId = null, openOnly = false, limit = 100 } = options;
    return await this.#rows<MoveRow>(
      `${MOVES} WHERE ($1::uuid IS NULL OR m.instance_id = $1) AND (NOT $2 OR m.ended_at IS NULL)
       ORDER BY m.started_at DESC, m.id LIMIT $3`,
      [instanceId, openOnly, limit],
    );
  }

  /** By name, key fingerprint, or the unique beginning of a fingerprint (8 characters or more). */
  async findHost(reference: string): Promise<HostRow> {
    const rows = await this.#rows<HostRow>(
      `${HOSTS} WHERE h.id = $1 OR (length($1) >= 8 AND starts_with(h.fingerprint, upper($1)))`,
      [reference],
    );
    const named = rows.filter((row) => row.id === reference);
    return only(named.length > 0 ? named : rows, 'HostNotFound', 'host', reference, (row) => row.id);
  }

  /** By id, name, or unique beginning of an id. */
  async findImage(reference: string): Promise<ImageRow> {
    const rows = await this.#rows<StoredImage>(`${IMAGES} WHERE ${matches('i.id', 'i.name')}`, [reference]);
    return imageRow(choose(rows, 'ImageNotFound', 'image', reference));
  }

  /** By id, name, or unique beginning of an id. */
  async findInstance(reference: string): Promise<InstanceRow> {
    const rows = await this.#rows<InstanceRow>(`${INSTANCES} WHERE ${matches('i.id', 'i.name')}`, [reference]);
    return choose(rows, 'InstanceNotFound', 'instance', reference);
  }

  /** By id or unique beginning of an id. */
  async findPackage(reference: string): Promise<PackageRow> {
    const rows = await this.#rows<StoredPackage>(`${PACKAGES} WHERE ${matches('p.id')}`, [reference]);
    return packageRow(choose(rows, 'PackageNotFound', 'package', reference));
  }

  /** By id or unique beginning of an id; or the newest move of the instance of that id or name. */
  async findMove(reference: string): Promise<MoveRow> {
    const rows = await this.#rows<MoveRow>(`${MOVES} WHERE ${matches('m.id')}`, [reference]);
    if (rows.length > 0) return choose(rows, 'MoveNotFound', 'move', reference);
    const [newest] = await this.#rows<MoveRow>(
      `${MOVES} WHERE m.instance_id::text = lower($1) OR m.instance_name = $1 ORDER BY m.started_at DESC LIMIT 1`,
      [reference],
    );
    return only(newest ? [newest] : [], 'MoveNotFound', 'move', reference, (row) => row.id);
  }

  async #rows<Row extends object>(text: string, values: unknown[] = []): Promise<Row[]> {
    try {
      return (await this.#pool.query<Row>(text, values)).rows;
    } catch (error) {
      const { message } = error instanceof AggregateError ? (error.errors[0] as Error) : (error as Error);
      throw new VmferryError('CatalogUnreachable', `cannot read the catalog: ${message}`, { cause: error });
    }
  }
}

/** bigint columns count bytes and rows, and stay far below 2^53. */
const typeParser: pg.CustomTypesConfig['getTypeParser'] = (id: number, format?: 'text' | 'binary') =>
  id === Number(pg.types.builtins.INT8) ? Number : (pg.types.getTypeParser(id, format) as (value: string) => unknown);

/** As selected: the parts of `boot` apart. */
interface StoredImage extends Omit<ImageRow, 'boot'> {
  kernel: { sha256: string; bytes: number } | null;
  initrd: { sha256: string; bytes: number } | null;
  cmdline: string | null;
}

/** As selected: JSON has no dates. */
interface StoredPackage extends Omit<PackageRow, 'copies'> {
  copies: { host: HostId; verifiedAt: string | null; damage: PackageDamage | null }[];
}

const HOSTS = `
  SELECT h.id, h.fingerprint, h.record, h.location, h.architecture, h.added_at AS "addedAt",
    (SELECT count(*) FROM instances i WHERE i.host_id = h.id) AS instances,
    (SELECT count(*) FROM image_locations l WHERE l.host_id = h.id AND l.arrived_at IS NOT NULL) AS images,
    (SELECT count(*) FROM package_locations l WHERE l.host_id = h.id) AS packages
  FROM hosts h`;

const IMAGES = `
  SELECT i.id, i.name, i.format, i.bytes, i.virtual_bytes AS "virtualBytes", i.added_at AS "addedAt", i.cmdline,
    CASE WHEN i.kernel_sha256 IS NOT NULL
      THEN json_build_object('sha256', i.kernel_sha256, 'bytes', i.kernel_bytes) END AS kernel,
    CASE WHEN i.initrd_sha256 IS NOT NULL
      THEN json_build_object('sha256', i.initrd_sha256, 'bytes', i.initrd_bytes) END AS initrd,
    ARRAY(SELECT l.host_id::text FROM image_locations l WHERE l.image_id = i.id AND l.arrived_at IS NOT NULL ORDER BY 1) AS hosts,
    ARRAY(SELECT n.id::text FROM instances n WHERE n.image_id = i.id ORDER BY n.name) AS instances
  FROM images i`;

const INSTANCES = `
  SELECT i.id, i.name, i.host_id AS host, i.generation, i.state, i.image_id AS "imageId", g.name AS "imageName",
    json_build_object('ip', host(a.ip), 'mac', a.mac) AS address,
    i.memory_bytes AS "memoryBytes", i.vcpus, i.domain_type AS "domainType",
    i.package_id AS "packageId", i.open_move AS "moveId", i.created_at AS "createdAt", i.updated_at AS "updatedAt"
  FROM instances i JOIN addresses a ON a.ip = i.ip JOIN images g ON g.id = i.image_id`;

const PACKAGES = `
  SELECT p.id, p.instance_id AS "instanceId", p.instance_name AS "instanceName", p.generation, p.bytes, p.sealed_at AS "sealedAt",
    ARRAY(SELECT l.host_id::text FROM package_locations l WHERE l.package_id = p.id ORDER BY 1) AS hosts,
    ARRAY(SELECT json_build_object('host', l.host_id, 'verifiedAt', l.verified_at,
        'damage', CASE WHEN l.damage_type IS NOT NULL
          THEN json_build_object('type', l.damage_type, 'message', l.damage_message) END)
      FROM package_locations l WHERE l.package_id = p.id ORDER BY l.host_id) AS copies,
    i.id IS NOT NULL AS needed
  FROM packages p LEFT JOIN instances i ON i.package_id = p.id`;

const MOVES = `
  SELECT m.id, m.kind, m.instance_id AS "instanceId", m.instance_name AS "instanceName", m.source_id AS source,
    m.destination_id AS destination, m.package_id AS "packageId", m.generation, m.phase, m.step, m.outcome,
    m.owner_id AS owner, m.result,
    CASE WHEN m.failure_type IS NOT NULL
      THEN json_build_object('type', m.failure_type, 'message', m.failure_message) END AS failure,
    m.started_at AS "startedAt", m.updated_at AS "updatedAt", m.ended_at AS "endedAt"
  FROM moves m`;

/** Rows that $1 may mean: by id, beginning of an id, or name. */
function matches(id: string, name?: string): string {
  const byId = `(length($1) > 0 AND starts_with(${id}::text, lower($1)))`;
  return name === undefined ? byId : `(${byId} OR ${name} = $1)`;
}

/** The row that `reference` means. A whole id goes before a name, a name before the beginning of an id. */
function choose<Row extends { id: string; name?: string }>(
  rows: Row[],
  missing: FailureType,
  kind: string,
  reference: string,
): Row {
  const exact = rows.filter((row) => row.id === reference.toLowerCase());
  const named = rows.filter((row) => row.name === reference);
  const best = [exact, named, rows].find((list) => list.length > 0) ?? [];
  return only(best, missing, kind, reference, (row) => (row.name === undefined ? row.id : `${row.id} (${row.name})`));
}

function only<Row>(
  rows: Row[],
  missing: FailureType,
  kind: string,
  reference: string,
  name: (row: Row) => string,
): Row {
  const [first, ...others] = rows;
  if (first === undefined) throw new VmferryError(missing, `no ${kind} is called ${reference}`);
  if (others.length === 0) return first;
  const some = rows.slice(0, 4).map(name).join(', ');
  throw new VmferryError(
    'InvalidInput',
    `${reference} may mean any of ${rows.length} ${kind}s: ${some}${rows.length > 4 ? ', …' : ''}`,
  );
}

function packageRow({ copies, ...row }: StoredPackage): PackageRow {
  const read = copies.map((copy) => ({
    ...copy,
    verifiedAt: copy.verifiedAt === null ? null : new Date(copy.verifiedAt),
  }));
  return { ...row, copies: read };
}

function imageRow({ kernel, initrd, cmdline, ...row }: StoredImage): ImageRow {
  const boot: BootFiles = {
    ...(kernel && { kernel }),
    ...(initrd && { initrd }),
    ...(cmdline !== null && { cmdline }),
  };
  return { ...row, boot };
}
