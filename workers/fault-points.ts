/**
 * Marked points before and after each activity, where a test can hold a worker and kill what it likes. Active only when
 * the configuration names a directory for it; nothing in production does.
 *
 * A file `<directory>/<activity>.<point>` asks the worker to stop there: it is renamed to `….reached`, and work goes on
 * when that is removed. A killed worker leaves it behind; the next attempt is not held again.
 */
import { access, rename } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { ActivityInboundCallsInterceptor } from '@temporalio/worker';
import { Context } from '@temporalio/activity';

export function faultPoints(directory: string): ActivityInboundCallsInterceptor {
  return {
    async execute(input, next) {
      const activity = Context.current().info.activityType;
      await hold(directory, `${activity}.before`);
      const result = await next(input);
      await hold(directory, `${activity}.after`);
      return result;
    },
  };
}

async function hold(directory: string, point: string): Promise<void> {
  const asked = join(directory, point);
  const reached = `${asked}.reached`;
  try {
    await rename(asked, reached);
  } catch {
    return; // nobody asked for this point
  }
  const there = (): Promise<boolean> =>
    access(reached).then(
      () => true,
      () => false,
    );
  while (await there()) await sleep(10);
}
