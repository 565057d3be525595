/**
 * Starts up to `width` tasks ahead of the one whose result is taken; takes results in order, one at a time. This is all
 * the parallelism of packing, sealing and opening, and what bounds their memory: `width` segments.
 *
 * After a failure nothing new is started, and what runs is waited for: nothing of a failed attempt may still write when
 * the next one begins.
 */
export async function ahead<T>(
  count: number,
  width: number,
  start: (index: number) => Promise<T>,
  take: (index: number, result: T) => Promise<void> | void,
): Promise<void> {
  const running = new Map<number, Promise<T>>();
  let next = 0;
  try {
    for (let index = 0; index < count; index++) {
      for (; next < Math.min(count, index + width); next++) {
        const task = start(next);
        // Its failure is seen when its turn comes, or below.
        task.catch(() => undefined);
        running.set(next, task);
      }
      const result = await running.get(index);
      running.delete(index);
      await take(index, result as T);
    }
  } finally {
    await Promise.allSettled(running.values());
  }
}

/** Segments in flight. A third keeps both the crypto thread and a compressing thread busy while one is on the disk. */
export const WIDTH = 3;
