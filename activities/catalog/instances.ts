import type {
  Address,
  Host,
  HostId,
  Image,
  ImageId,
  Instance,
  InstanceId,
  InstanceState,
  SpawnInput,
} from '../../workflows/contract.ts';
import { VmferryError } from '../../workflows/failures.ts';
import { assignAddress, lockAddresses, lowestFreeAddress } from './addresses.ts';
import type { Transaction } from './catalog.ts';
import { findHost, hostsOfImage } from './hosts.ts';
import { dropUnmetNeeds, findImage, imageArrived, needImage } from './images.ts';

export interface InstanceRow {
  id: InstanceId;
  name: string;
  host: HostId;
  generation: number;
  state: InstanceState;
  imageId: ImageId;
  ip: string;
  mac: string;
  packageId: string | null;
  openMove: string | null;
}

const SELECT = `SELECT i.id, i.name, i.host_id AS host, i.generation, i.state, i.image_id AS "imageId", host(a.ip) AS ip, a.mac,
  i.package_id AS "packageId", i.open_move AS "openMove"
  FROM instances i JOIN addresses a ON a.instance_id = i.id AND a.ip = i.ip WHERE i.id = $1`;

/** @throws InstanceNotFound */
export async function findInstance(tx: Transaction, id: InstanceId): Promise<InstanceRow> {
  return (await tx.row<InstanceRow>(SELECT, [id])) ?? notFound(id);
}

/**
 * Nobody else changes the instance, or a move of it, until this transaction ends. Whatever is decided by their state is
 * read after this. Without effect if there is no such instance.
 */
export async function holdInstance(tx: Transaction, id: InstanceId): Promise<void> {
  await tx.run('SELECT FROM instances WHERE id = $1 FOR UPDATE', [id]);
}

/** @throws InstanceNotFound */
export async function lockInstance(tx: Transaction, id: InstanceId): Promise<InstanceRow> {
  // Two statements: one would join the locked row with what the address was before.
  await holdInstance(tx, id);
  return await findInstance(tx, id);
}

export function toInstance({ id, name, host, generation, state, imageId, ip, mac }: InstanceRow): Instance {
  return { id, name, host, generation, state, imageId, address: { ip, mac } };
}

/**
 * Makes room for a new instance: its name, its place and an address. Repeating it for the same instance gives the same
 * answer.
 *
 * @throws AlreadyExists if another instance has that name, HostNotFound, ImageNotFound, InUse if no address is free
 */
export async function reserveInstance(
  tx: Transaction,
  input: SpawnInput,
): Promise<{ image: Image; host: Host; address: Address; imageHosts: Host[] }> {
  await lockAddresses(tx);
  const host = await findHost(tx, input.host);
  const image = await findImage(tx, input.imageId);
  if (!(await isReserved(tx, input))) {
    const ip = await lowestFreeAddress(tx);
    await needImage(tx, input.imageId, input.host);
    await tx.run(
      `INSERT INTO instances (id, name, image_id, host_id, generation, state, ip, memory_bytes, vcpus, domain_type)
       VALUES ($1, $2, $3, $4, 1, 'spawning', $5, $6, $7, $8)`,
      [input.instanceId, input.name, input.imageId, input.host, ip, input.memoryBytes, input.vcpus, input.domainType],
    );
    await assignAddress(tx, ip, input.instanceId);
  }
  const { ip, mac } = await findInstance(tx, input.instanceId);
  return { image, host, address: { ip, mac }, imageHosts: await hostsOfImage(tx, input.imageId) };
}

/** @throws AlreadyExists if id or name belongs to something else */
async function isReserved(tx: Transaction, input: SpawnInput): Promise<boolean> {
  const known = await tx.row<{ id: InstanceId; name: string; image_id: ImageId }>(
    'SELECT id, name, image_id FROM instances WHERE id = $1 OR name = $2 ORDER BY id = $1 DESC',
    [input.instanceId, input.name],
  );
  if (!known) return false;
  if (known.id !== input.instanceId) {
    throw new VmferryError('AlreadyExists', `an instance named ${input.name} exists already`);
  }
  if (known.name !== input.name || known.image_id !== input.imageId) {
    throw new VmferryError('AlreadyExists', `instance ${input.instanceId} exists already, as ${known.name}`);
  }
  return true;
}

/**
 * What an instance's owner says of it, outside of any move. Old news, of a lower generation than is known, change
 * nothing: the catalog follows the hosts, but only forward.
 *
 * @throws InstanceNotFound
 * @throws InstanceBusy while a move has hold of the instance
 * @throws StaleGeneration if another host owns that generation
 * @throws PackageNotFound if it is said to be saved and its host has no package of it
 */
export async function recordInstance(
  tx: Transaction,
  input: { instanceId: InstanceId; state: InstanceState; host: HostId; generation: number },
): Promise<void> {
  const { instanceId, state, host, generation } = input;
  const known = await lockInstance(tx, instanceId);
  if (generation < known.generation) return;
  if (known.openMove !== null) throw busy(known);
  if (state !== 'running' && state !== 'saved') {
    throw new VmferryError('InvalidInput', `instance ${known.name} cannot be recorded as ${state}`);
  }
  if (host !== known.host && generation === known.generation) throw ownedElsewhere(known, host);
  // Where the instance is its base image is.
  await imageArrived(tx, known.imageId, host);
  const packageId = state === 'saved' ? await newestPackage(tx, known, host) : null;
  await tx.run('UPDATE instances SET state = $2, host_id = $3, generation = $4, package_id = $5 WHERE id = $1', [
    instanceId,
    state,
    host,
    generation,
    packageId,
  ]);
  await dropUnmetNeeds(tx, known.imageId);
}

/**
 * Frees the address and forgets the instance. Its packages stay known. The generations that it had are forgotten too:
 * the ledgers of the hosts remember them. Repeating it changes nothing.
 */
export async function forgetInstance(tx: Transaction, instanceId: InstanceId): Promise<void> {
  await lockAddresses(tx);
  const known = await tx.row<{ image_id: ImageId }>('DELETE FROM instances WHERE id = $1 RETURNING image_id', [
    instanceId,
  ]);
  if (known) await dropUnmetNeeds(tx, known.image_id);
}

/**
 * The package from which a stopped instance would be continued at `host`.
 *
 * @throws PackageNotFound
 */
export async function newestPackage(tx: Transaction, instance: InstanceRow, host: HostId): Promise<string> {
  const newest = await tx.row<{ id: string }>(
    `SELECT p.id FROM packages p JOIN package_locations l ON l.package_id = p.id
     WHERE p.instance_id = $1 AND l.host_id = $2 ORDER BY p.generation DESC, p.sealed_at DESC LIMIT 1`,
    [instance.id, host],
  );
  if (!newest) throw new VmferryError('PackageNotFound', `no package of instance ${instance.name} is known on ${host}`);
  return newest.id;
}

export function busy(instance: InstanceRow): VmferryError {
  return new VmferryError('InstanceBusy', `instance ${instance.name} is being moved by move ${instance.openMove}`);
}

export function ownedElsewhere(instance: InstanceRow, host: HostId): VmferryError {
  const { name, generation, host: owner } = instance;
  return new VmferryError(
    'StaleGeneration',
    `generation ${generation} of instance ${name} belongs to ${owner}, not to ${host}`,
  );
}

function notFound(id: InstanceId): never {
  throw new VmferryError('InstanceNotFound', `there is no instance ${id}`);
}
