/**
 * Moves in the catalog: opened by reserveMove, told by recordMove, ended by closeMove.
 *
 * migrate, save, restore and delete of an instance share one workflow id, and Temporal runs at most one workflow of an
 * id. So when the instance's own workflow asks (`holder`), a move that the catalog still shows as open belongs to a
 * workflow that was terminated or lost: nobody will ever close it. It must not keep the instance busy for ever; the new
 * workflow goes on, and the hosts say what state the instance is really in. Anybody else has to wait: InstanceBusy.
 */
import type {
  Address,
  Host,
  HostId,
  InstanceId,
  MoveId,
  MoveKind,
  MovePhase,
  MovePlan,
  PackageId,
} from '../../workflows/contract.ts';
import { VmferryError } from '../../workflows/failures.ts';
import type { FailureType } from '../../workflows/failures.ts';
import type { Transaction } from './catalog.ts';
import { brokenRule } from './failures.ts';
import { findHost, hostsOfImage } from './hosts.ts';
import { dropUnmetNeeds, findImage, imageArrived, needImage } from './images.ts';
import {
  busy,
  findInstance,
  holdInstance,
  lockInstance,
  newestPackage,
  ownedElsewhere,
  toInstance,
} from './instances.ts';
import type { InstanceRow } from './instances.ts';

interface MoveRow {
  id: MoveId;
  kind: MoveKind;
  instanceId: InstanceId;
  imageId: string;
  source: HostId;
  destination: HostId;
  packageId: PackageId;
  generation: number;
  stateBefore: 'running' | 'saved';
  ended: boolean;
}

const SELECT = `SELECT id, kind, instance_id AS "instanceId", image_id AS "imageId", source_id AS source,
    destination_id AS destination, package_id AS "packageId", generation, state_before AS "stateBefore",
    ended_at IS NOT NULL AS ended
  FROM moves WHERE id = $1`;

/** Failure of a move whose workflow ended without closing it. */
const ABANDONED = { type: 'Internal', message: 'the workflow of this move ended before the move did' } as const;

export interface PlanInput {
  kind: MoveKind;
  instanceId: InstanceId;
  destination: HostId | null;
}

/**
 * @throws InstanceNotFound, HostNotFound, SameHost, PackageNotFound
 * @throws InstanceNotRunning, InstanceRunning if the instance is not in the state that this kind of move begins with
 * @throws InstanceBusy if the instance is being moved and the caller is not its holder
 */
export async function planMove(tx: Transaction, input: PlanInput, holder: boolean): Promise<MovePlan> {
  const instance = await findInstance(tx, input.instanceId);
  if (instance.openMove !== null && !holder) throw busy(instance);
  const source = await findHost(tx, instance.host);
  const destination = input.destination === null ? source : await findHost(tx, input.destination);
  refuseWrongState(instance, input.kind);
  refuseWrongHost(instance, input.kind, destination.id);
  return {
    instance: toInstance(instance),
    image: await findImage(tx, instance.imageId),
    source,
    destination,
    imageHosts: await hostsOfImage(tx, instance.imageId),
    packageId: input.kind === 'restore' ? (instance.packageId ?? (await newestPackage(tx, instance, source.id))) : null,
  };
}

export interface ReserveInput {
  moveId: MoveId;
  kind: MoveKind;
  instanceId: InstanceId;
  packageId: PackageId;
  destination: HostId;
  ownedGeneration: number;
}

/**
 * Opens a move. Repeating it gives the same answer.
 *
 * @throws what planMove throws, since the world may have changed in between
 * @throws StaleGeneration if a later generation than the owner speaks of was seen: it must be mistaken about owning
 */
export async function reserveMove(
  tx: Transaction,
  input: ReserveInput,
  holder: boolean,
): Promise<{ generation: number; address: Address }> {
  const { moveId, kind, packageId, destination, ownedGeneration } = input;
  const instance = await lockInstance(tx, input.instanceId);
  const address: Address = { ip: instance.ip, mac: instance.mac };
  const known = await tx.row<MoveRow>(SELECT, [moveId]);
  if (known) {
    if (known.instanceId !== instance.id) {
      throw new VmferryError('InvalidInput', `move ${moveId} moves instance ${known.instanceId}, not ${instance.name}`);
    }
    return { generation: known.generation, address };
  }

  if (instance.openMove !== null && !holder) throw busy(instance);
  await findHost(tx, destination);
  refuseWrongState(instance, kind);
  refuseWrongHost(instance, kind, destination);
  if (ownedGeneration < instance.generation) {
    throw new VmferryError(
      'StaleGeneration',
      `${instance.host} says that it owns generation ${ownedGeneration} of instance ${instance.name}, but generation ${instance.generation} was seen`,
    );
  }
  if (instance.openMove !== null) await abandonMove(tx, instance.openMove);
  await needImage(tx, instance.imageId, destination);
  await tx.run(
    `INSERT INTO moves (id, kind, instance_id, instance_name, image_id, source_id, destination_id, package_id, generation,
       state_before, phase)
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, 'preparing')`,
    [
      moveId,
      kind,
      instance.id,
      instance.name,
      instance.imageId,
      instance.host,
      destination,
      packageId,
      ownedGeneration + 1,
      kind === 'restore' ? 'saved' : 'running',
    ],
  );
  try {
    await tx.run(
      `UPDATE instances SET state = 'moving', open_move = $2, generation = $3, package_id = $4 WHERE id = $1`,
      [instance.id, moveId, ownedGeneration, kind === 'restore' ? packageId : null],
    );
  } catch (error) {
    if (!brokenRule(error)?.startsWith('instances_package_')) throw error;
    throw packageMissing(packageId, instance, instance.host, error);
  }
  return { generation: ownedGeneration + 1, address };
}

/** @throws MoveNotFound also if the move has ended, HostNotFound, SameHost */
export async function redirectMove(
  tx: Transaction,
  input: { moveId: MoveId; destination: HostId },
): Promise<{ destination: Host }> {
  const open = await lockOpenMove(tx, input.moveId);
  if (open === 'unknown') throw moveMissing(input.moveId);
  if (open === 'ended') throw new VmferryError('MoveNotFound', `move ${input.moveId} has ended`);
  const { move, instance } = open;
  const destination = await findHost(tx, input.destination);
  refuseWrongHost(instance, move.kind, destination.id);
  await needImage(tx, move.imageId, destination.id);
  await tx.run('UPDATE moves SET destination_id = $2 WHERE id = $1', [move.id, destination.id]);
  await dropUnmetNeeds(tx, move.imageId);
  return { destination };
}

/**
 * Says where an open move is. What comes after the end of a move is late, and changes nothing.
 *
 * @throws MoveNotFound
 */
export async function recordMove(
  tx: Transaction,
  input: { moveId: MoveId; phase: MovePhase; step: string | null; failure?: { type: FailureType; message: string } },
): Promise<void> {
  const { moveId, phase, step, failure } = input;
  const told = await tx.run(
    `UPDATE moves SET phase = $2, step = coalesce($3, step), failure_type = $4, failure_message = $5
     WHERE id = $1 AND ended_at IS NULL`,
    [moveId, phase, step, failure?.type, failure?.message],
  );
  if (told === 0 && !(await tx.row(SELECT, [moveId]))) throw moveMissing(moveId);
}

export interface CloseInput {
  moveId: MoveId;
  outcome: 'moved' | 'returned' | 'saved' | 'failed';
  owner: HostId;
  generation: number;
  result?: { stepSeconds: Record<string, number>; blackoutSeconds: number; packageBytes: number; wireBytes: number };
  failure?: { type: FailureType; message: string };
}

/**
 * Ends a move and lets go of the instance, at `owner`. What the hosts decided stands already; this only writes it down.
 * Repeating it changes nothing, and calling off a move that was never opened does neither.
 *
 * @throws MoveNotFound
 * @throws StaleGeneration if another host owns that generation
 * @throws PackageNotFound if the instance is to be saved and its package is not known at its owner
 */
export async function closeMove(tx: Transaction, input: CloseInput): Promise<void> {
  const { moveId, outcome, owner, result, failure } = input;
  const open = await lockOpenMove(tx, moveId);
  if (open === 'ended') return;
  if (open === 'unknown') {
    if (outcome === 'failed' || outcome === 'saved') return;
    throw moveMissing(moveId);
  }
  const { move, instance } = open;
  if (owner !== instance.host && input.generation <= instance.generation) throw ownedElsewhere(instance, owner);
  const state = outcome === 'failed' ? move.stateBefore : outcome === 'saved' ? 'saved' : 'running';
  // Where the instance is its base image is.
  await imageArrived(tx, move.imageId, owner);
  await tx.run(
    // The server's clock may have been set back since the move began.
    `UPDATE moves SET phase = NULL, outcome = $2, owner_id = $3, result = $4, failure_type = $5, failure_message = $6,
       ended_at = greatest(now(), started_at) WHERE id = $1`,
    [moveId, outcome, owner, result && JSON.stringify(result), failure?.type, failure?.message],
  );
  try {
    await tx.run(
      `UPDATE instances SET state = $2, open_move = NULL, host_id = $3, generation = greatest(generation, $4), package_id = $5
       WHERE id = $1`,
      [instance.id, state, owner, input.generation, state === 'saved' ? move.packageId : null],
    );
  } catch (error) {
    if (!brokenRule(error)?.startsWith('instances_package_')) throw error;
    throw packageMissing(move.packageId, instance, owner, error);
  }
  await dropUnmetNeeds(tx, move.imageId);
}

/**
 * Before an instance is forgotten: ends the move that its holder finds open.
 *
 * @throws InstanceBusy if the caller is not the holder
 */
export async function endOpenMove(tx: Transaction, instanceId: InstanceId, holder: boolean): Promise<void> {
  const open = await tx.row<{ id: MoveId }>('SELECT id FROM moves WHERE open_instance = $1', [instanceId]);
  if (!open) return;
  const instance = await lockInstance(tx, instanceId);
  if (!holder) throw busy(instance);
  await abandonMove(tx, open.id);
}

/**
 * Outside of any move: the catalog says what the owner’s records say. A move that it shows as open was left behind by a
 * workflow that was terminated; it ends as the records tell that it ended. Old news, of a lower generation than is known,
 * change nothing.
 *
 * @param savedAs the package from which the instance would be continued at `host`; null while it runs, or should
 * @throws InstanceNotFound, StaleGeneration if another host is known to own that generation
 * @throws InstanceBusy if a move is open and the caller is not its holder
 * @throws PackageNotFound if that package is not known at `host`
 */
export async function followOwner(
  tx: Transaction,
  input: { instanceId: InstanceId; host: HostId; generation: number; savedAs: PackageId | null },
  holder: boolean,
): Promise<void> {
  const { instanceId, host, generation, savedAs } = input;
  const instance = await lockInstance(tx, instanceId);
  if (generation < instance.generation) return;
  if (host !== instance.host && generation === instance.generation) throw ownedElsewhere(instance, host);
  if (instance.openMove !== null) {
    if (!holder) throw busy(instance);
    await endAsRecorded(tx, instance.openMove, input);
  }
  // Where the instance is its base image is.
  await imageArrived(tx, instance.imageId, host);
  try {
    await tx.run(
      `UPDATE instances SET state = $2, open_move = NULL, host_id = $3, generation = $4, package_id = $5 WHERE id = $1`,
      [instanceId, savedAs === null ? 'running' : 'saved', host, generation, savedAs],
    );
  } catch (error) {
    if (!brokenRule(error)?.startsWith('instances_package_')) throw error;
    throw packageMissing(savedAs ?? '', instance, host, error);
  }
  await dropUnmetNeeds(tx, instance.imageId);
}

/** The outcome that follows from who owns the instance now. */
async function endAsRecorded(
  tx: Transaction,
  id: MoveId,
  { host, generation, savedAs }: { host: HostId; generation: number; savedAs: PackageId | null },
): Promise<void> {
  const move = await tx.row<MoveRow>(SELECT, [id]);
  if (!move || move.ended) return;
  const { kind, source, destination } = move;
  const decided = generation === move.generation;
  let outcome: CloseInput['outcome'] = 'failed';
  if (decided && host === source) outcome = 'returned';
  if (decided && host === destination && source !== destination) outcome = 'moved';
  if (kind === 'save' && savedAs === move.packageId) outcome = 'saved';
  await tx.run(
    `UPDATE moves SET phase = NULL, outcome = $2, owner_id = $3, failure_type = $4, failure_message = $5,
       ended_at = greatest(now(), started_at) WHERE id = $1`,
    [id, outcome, outcome === 'moved' ? destination : source, ABANDONED.type, ABANDONED.message],
  );
}

async function abandonMove(tx: Transaction, id: MoveId): Promise<void> {
  await tx.run(
    `UPDATE moves SET phase = NULL, outcome = 'failed', owner_id = source_id, failure_type = $2, failure_message = $3,
       ended_at = greatest(now(), started_at) WHERE id = $1 AND ended_at IS NULL`,
    [id, ABANDONED.type, ABANDONED.message],
  );
}

/** The instance is locked first, as everywhere; an open move names the same one until it ends. */
async function lockOpenMove(
  tx: Transaction,
  id: MoveId,
): Promise<{ move: MoveRow; instance: InstanceRow } | 'unknown' | 'ended'> {
  const found = await tx.row<MoveRow>(SELECT, [id]);
  if (!found) return 'unknown';
  await holdInstance(tx, found.instanceId);
  const move = await tx.row<MoveRow>(`${SELECT} AND ended_at IS NULL`, [id]);
  return move ? { move, instance: await findInstance(tx, move.instanceId) } : 'ended';
}

/** `moving`: left behind by a lost workflow. What the instance does now its host will say. */
function refuseWrongState({ name, state, host }: InstanceRow, kind: MoveKind): void {
  if (state === 'moving') return;
  if (state === 'spawning') {
    throw new VmferryError('InstanceNotRunning', `instance ${name} is still being started on ${host}`);
  }
  if (kind === 'restore' && state === 'running') {
    throw new VmferryError('InstanceRunning', `instance ${name} runs on ${host} already`);
  }
  if (kind !== 'restore' && state === 'saved') {
    const other = kind === 'migrate' ? `; \`vmferry instances restore ${name} HOST\` continues it on another host` : '';
    throw new VmferryError('InstanceNotRunning', `instance ${name} is saved on ${host}${other}`);
  }
}

function refuseWrongHost({ name, host }: InstanceRow, kind: MoveKind, destination: HostId): void {
  if (kind === 'migrate' && destination === host) {
    throw new VmferryError('SameHost', `instance ${name} is on ${host} already`);
  }
  if (kind === 'save' && destination !== host) {
    throw new VmferryError('InvalidInput', `instance ${name} is saved where it is, on ${host}, not on ${destination}`);
  }
}

function packageMissing(id: PackageId, { name }: InstanceRow, host: HostId, cause: unknown): VmferryError {
  return new VmferryError('PackageNotFound', `no package ${id} of instance ${name} is known on ${host}`, { cause });
}

function moveMissing(id: MoveId): VmferryError {
  return new VmferryError('MoveNotFound', `there is no move ${id}`);
}
