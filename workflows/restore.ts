import type { MoveResult, RestoreInput } from './contract.ts';
import { releaseInstance, resumeInstance } from './move/hand-over.ts';
import { Move } from './move/move.ts';
import { parkable } from './move/parking.ts';
import {
  openPackage,
  plan,
  preflight,
  readdressPackage,
  reserve,
  restoreInstance,
  rewriteXml,
  runAtHome,
  settleAtHome,
  settleMove,
  transferPackage,
} from './move/steps.ts';
import { withWayBack } from './move/way-back.ts';

/**
 * Continues a saved instance from its package. The owner needs nobody for it; another host gets the instance as in a
 * move: in exchange for its receipt, by a release. Until then a failure leaves the instance saved as it was.
 */
export async function restore(input: RestoreInput): Promise<MoveResult> {
  const move = new Move('restore', input);

  return await withWayBack(move, async () => {
    await plan(move, input.destination ?? null);

    await preflight(move);
    await reserve(move);
    return await (move.atHome ? continueAtHome(move) : continueElsewhere(move));
  });
}

async function continueAtHome(move: Move): Promise<MoveResult> {
  await openPackage(move);
  await rewriteXml(move);
  await runAtHome(move);
  return await settleAtHome(move);
}

async function continueElsewhere(move: Move): Promise<MoveResult> {
  await readdressPackage(move);
  const restored = await parkable(move, async () => {
    await transferPackage(move);
    await openPackage(move);
    await rewriteXml(move);
    return await restoreInstance(move);
  });
  const grant = await releaseInstance(move, restored);
  await resumeInstance(move, grant);
  return await settleMove(move);
}
