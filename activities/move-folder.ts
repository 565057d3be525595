/**
 * Whose a folder under `moves/` or `staging/` is: `whose.json`, the first file in it. The lock of an instance protects
 * only what is known to be that instance's, and an orchestrator may mix up its moves: without this, a step of one
 * instance could work on what another was saved in, or clear it away; and an instance that came with a move could be
 * continued from what that move has brought, although it has run since.
 */
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import { packageGeneration, type MoveId, type MoveRef, type PackageId } from '../workflows/contract.ts';
import { VmferryError } from '../workflows/failures.ts';
import { namesIn } from './package/files.ts';
import { condemn, CONDEMNED, condemned } from './records/condemned.ts';
import { createRecord, exists, makeDirectory, readJson, removeDurably } from './records/durable.ts';
import type { Layout } from './records/layout.ts';

const Whose = z.strictObject({
  instanceId: z.string(),
  packageId: z.string(),
  /** That the package makes of the instance. */
  generation: z.int(),
});
type Whose = z.infer<typeof Whose>;

/** A move, as far as it says whose its folders are. */
type Claim = Pick<MoveRef, 'instanceId' | 'packageId' | 'generation' | 'fence'>;

const NAME = 'whose.json';

const whoseOf = (claim: Claim): Whose => ({
  instanceId: claim.instanceId,
  packageId: claim.packageId,
  generation: packageGeneration(claim),
});

const same = (one: Whose, other: Whose): boolean =>
  one.instanceId === other.instanceId && one.packageId === other.packageId && one.generation === other.generation;

const tell = ({ packageId, generation, instanceId }: Whose): string =>
  `package ${packageId} for generation ${generation} of instance ${instanceId}`;

/**
 * Makes the folder of a move for its instance and its package, unless it is there.
 *
 * @param which `move` or `stage`
 * @throws AlreadyExists if it is another's, or the other folder of that move is: what that move may still need is not taken
 */
export async function claimFolder(
  layout: Layout,
  which: 'move' | 'stage',
  move: Claim & Pick<MoveRef, 'moveId'>,
): Promise<void> {
  const { moveId } = move;
  for (const folder of [layout.move(moveId), layout.stage(moveId)]) await requireFolder(folder, move);
  const folder = layout[which](moveId);
  await makeDirectory(folder);
  const about = `${new Date().toISOString()}: for move ${moveId} of instance ${move.instanceId}`;
  await createRecord(join(folder, NAME), about, whoseOf(move));
  await requireFolder(folder, move);
}

/**
 * The folder is for this package of the instance, or for none, and then there is nothing in it.
 *
 * @throws AlreadyExists
 */
export async function requireFolder(folder: string, claim: Claim): Promise<void> {
  const whose = await readJson(join(folder, NAME), Whose);
  if (!whose || same(whose, whoseOf(claim))) return;
  throw new VmferryError('AlreadyExists', `${folder} is for ${tell(whose)}, not for ${tell(whoseOf(claim))}`);
}

/**
 * There is a folder, for this package of the instance.
 *
 * @throws PackageNotFound, AlreadyExists if it is another's
 */
export async function requireOpened(folder: string, claim: Claim): Promise<void> {
  await requireFolder(folder, claim);
  if (await isFolderOf(folder, claim)) return;
  throw new VmferryError('PackageNotFound', `package ${claim.packageId} is not opened in ${folder}`);
}

/** Is there a folder, for this package of the instance? */
export async function isFolderOf(folder: string, claim: Claim): Promise<boolean> {
  const whose = await readJson(join(folder, NAME), Whose);
  return whose !== null && same(whose, whoseOf(claim));
}

/** The move that has opened a package here, or is about to, and has not come to an end; null if there is none. */
export async function stagedBy(layout: Layout, packageId: PackageId): Promise<MoveId | null> {
  for (const moveId of await namesIn(layout.staging)) {
    if (moveId.startsWith(CONDEMNED)) continue;
    const whose = await readJson(join(layout.stage(moveId), NAME), Whose);
    if (whose?.packageId === packageId) return moveId;
  }
  return null;
}

type OfPackage = Pick<Whose, 'instanceId' | 'packageId'>;

const samePackage = (one: OfPackage, other: OfPackage): boolean =>
  one.instanceId === other.instanceId && one.packageId === other.packageId;

/** Is there a folder, for this package, whichever generation it makes of the instance? */
export async function isOfPackage(folder: string, move: OfPackage): Promise<boolean> {
  const whose = await readJson(join(folder, NAME), Whose);
  return whose !== null && samePackage(whose, move);
}

/** Removes the folder of a move that has ended. One of nobody is removed if its claim was never finished. */
export async function removeFolder(folder: string, move: OfPackage): Promise<void> {
  if (await exists(folder)) {
    const whose = await readJson(join(folder, NAME), Whose);
    const ours = whose ? samePackage(whose, move) : (await readdir(folder)).every(isTemporary);
    if (!ours) return;
    // Half of its members must not be taken for all of them.
    await condemn(folder);
  }
  await removeDurably(condemned(folder));
}

const isTemporary = (name: string): boolean => name.startsWith('.tmp-');
