import type { Host, HostId, InstanceId, PackageId } from '../../workflows/contract.ts';
import { VmferryError } from '../../workflows/failures.ts';
import type { Transaction } from './catalog.ts';
import { brokenRule } from './failures.ts';
import { findHost, hostsOfPackage } from './hosts.ts';
import { lockInstance } from './instances.ts';

interface PackageRow {
  packageId: PackageId;
  instanceId: InstanceId;
  generation: number;
  bytes: number;
  sealedAt: Date;
  needed: boolean;
}

const SELECT = `SELECT p.id AS "packageId", p.instance_id AS "instanceId", p.generation, p.bytes, p.sealed_at AS "sealedAt",
    EXISTS (SELECT FROM instances i WHERE i.package_id = p.id) AS needed
  FROM packages p WHERE p.id = $1`;

/** @throws PackageNotFound */
export async function findPackage(
  tx: Transaction,
  id: PackageId,
): Promise<Omit<PackageRow, 'sealedAt'> & { sealedAt: string; hosts: Host[] }> {
  const row = await tx.row<PackageRow>(SELECT, [id]);
  if (!row) throw new VmferryError('PackageNotFound', `there is no package ${id}`);
  return { ...row, sealedAt: row.sealedAt.toISOString(), hosts: await hostsOfPackage(tx, id) };
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
