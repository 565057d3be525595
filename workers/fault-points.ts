/**
 * Marked points before, inside and after each activity, where a test can hold a worker and do to it what it likes. Active
 * only when the configuration names a directory for it; nothing in production does.
 *
 * A file `<directory>/<activity>.<point>`, or `….<instance>` for one instance alone, asks the worker to stop there, where
 * a point is `before`, `after` or a mark of activities/marks.ts. It is renamed to `….reached`, and work goes on when that
 * is removed. A killed worker leaves it behind; the next attempt is not held again. Whoever is held goes on telling
 * Temporal that he lives: an attempt is taken for dead only if the test makes it so. A worker that is told to stop hands over.
 */
import { access, rename } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { ActivityInboundCallsInterceptor } from '@temporalio/worker';
import { Context } from '@temporalio/activity';
import { withMarks } from '../activities/marks.ts';

const BEAT_MS = 1000;

export function faultPoints(directory: string): ActivityInboundCallsInterceptor {
  return {
    async execute(input, next) {
      const { activityType, workflowExecution } = Context.current().info;
      // Not every step is told of which instance it is; the id of whatever works on one says it.
      const instance = /^instance:(.+)$/.exec(workflowExecution?.workflowId ?? '')?.[1];
      const at = (point: string): Promise<void> => hold(directory, `${activityType}.${point}`, instance);
      await at('before');
      const result = await withMarks(at, () => next(input));
      await at('after');
      return result;
    },
  };
}

async function hold(directory: string, point: string, instance: string | undefined): Promise<void> {
  const reached = await take(directory, instance === undefined ? [point] : [`${point}.${instance}`, point]);
  if (reached === null) return;
  const context = Context.current();
  const beat = setInterval(() => context.heartbeat({ step: point, bytesDone: 0, bytesTotal: 0 }), BEAT_MS);
  try {
    while (await exists(reached)) {
      // A worker that shuts down waits for nobody's test.
      if (context.cancellationDetails?.workerShutdown) context.cancellationSignal.throwIfAborted();
      await sleep(20);
    }
  } finally {
    clearInterval(beat);
  }
}

/** The name of the first request that is there, as this worker has taken it; null if nobody asked. */
async function take(directory: string, names: string[]): Promise<string | null> {
  for (const name of names) {
    const asked = join(directory, name);
    try {
      await rename(asked, `${asked}.reached`);
      return `${asked}.reached`;
    } catch (error) {
      if (!(error instanceof Error && 'code' in error && error.code === 'ENOENT')) throw error;
    }
  }
  return null;
}

const exists = (path: string): Promise<boolean> =>
  access(path).then(
    () => true,
    () => false,
  );
