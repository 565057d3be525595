import type { Host, HostId, InstanceId, PackageDamage, PackageId } from '../../workflows/contract.ts';
import { VmferryError } from '../../workflows/failures.ts';
import type { Transaction } from './catalog.ts';
import { brokenRule } from './failures.ts';
import { findHost, hostsOfPackage } from './hosts.ts';
import { lockInstance } from './instances.ts';
import { now } from './survey.ts';

interface PackageRow {
  packageId: PackageId;
  instanceId: InstanceId;
  generation: number;
  bytes: number;
  sealedAt: Date;
  needed: boolean;
  damaged: HostId[];
}

const SELECT = `SELECT p.id AS "packageId", p.instance_id AS "instanceId", p.generation, p.bytes, p.sealed_at AS "sealedAt",
    EXISTS (SELECT FROM instances i WHERE i.package_id = p.id) AS needed,
    ARRAY(SELECT l.host_id::text FROM package_locations l
          WHERE l.package_id = p.id AND l.damage_type IS NOT NULL ORDER BY 1) AS damaged
  FROM packages p WHERE p.id = $1`;

/** @throws PackageNotFound */
export async function findPackage(
  tx: Transaction,
  id: PackageId,
): Promise<Omit<PackageRow, 'sealedAt'> & { sealedAt: string; hosts: Host[]; at: string }> {
  const row = await tx.row<PackageRow>(SELECT, [id]);
  if (!row) throw new VmferryError('PackageNotFound', `there is no package ${id}`);
  const hosts = await hostsOfPackage(tx, id);
  return { ...row, sealedAt: row.sealedAt.toISOString(), hosts, at: await now(tx) };
}

/**
 * A package was sealed at `host`, or has arrived there. From the moment that the owner of a moving instance has sealed
 * it, the instance may depend on it, and it cannot be forgotten there.
 *
 * @throws InstanceNotFound, HostNotFound
 * @throws AlreadyExists if a package of that id says something else
 */
export async function recordPackage(
  tx: Transaction,
  input: {
    packageId: PackageId;
    instanceId: InstanceId;
    generation: number;
    host: HostId;
    bytes: number;
    sealedAt: string;
  },
): Promise<void> {
  const { packageId, host } = input;
  await findHost(tx, host);
  // Locked: it must not be forgotten before its new place is known.
  const known = await tx.row<PackageRow>(`${SELECT} FOR KEY SHARE OF p`, [packageId]);
  if (known && (known.instanceId !== input.instanceId || known.generation !== input.generation)) {
    throw new VmferryError('AlreadyExists', `package ${packageId} is known as another one`);
  }
  // A copy of a package whose instance was deleted may still travel; a new one comes from a known instance.
  const instance = known ? null : await lockInstance(tx, input.instanceId);
  if (instance) {
    await tx.run(
      `INSERT INTO packages (id, instance_id, instance_name, generation, bytes, sealed_at) VALUES ($1, $2, $3, $4, $5, $6)
       ON CONFLICT (id) DO NOTHING`,
      [packageId, input.instanceId, instance.name, input.generation, input.bytes, input.sealedAt],
    );
  }
  await tx.run('INSERT INTO package_locations (package_id, host_id) VALUES ($1, $2) ON CONFLICT DO NOTHING', [
    packageId,
    host,
  ]);
  await tx.run(
    `UPDATE instances i SET package_id = $1 FROM moves m
     WHERE m.id = i.open_move AND m.package_id = $1 AND i.host_id = $2 AND i.package_id IS DISTINCT FROM $1`,
    [packageId, host],
  );
}

/**
 * A package is no longer at `host`; without any place left it is forgotten. Repeating it changes nothing.
 *
 * @throws InUse if the instance would be continued from it there
 */
export async function forgetPackage(tx: Transaction, id: PackageId, host: HostId): Promise<void> {
  const user = await tx.row<{ name: string }>('SELECT name FROM instances WHERE package_id = $1 AND host_id = $2', [
    id,
    host,
  ]);
  const inUse = (by: string, cause?: unknown): VmferryError =>
    new VmferryError('InUse', `instance ${by} would be continued from package ${id} on ${host}`, { cause });
  if (user) throw inUse(user.name);
  try {
    await tx.run('DELETE FROM package_locations WHERE package_id = $1 AND host_id = $2', [id, host]);
    await tx.run(
      'DELETE FROM packages p WHERE id = $1 AND NOT EXISTS (SELECT FROM package_locations WHERE package_id = p.id)',
      [id],
    );
  } catch (error) {
    if (brokenRule(error)) throw inUse('that is being moved', error);
    throw error;
  }
}

/**
 * The package of a host whose last verification is the longest ago, and an instant that is not before `before`, however the
 * server’s clock was set. None is answered twice that was recorded in between.
 */
export async function nextToVerify(
  tx: Transaction,
  { host, before }: { host: HostId; before: string },
): Promise<{ packageId: PackageId; at: string } | null> {
  const row = await tx.row<{ packageId: PackageId; at: Date }>(
    `SELECT l.package_id AS "packageId", greatest(clock_timestamp(), $2::timestamptz) AS at FROM package_locations l
     WHERE l.host_id = $1 AND l.arrived_at < $2 AND (l.verified_at IS NULL OR l.verified_at < $2)
       AND NOT EXISTS (SELECT FROM moves m WHERE m.package_id = l.package_id AND m.ended_at IS NULL)
     ORDER BY l.verified_at NULLS FIRST, l.arrived_at, l.package_id LIMIT 1`,
    [host, before],
  );
  return row ? { ...row, at: row.at.toISOString() } : null;
}

/** Says what a verification found that began at `at`. Changes nothing if the copy came later, was verified later, or is gone. */
export async function recordVerification(
  tx: Transaction,
  { packageId, host, at, damage }: { packageId: PackageId; host: HostId; at: string; damage: PackageDamage | null },
): Promise<void> {
  await tx.run(
    `UPDATE package_locations SET verified_at = $3, damage_type = $4, damage_message = $5
     WHERE package_id = $1 AND host_id = $2 AND arrived_at <= $3 AND (verified_at IS NULL OR verified_at < $3)`,
    [packageId, host, at, damage?.type, damage?.message],
  );
}
