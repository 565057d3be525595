/** However many loops of segments there are in a process, a bounded number of segments is in flight. */
import assert from 'node:assert/strict';
import test from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { ahead } from '../../activities/package/ahead.ts';

await test('results are taken in order, and few of all loops together are in flight', async () => {
  let inFlight = 0;
  let most = 0;
  const loop = async (): Promise<number[]> => {
    const taken: number[] = [];
    await ahead(
      10,
      3,
      async (index) => {
        most = Math.max(most, ++inFlight);
        await sleep(index % 2 === 0 ? 5 : 1);
        return index;
      },
      async (index, result) => {
        assert.equal(result, index);
        await sleep(1);
        taken.push(result);
        inFlight -= 1;
      },
    );
    return taken;
  };
  const all = await Promise.all(Array.from({ length: 6 }, loop));
  for (const taken of all) assert.deepEqual(taken, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
  assert.equal(most, 4);
});

await test('a loop that fails starts nothing more, waits for what runs, and gives its places back', async () => {
  for (let round = 0; round < 5; round++) {
    let [begun, ended] = [0, 0];
    const failing = ahead(
      10,
      3,
      async (index) => {
        begun += 1;
        await sleep(index + 1);
        ended += 1;
        if (index === 1) throw new Error('no more');
      },
      () => undefined,
    );
    const other = ahead(
      10,
      3,
      () => sleep(1),
      () => undefined,
    );
    await assert.rejects(failing, /no more/);
    assert.equal(ended, begun);
    assert.ok(begun <= 4);
    await other;
  }
  await assert.rejects(
    ahead(
      3,
      3,
      (index) => Promise.resolve(index),
      () => {
        throw new Error('not taken');
      },
    ),
    /not taken/,
  );
  // All places are free again.
  let started = 0;
  const gate = Promise.withResolvers<void>();
  const loops = [3, 1].map((count) =>
    ahead(
      count,
      3,
      () => {
        started += 1;
        return gate.promise;
      },
      () => undefined,
    ),
  );
  await sleep(5);
  assert.equal(started, 4);
  gate.resolve();
  await Promise.all(loops);
});
