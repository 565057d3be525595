/**
 * Whose a folder under `moves/` or `staging/` is: `whose.json`, the first file in it. The lock of an instance protects
 * only what is known to be that instance's, and an orchestrator may mix up its moves: without this, a step of one
 * instance could work on what another was saved in, or clear it away.
 */
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import type { MoveId, MoveRef, PackageId } from '../workflows/contract.ts';
import { VmferryError } from '../workflows/failures.ts';
import { namesIn } from './package/files.ts';
import { condemn, CONDEMNED, condemned } from './records/condemned.ts';
import { createRecord, exists, makeDirectory, readJson, removeDurably } from './records/durable.ts';
import type { Layout } from './records/layout.ts';

const Whose = z.strictObject({ instanceId: z.string(), packageId: z.string() });
type Whose = z.infer<typeof Whose>;

const NAME = 'whose.json';

/**
 * Makes the folder of a move for its instance and package, unless it is there.
 *
 * @param which `move` or `stage`
 * @throws AlreadyExists if it is another's, or the other folder of that move is: what that move may still need is not taken
 */
export async function claimFolder(
  layout: Layout,
  which: 'move' | 'stage',
  { moveId, instanceId, packageId }: Pick<MoveRef, 'moveId' | 'instanceId' | 'packageId'>,
): Promise<void> {
  for (const folder of [layout.move(moveId), layout.stage(moveId)]) {
    await requireFolder(folder, { instanceId, packageId });
  }
  const folder = layout[which](moveId);
  await makeDirectory(folder);
  const about = `${new Date().toISOString()}: for move ${moveId} of instance ${instanceId}`;
  await createRecord(join(folder, NAME), about, { instanceId, packageId } satisfies Whose);
  await requireFolder(folder, { instanceId, packageId });
}

/**
 * The folder is of this instance and package, or of nobody, and then there is nothing in it.
 *
 * @throws AlreadyExists
 */
export async function requireFolder(folder: string, { instanceId, packageId }: Whose): Promise<void> {
  const whose = await readJson(join(folder, NAME), Whose);
  if (!whose || (whose.instanceId === instanceId && whose.packageId === packageId)) return;
  throw new VmferryError(
    'AlreadyExists',
    `${folder} is for package ${whose.packageId} of instance ${whose.instanceId}, not for ${packageId} of ${instanceId}`,
  );
}

/**
 * There is a folder, of this instance and package.
 *
 * @throws PackageNotFound, AlreadyExists if it is another's
 */
export async function requireOpened(folder: string, whose: Whose): Promise<void> {
  await requireFolder(folder, whose);
  if (await isFolderOf(folder, whose)) return;
  throw new VmferryError('PackageNotFound', `package ${whose.packageId} is not opened in ${folder}`);
}

/** Is there a folder, of this instance and package? */
export async function isFolderOf(folder: string, { instanceId, packageId }: Whose): Promise<boolean> {
  const whose = await readJson(join(folder, NAME), Whose);
  return whose?.instanceId === instanceId && whose.packageId === packageId;
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

/** Removes the folder of a move, if it is of this instance. One of nobody is removed if its claim was never finished. */
export async function removeFolder(folder: string, instanceId: string): Promise<void> {
  if (await exists(folder)) {
    const whose = await readJson(join(folder, NAME), Whose);
    const ours = whose ? whose.instanceId === instanceId : (await readdir(folder)).every(isTemporary);
    if (!ours) return;
    // Half of its members must not be taken for all of them.
    await condemn(folder);
  }
  await removeDurably(condemned(folder));
}

const isTemporary = (name: string): boolean => name.startsWith('.tmp-');
