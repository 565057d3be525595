/**
 * What undoes a move that ends before its release. The source may take the instance back at any time until then without
 * asking anyone: a paused copy elsewhere can never run.
 */
import { allHandlersFinished, CancellationScope, condition } from '@temporalio/workflow';
import { failure, isCancellation, reasonOf } from '../failing.ts';
import { unfailing } from './calling.ts';
import type { Move } from './move.ts';
import { discardCopy } from './parking.ts';
import { clearUp, closeMove } from './steps.ts';

/**
 * Runs the steps of a move. If one of them fails for good, or the operator calls the move off, everything is undone
 * first and then the first error is thrown, never a later one: a failure of the way back itself is repeated until a
 * person has mended its cause.
 */
export async function withWayBack<T>(move: Move, steps: () => Promise<T>): Promise<T> {
  try {
    return await move.operator.forward.run(steps);
  } catch (error) {
    throw await CancellationScope.nonCancellable(() => undo(move, error));
  } finally {
    await CancellationScope.nonCancellable(() => condition(allHandlersFinished));
  }
}

/** Undoes as much as was done; answers what the workflow is to throw. */
async function undo(move: Move, error: unknown): Promise<unknown> {
  // All that follows the point of no return is insisted on; a defect that comes here must not take anything back.
  if (move.operator.beyondReturn !== null) return error;
  if (!move.reserved) {
    move.story.phase('failed');
    return error;
  }
  if (move.kind === 'restore') return staySaved(move, error);
  return move.touched ? takeBack(move, error) : stayRunning(move, error);
}

/** The guest never stopped. */
async function stayRunning(move: Move, error: unknown): Promise<unknown> {
  const { source, name } = move;
  const reason = whyNot(move, error);
  await Promise.all([
    move.prepared && discardCopy(move, move.destination.id),
    closeMove(move, { outcome: 'failed', owner: source.id, generation: move.facts.ownedGeneration, failure: reason }),
  ]);
  move.story.phase('failed');
  return move.operator.returnAsked
    ? failure('MoveReturned', `Instance ${name} runs on ${source.id}, where it was: ${reason.message}`)
    : error;
}

/** The guest may have stopped: the source runs it again, from whatever state the move left it in. */
async function takeBack(move: Move, error: unknown): Promise<unknown> {
  const { source, name } = move;
  const reason = whyNot(move, error);
  move.story.phase('returning');
  const { generation, how } = await unfailing(
    move,
    'returnInstance',
    source.id,
    `Run ${name} on ${source.id} again`,
    (host) => host.returnInstance(move.ref),
    (answer) => answer.how,
  );
  move.blackoutEnds();
  await Promise.all([
    move.prepared && discardCopy(move, move.destination.id),
    clearUp(move, source.id, 'source', 'returned'),
    closeMove(move, { outcome: 'returned', owner: source.id, generation, failure: reason }),
  ]);
  move.story.phase('returned');
  if (isCancellation(error) && !move.operator.returnAsked) return error;
  return failure('MoveReturned', `Instance ${name} runs on ${source.id} again (${how}): ${reason.message}`, error);
}

/** A restore began with a stopped guest, and its package is as it was. */
async function staySaved(move: Move, error: unknown): Promise<unknown> {
  const { source, destination, name, atHome } = move;
  const reason = whyNot(move, error);
  await Promise.all([
    move.prepared && (atHome ? clearUp(move, source.id, 'source', 'saved') : discardCopy(move, destination.id)),
    closeMove(move, { outcome: 'saved', owner: source.id, generation: move.facts.ownedGeneration, failure: reason }),
  ]);
  move.story.phase('failed');
  return move.operator.returnAsked
    ? failure('MoveReturned', `Instance ${name} stays saved on ${source.id}: ${reason.message}`)
    : error;
}

function whyNot(move: Move, error: unknown): ReturnType<typeof reasonOf> {
  if (isCancellation(error) && move.operator.returnAsked)
    return { type: 'MoveReturned', message: 'The operator asked for the return' };
  return reasonOf(error);
}
