import type { Host, HostId, HostRecord, SignedText } from '../../workflows/contract.ts';
import { VmferryError } from '../../workflows/failures.ts';
import type { Transaction } from './catalog.ts';

const COLUMNS = 'h.id, h.fingerprint, h.record, h.location, h.architecture';

/** @throws HostNotFound */
export async function findHost(tx: Transaction, id: HostId): Promise<Host> {
  const host = await tx.row<Host>(`SELECT ${COLUMNS} FROM hosts h WHERE h.id = $1`, [id]);
  if (!host) throw new VmferryError('HostNotFound', `host ${id} is not in the pool`);
  return host;
}

/** By name. */
export async function allHosts(tx: Transaction): Promise<Host[]> {
  return await tx.rows<Host>(`SELECT ${COLUMNS} FROM hosts h ORDER BY h.id`);
}

/** Hosts that hold an image, by name. */
export async function hostsOfImage(tx: Transaction, imageId: string): Promise<Host[]> {
  return await tx.rows<Host>(
    `SELECT ${COLUMNS} FROM hosts h JOIN image_locations l ON l.host_id = h.id
     WHERE l.image_id = $1 AND l.arrived_at IS NOT NULL ORDER BY h.id`,
    [imageId],
  );
}

/** Hosts that hold a package, by name. */
export async function hostsOfPackage(tx: Transaction, packageId: string): Promise<Host[]> {
  return await tx.rows<Host>(
    `SELECT ${COLUMNS} FROM hosts h JOIN package_locations l ON l.host_id = h.id WHERE l.package_id = $1 ORDER BY h.id`,
    [packageId],
  );
}

/**
 * Keeps a host's certified record, or replaces the one before. `record` is what `signed` says; nothing is verified
 * here: the client had it certified, and every host checks the pool's signature before it believes a record.
 *
 * @throws AlreadyExists if the key is another host's
 * @throws InUse if the host has a new key while instances are owned by the old one
 */
export async function recordHost(tx: Transaction, record: HostRecord, signed: SignedText): Promise<Host> {
  const { name, fingerprint, location, architecture } = record;
  const holder = await tx.row<{ id: HostId }>('SELECT id FROM hosts WHERE fingerprint = $1 AND id <> $2', [
    fingerprint,
    name,
  ]);
  if (holder) {
    throw new VmferryError('AlreadyExists', `the key of host ${name} is the key of host ${holder.id} already`);
  }
  const known = await tx.row<Host>(`SELECT ${COLUMNS} FROM hosts h WHERE h.id = $1 FOR UPDATE`, [name]);
  if (known && known.fingerprint !== fingerprint) await refuseIfOwner(tx, name);
  await tx.run(
    `INSERT INTO hosts (id, fingerprint, record, location, architecture) VALUES ($1, $2, $3, $4, $5)
     ON CONFLICT (id) DO UPDATE SET fingerprint = $2, record = $3, location = $4, architecture = $5, updated_at = now()`,
    [name, fingerprint, signed, location, architecture],
  );
  return { id: name, fingerprint, record: signed, location, architecture };
}

/** Ownership is bound to a key. With another key under the same name nobody could prove any more whose they are. */
async function refuseIfOwner(tx: Transaction, host: HostId): Promise<void> {
  const owned = await tx.rows<{ name: string }>(
    `SELECT name FROM instances WHERE host_id = $1
     UNION SELECT instance_name FROM moves WHERE open_destination = $1 ORDER BY name`,
    [host],
  );
  if (owned.length === 0) return;
  const names = owned.map(({ name }) => name).join(', ');
  throw new VmferryError('InUse', `host ${host} cannot change its key: it holds ${names} under the present one`);
}
