/**
 * Starts up to `width` tasks ahead of the one whose result is taken; takes results in order, one at a time. This is all
 * the parallelism of packing, sealing and opening. What bounds a worker's memory is how many segments are in flight in the
 * whole process, however many moves are at work: a task waits for one of `IN_FLIGHT` places, and keeps it until its result
 * is taken. In a loop a task never has its place before the one whose result is taken first, so no loops can wait for each
 * other.
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
  let failed = false;
  const inPlace = async (index: number): Promise<T> => {
    await places.take();
    // Its loop has ended while it waited for its place.
    if (failed) throw new Error('the loop has failed');
    return start(index);
  };
  try {
    for (let index = 0; index < count; index++) {
      for (; next < Math.min(count, index + width); next++) {
        const task = inPlace(next);
        // Its failure is seen when its turn comes, or below.
        task.catch(() => undefined);
        running.set(next, task);
      }
      const result = await running.get(index);
      await take(index, result as T);
      running.delete(index);
      places.giveBack();
    }
  } finally {
    failed = true;
    await Promise.allSettled(running.values());
    running.forEach(() => places.giveBack());
  }
}

/** Segments in flight of one loop. A third keeps both the crypto thread and a compressing thread busy while one is on the disk. */
export const WIDTH = 3;

/** Of all loops together: more would not be faster, for they share the processors. */
const IN_FLIGHT = 4;

/** Given out in the order in which they were asked for. */
class Places {
  #free: number;
  readonly #waiting: (() => void)[] = [];

  constructor(count: number) {
    this.#free = count;
  }

  async take(): Promise<void> {
    if (this.#free > 0) this.#free -= 1;
    else await new Promise<void>((resolve) => this.#waiting.push(resolve));
  }

  giveBack(): void {
    const next = this.#waiting.shift();
    if (next) next();
    else this.#free += 1;
  }
}

const places = new Places(IN_FLIGHT);
