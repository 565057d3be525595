/**
 * A destination that has given up a move answers none of its earlier calls any more: `instances/<instance>/given-up.json`.
 *
 * Whoever calls off a move does not wait for the step that is at work at the destination. One that the worker takes only
 * after the clean-up, because it was frozen or cut off meanwhile, would bring back what was cleared away, and nobody would
 * come for it again. It is told by when its workflow asked for it, which all its attempts have in common. A move that is
 * readdressed to this host later asks later.
 */
import { join } from 'node:path';
import { z } from 'zod';
import type { InstanceId, MoveRef } from '../workflows/contract.ts';
import { VmferryError } from '../workflows/failures.ts';
import { askedAt } from './heartbeat.ts';
import type { HostContext } from './host-context.ts';
import { makeDirectory, readJson, writeRecord } from './records/durable.ts';
import type { Layout } from './records/layout.ts';
import { withInstanceLock } from './records/lock.ts';

/** Of the last move that was given up. */
const GivenUp = z.strictObject({
  moveId: z.string(),
  /** Milliseconds since the epoch, by the clock of Temporal's server. */
  askedAt: z.number(),
});

const path = (layout: Layout, instanceId: InstanceId): string => join(layout.instance(instanceId), 'given-up.json');

/** Noted by whatever gives the move up here, before it clears anything away. */
export async function giveUp({ layout }: HostContext, { instanceId, moveId }: MoveRef): Promise<void> {
  const before = await readJson(path(layout, instanceId), GivenUp);
  const asked = askedAt();
  if (before?.moveId === moveId && before.askedAt >= asked) return;
  await makeDirectory(layout.instance(instanceId));
  const about = `${new Date().toISOString()}: move ${moveId} is given up here`;
  await writeRecord(path(layout, instanceId), about, { moveId, askedAt: asked } satisfies z.infer<typeof GivenUp>);
}

/**
 * Runs a step of the move at its destination, alone on its instance.
 *
 * @throws StepTooLate if the move was given up here after the step was asked for; InstanceBusy
 */
export function atDestination<T>(
  { name, layout }: HostContext,
  { instanceId, moveId }: Pick<MoveRef, 'instanceId' | 'moveId'>,
  step: () => Promise<T>,
): Promise<T> {
  return withInstanceLock(layout, instanceId, async () => {
    const givenUp = await readJson(path(layout, instanceId), GivenUp);
    if (givenUp?.moveId === moveId && askedAt() < givenUp.askedAt) {
      throw new VmferryError(
        'StepTooLate',
        `host ${name} has given up move ${moveId}; a step that is older comes too late`,
      );
    }
    return step();
  });
}
