import type { BootFiles, Host, HostId, Image, ImageId, InstanceId } from '../../workflows/contract.ts';
import { VmferryError } from '../../workflows/failures.ts';
import type { Transaction } from './catalog.ts';
import { brokenRule } from './failures.ts';
import { findHost, hostsOfImage } from './hosts.ts';

interface ImageRow {
  id: ImageId;
  name: string;
  format: Image['format'];
  bytes: number;
  virtual_bytes: number;
  kernel_sha256: string | null;
  kernel_bytes: number | null;
  initrd_sha256: string | null;
  initrd_bytes: number | null;
  cmdline: string | null;
}

/** @throws ImageNotFound */
export async function findImage(tx: Transaction, id: ImageId): Promise<Image> {
  const row = await tx.row<ImageRow>('SELECT * FROM images WHERE id = $1', [id]);
  if (!row) throw imageMissing(id);
  return toImage(row);
}

function imageMissing(id: ImageId, cause?: unknown): VmferryError {
  return new VmferryError('ImageNotFound', `there is no image ${id}`, { cause });
}

/** @throws ImageNotFound */
export async function describeImage(
  tx: Transaction,
  id: ImageId,
): Promise<{ image: Image; hosts: Host[]; usedBy: InstanceId[] }> {
  const image = await findImage(tx, id);
  const users = await tx.rows<{ id: InstanceId }>('SELECT id FROM instances WHERE image_id = $1 ORDER BY name', [id]);
  return { image, hosts: await hostsOfImage(tx, id), usedBy: users.map((user) => user.id) };
}

/**
 * An image is at `host` now. The first name that it was given stays.
 *
 * @throws AlreadyExists if the same disk is known with other boot files, HostNotFound
 */
export async function recordImage(tx: Transaction, image: Image, host: HostId): Promise<void> {
  await findHost(tx, host);
  const { kernel, initrd, cmdline } = image.boot;
  await tx.run(
    `INSERT INTO images (id, name, format, bytes, virtual_bytes,
       kernel_sha256, kernel_bytes, initrd_sha256, initrd_bytes, cmdline)
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
     ON CONFLICT (id) DO UPDATE SET name = images.name -- locks it: it must not be forgotten now`,
    [
      image.id,
      image.name,
      image.format,
      image.bytes,
      image.virtualBytes,
      kernel?.sha256,
      kernel?.bytes,
      initrd?.sha256,
      initrd?.bytes,
      cmdline,
    ],
  );
  const known = await findImage(tx, image.id);
  if (facts(known) !== facts(image)) {
    throw new VmferryError(
      'AlreadyExists',
      `image ${image.id} is known as ${known.name}, with another kernel, ramdisk or command line`,
    );
  }
  await imageArrived(tx, image.id, host);
}

/**
 * An image is no longer at `host`; without any place left it is forgotten. Repeating it changes nothing.
 *
 * @throws InUse if an instance at that host, or on its way there, stands on it
 */
export async function forgetImage(tx: Transaction, id: ImageId, host: HostId): Promise<void> {
  const users = await tx.rows<{ name: string }>(
    `SELECT name FROM instances WHERE image_id = $1 AND host_id = $2
     UNION SELECT instance_name FROM moves WHERE image_id = $1 AND open_destination = $2 ORDER BY name`,
    [id, host],
  );
  const inUse = (by: string, cause?: unknown): VmferryError =>
    new VmferryError('InUse', `image ${id} is needed on ${host} by ${by}`, { cause });
  if (users.length > 0) throw inUse(users.map(({ name }) => name).join(', '));
  try {
    await tx.run('DELETE FROM image_locations WHERE image_id = $1 AND host_id = $2', [id, host]);
    await forgetIfNowhere(tx, id);
  } catch (error) {
    if (brokenRule(error)) throw inUse('an instance that has just come', error);
    throw error;
  }
}

/**
 * An image has to be at `host`, whether it is there already or not: from now on it cannot be forgotten there. A place
 * that is known is locked, so that it does not go before this transaction has said why it is needed.
 *
 * @throws ImageNotFound if it was forgotten a moment ago
 */
export async function needImage(tx: Transaction, id: ImageId, host: HostId): Promise<void> {
  try {
    await tx.run(
      `INSERT INTO image_locations AS l (image_id, host_id) VALUES ($1, $2)
       ON CONFLICT (image_id, host_id) DO UPDATE SET arrived_at = l.arrived_at`,
      [id, host],
    );
  } catch (error) {
    if (brokenRule(error) === 'image_locations_image_id_fkey') throw imageMissing(id, error);
    throw error;
  }
}

export async function imageArrived(tx: Transaction, id: ImageId, host: HostId): Promise<void> {
  await tx.run(
    `INSERT INTO image_locations AS l (image_id, host_id, arrived_at) VALUES ($1, $2, now())
     ON CONFLICT (image_id, host_id) DO UPDATE SET arrived_at = now() WHERE l.arrived_at IS NULL`,
    [id, host],
  );
}

/** Takes back the places where an image had to be and never came, once nothing needs it there. */
export async function dropUnmetNeeds(tx: Transaction, id: ImageId): Promise<void> {
  await tx.run(
    `DELETE FROM image_locations l WHERE image_id = $1 AND arrived_at IS NULL
       AND NOT EXISTS (SELECT FROM instances i WHERE i.image_id = l.image_id AND i.host_id = l.host_id)
       AND NOT EXISTS (SELECT FROM moves m WHERE m.image_id = l.image_id AND m.open_destination = l.host_id)`,
    [id],
  );
}

async function forgetIfNowhere(tx: Transaction, id: ImageId): Promise<void> {
  await tx.run(
    'DELETE FROM images i WHERE id = $1 AND NOT EXISTS (SELECT FROM image_locations WHERE image_id = i.id)',
    [id],
  );
}

/** What must be the same wherever an image is. */
function facts({ format, bytes, virtualBytes, boot: { kernel, initrd, cmdline } }: Image): string {
  return JSON.stringify([format, bytes, virtualBytes, kernel?.sha256, initrd?.sha256, cmdline]);
}

function toImage(row: ImageRow): Image {
  const file = (sha256: string | null, bytes: number | null): { sha256: string; bytes: number } | null =>
    sha256 !== null && bytes !== null ? { sha256, bytes } : null;
  const kernel = file(row.kernel_sha256, row.kernel_bytes);
  const initrd = file(row.initrd_sha256, row.initrd_bytes);
  const boot: BootFiles = {
    ...(kernel && { kernel }),
    ...(initrd && { initrd }),
    ...(row.cmdline !== null && { cmdline: row.cmdline }),
  };
  return { id: row.id, name: row.name, format: row.format, bytes: row.bytes, virtualBytes: row.virtual_bytes, boot };
}
