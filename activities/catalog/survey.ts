/** What the catalog says of the pool as a whole, for whoever compares it with the hosts. */
import type {
  HostId,
  ImageId,
  InstanceId,
  InstanceState,
  MoveId,
  MoveKind,
  PackageDamage,
  PackageId,
} from '../../workflows/contract.ts';
import type { Transaction } from './catalog.ts';

export interface Survey {
  hosts: HostId[];
  instances: SurveyedInstance[];
  /** Of these instances, and those that were asked for; the newest first. */
  moves: SurveyedMove[];
  packages: SurveyedPackage[];
  /** Images and where they are. */
  images: { id: ImageId; name: string; hosts: HostId[] }[];
}

export interface SurveyedInstance {
  id: InstanceId;
  name: string;
  host: HostId;
  generation: number;
  state: InstanceState;
  imageId: ImageId;
  packageId: PackageId | null;
  openMove: MoveId | null;
  /** It changed after the inspection began. */
  changed: boolean;
}

export interface SurveyedMove {
  id: MoveId;
  kind: MoveKind;
  instanceId: InstanceId;
  instanceName: string;
  source: HostId;
  destination: HostId;
  packageId: PackageId;
  generation: number;
  outcome: 'moved' | 'returned' | 'saved' | 'failed' | null;
}

export interface SurveyedPackage {
  id: PackageId;
  instanceId: InstanceId;
  instanceName: string;
  generation: number;
  needed: boolean;
  places: {
    host: HostId;
    changed: boolean;
    /** When it was last read there, by ISO 8601; null: never. */
    verifiedAt: string | null;
    /** What was wrong with it then. */
    damage: PackageDamage | null;
  }[];
}

/** The catalog’s clock. */
export async function now(tx: Transaction): Promise<string> {
  const row = await tx.row<{ now: Date }>('SELECT clock_timestamp() AS now');
  return (row?.now ?? new Date()).toISOString();
}

/** @param at instant by the catalog’s clock; what changed after it is marked */
export async function survey(tx: Transaction, at: string, asked: Asked): Promise<Survey> {
  const hosts = await tx.rows<{ id: HostId }>('SELECT id FROM hosts ORDER BY id');
  const instances = await tx.rows<SurveyedInstance>(
    `SELECT id, name, host_id AS host, generation, state, image_id AS "imageId", package_id AS "packageId",
       open_move AS "openMove", greatest(created_at, updated_at) >= $1 AS changed
     FROM instances ORDER BY name`,
    [at],
  );
  const moves = await tx.rows<SurveyedMove>(
    `SELECT id, kind, instance_id AS "instanceId", instance_name AS "instanceName", source_id AS source,
       destination_id AS destination, package_id AS "packageId", generation, outcome
     FROM moves WHERE ended_at IS NULL OR id = ANY($1) OR package_id = ANY($2) OR instance_id = ANY($3)
     ORDER BY started_at DESC, id`,
    [asked.moves, asked.packages, asked.instances],
  );
  const packages = await tx.rows<SurveyedPackage>(
    `SELECT p.id, p.instance_id AS "instanceId", p.instance_name AS "instanceName", p.generation,
       EXISTS (SELECT FROM instances i WHERE i.package_id = p.id) AS needed,
       json_agg(json_build_object('host', l.host_id, 'changed', l.arrived_at >= $1, 'verifiedAt', l.verified_at,
         'damage', CASE WHEN l.damage_type IS NOT NULL
           THEN json_build_object('type', l.damage_type, 'message', l.damage_message) END) ORDER BY l.host_id) AS places
     FROM packages p JOIN package_locations l ON l.package_id = p.id GROUP BY p.id`,
    [at],
  );
  const images = await tx.rows<Survey['images'][number]>(
    `SELECT i.id, i.name,
       ARRAY(SELECT l.host_id::text FROM image_locations l
             WHERE l.image_id = i.id AND l.arrived_at < $1 ORDER BY 1) AS hosts
     FROM images i ORDER BY i.name`,
    [at],
  );
  return { hosts: hosts.map(({ id }) => id), instances, moves, packages, images };
}

/** Ended moves are too many to read them all. */
export interface Asked {
  moves: MoveId[];
  packages: PackageId[];
  instances: InstanceId[];
}
