/**
 * What undoes a move that ends before its release. The source may take the instance back at any time until then without
 * asking anyone: a paused copy elsewhere can never run.
 */
import { allHandlersFinished, CancellationScope, condition } from '@temporalio/workflow';
import { failure, isCancellation, reasonOf } from '../failing.ts';
import { unfailing } from './calling.ts';
import type { Move } from './move.ts';
import type { CalledOff } from './operator.ts';
import { discardCopy, discardLater } from './parking.ts';
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
    await CancellationScope.nonCancellable(async () => {
      await discardLater(move);
      await condition(allHandlersFinished);
    });
  }
}

/** Undoes as much as was done; answers what the workflow is to throw. */
async function undo(move: Move, error: unknown): Promise<unknown> {
  const { operator, story, reserved, touched, kind, name, source } = move;
  // All that follows the point of no return is insisted on; a defect that comes here must not take anything back.
  if (operator.beyondReturn !== null) return error;
  // A step that is ended in the middle may answer with what it met there; the move ends as it was asked to all the same.
  const asked = operator.calledOff;
  const end: End = { error, asked, reason: asked ? REASONS[asked] : reasonOf(error) };
  if (!reserved) {
    story.phase('failed');
    return thrown(end, `Instance ${name || move.instanceId} is untouched${name && ` on ${source.id}`}`);
  }
  if (kind === 'restore') return staySaved(move, end);
  if (!touched) return stayRunning(move, end);
  return asked === 'abandon' ? abandon(move, end) : takeBack(move, end);
}

interface End {
  error: unknown;
  /** By one of the operator's updates. */
  asked: CalledOff | null;
  /** For the catalog and for people. */
  reason: ReturnType<typeof reasonOf>;
}

const REASONS: Record<CalledOff, End['reason']> = {
  return: { type: 'MoveReturned', message: 'The operator asked for the return' },
  cancel: { type: 'Cancelled', message: 'The operator cancelled it' },
  abandon: { type: 'MoveAbandoned', message: 'The operator abandoned it' },
};

/** What the operator asked for, with what came of it; else the first error as it is. */
function thrown({ error, asked, reason }: End, outcome: string): unknown {
  return asked ? failure(reason.type, `${outcome}: ${reason.message}`) : error;
}

/** The guest never stopped. */
async function stayRunning(move: Move, end: End): Promise<unknown> {
  const { source, name, facts } = move;
  await Promise.all([
    move.prepared && discardCopy(move, move.destination.id),
    closeMove(move, { outcome: 'failed', owner: source.id, generation: facts.ownedGeneration, failure: end.reason }),
  ]);
  move.story.phase('failed');
  return thrown(end, `Instance ${name} runs on ${source.id}, where it was`);
}

/** The guest may have stopped: the source runs it again, from whatever state the move left it in. */
async function takeBack(move: Move, end: End): Promise<unknown> {
  const { source, name } = move;
  move.story.phase('returning');
  const { generation, how } = await unfailing(
    move,
    'returnInstance',
    source.id,
    `Run ${name} on ${source.id} again`,
    (host) => host.returnInstance(move.ref),
    (answer) => answer.how,
  );
  if (how === 'never stopped') move.story.blackoutEnded(0);
  else move.blackoutEnds();
  await Promise.all([
    move.prepared && discardCopy(move, move.destination.id),
    clearUp(move, source.id, 'source', 'returned'),
    closeMove(move, { outcome: 'returned', owner: source.id, generation, failure: end.reason }),
  ]);
  move.story.phase('returned');
  const outcome = `Instance ${name} runs on ${source.id} again (${how})`;
  if (end.asked || isCancellation(end.error)) return thrown(end, outcome);
  return failure('MoveReturned', `${outcome}: ${end.reason.message}`, end.error);
}

/** The instance stays down, in its package at the source, which goes on owning it: as after a save. */
async function abandon(move: Move, end: End): Promise<unknown> {
  const { source, destination, name, packageId, facts } = move;
  await Promise.all([
    discardCopy(move, destination.id),
    clearUp(move, source.id, 'source', 'saved'),
    closeMove(move, { outcome: 'saved', owner: source.id, generation: facts.ownedGeneration, failure: end.reason }),
  ]);
  move.story.phase('abandoned');
  return thrown(end, `Instance ${name} is saved on ${source.id} as package ${packageId}`);
}

/** A restore began with a stopped guest, and its package is as it was. */
async function staySaved(move: Move, end: End): Promise<unknown> {
  const { source, destination, name, atHome, facts } = move;
  await Promise.all([
    move.prepared && (atHome ? clearUp(move, source.id, 'source', 'saved') : discardCopy(move, destination.id)),
    closeMove(move, { outcome: 'saved', owner: source.id, generation: facts.ownedGeneration, failure: end.reason }),
  ]);
  move.story.phase(end.asked === 'abandon' ? 'abandoned' : 'failed');
  return thrown(end, `Instance ${name} stays saved on ${source.id}`);
}
