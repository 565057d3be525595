import type { MigrateInput, MoveResult } from './contract.ts';
import { releaseInstance, resumeInstance } from './move/hand-over.ts';
import { Move } from './move/move.ts';
import { parkable } from './move/parking.ts';
import {
  announceMove,
  buildPackage,
  encryptPackage,
  openPackage,
  plan,
  preflight,
  rebaseOverlay,
  reserve,
  restoreInstance,
  rewriteXml,
  saveInstance,
  settleMove,
  transferPackage,
} from './move/steps.ts';
import { withWayBack } from './move/way-back.ts';

/**
 * Moves a running instance to another host.
 *
 * Until the release the source may take the instance back, and does so when a step fails for good or the operator wishes
 * it. The release, given in exchange for the destination's receipt, is the point of no return: after it the move only
 * goes forward, however long that takes; to another host only by a fence, the operator's word that a host died for good.
 */
export async function migrate(input: MigrateInput): Promise<MoveResult> {
  const move = new Move('migrate', input);

  return await withWayBack(move, async () => {
    await plan(move, input.destination);

    await preflight(move); //                     1   both hosts; the guest runs
    await reserve(move); //                       2   control, destination
    await announceMove(move); //                  3   source

    await saveInstance(move); //                  4   source; the blackout begins
    await rebaseOverlay(move); //                 5   source
    await buildPackage(move); //                  6   source
    await encryptPackage(move); //                7   source

    const restored = await parkable(move, async () => {
      await transferPackage(move); //             8   destination
      await openPackage(move); //                 9   destination
      await rewriteXml(move); //                 10   destination
      return await restoreInstance(move); //     11   destination; paused
    });

    const grant = await releaseInstance(move, restored); // 12   source; the point of no return
    await resumeInstance(move, grant); //        13   destination; the blackout ends
    return await settleMove(move); //            14   both hosts, control
  });
}
