import type { SaveInput, SaveResult } from './contract.ts';
import { Move } from './move/move.ts';
import {
  buildPackage,
  encryptPackage,
  plan,
  preflight,
  rebaseOverlay,
  reserve,
  saveInstance,
  settleSave,
} from './move/steps.ts';
import { withWayBack } from './move/way-back.ts';

/**
 * Stops a running instance and keeps it as a package on its host, which goes on owning it. `restore` continues it there,
 * or elsewhere once this host has released it.
 */
export async function save(input: SaveInput): Promise<SaveResult> {
  const move = new Move('save', input);

  return await withWayBack(move, async () => {
    await plan(move, null);

    await preflight(move);
    await reserve(move);

    await saveInstance(move);
    await rebaseOverlay(move);
    await buildPackage(move);
    await encryptPackage(move);

    return await settleSave(move);
  });
}
