import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import type { Run } from '../safety/history.ts';
import { VcpuRuns } from '../safety/observe/runs.ts';

const EVERY_MS = 20;

/** Milliseconds of CPU time that were used between each two looks; the process ends after the last. */
function runsOf(growths: readonly number[], vcpus = 1): Run[] {
  const ran = new VcpuRuns([], vcpus);
  let used = 0;
  for (const [index, grown] of growths.entries()) {
    used += grown * 1e6;
    ran.look(used, index * EVERY_MS, (index + 1) * EVERY_MS);
  }
  ran.ended((growths.length + 1) * EVERY_MS);
  return ran.runs;
}
const times = (count: number, ...growths: number[]): number[] => Array<number[]>(count).fill(growths).flat();

describe('the runs that the observer sees', () => {
  const made = [1, 0, 0.6];
  const rest = times(50, 0);
  const idle = times(20, 3, 0, 0, 0, 0);
  const quitting = [4.2];

  it('are none of a copy that is restored, rests and is told to quit', () => {
    assert.deepEqual(runsOf([...made, ...rest, ...quitting]), []);
    assert.deepEqual(runsOf([...made, ...quitting]), []);
  });

  it('are none of a copy that takes long to quit', () => {
    assert.deepEqual(runsOf([...made, ...rest, 12, 8]), []);
    const [run, ...others] = runsOf([...idle, ...rest, 12, 8]);
    assert.ok(run && others.length === 0);
    assert.ok(run.by <= idle.length * EVERY_MS);
  });

  it('are those of a copy that ran before it was killed', () => {
    assert.equal(runsOf([...made, ...rest, ...times(10, 18)]).length, 1);
    assert.equal(runsOf([...made, ...rest, 18, 18, 18]).length, 1);
  });

  it('begin when it is resumed', () => {
    const [run, ...others] = runsOf([...made, ...rest, ...times(50, 18)]);
    const resumed = (made.length + rest.length) * EVERY_MS;
    assert.ok(run && others.length === 0);
    assert.ok(run.after < resumed && resumed < run.first && run.first - run.after <= 2 * EVERY_MS);
    assert.ok(run.first < run.last);
    assert.equal(run.by, resumed + 50 * EVERY_MS);
  });

  for (const pause of [10, 50]) {
    it(`end when it is suspended, though it quits ${pause * EVERY_MS} ms later`, () => {
      const [run, ...others] = runsOf([...idle, ...times(pause, 0), ...quitting]);
      const suspended = idle.length * EVERY_MS;
      assert.ok(run && others.length === 0);
      assert.ok(run.last <= suspended && suspended - run.last <= 500, `${run.last} and ${suspended}`);
    });
  }

  it('are two with a rest between them', () => {
    const [one, other, ...others] = runsOf([...idle, ...rest, ...idle]);
    assert.ok(one && other && others.length === 0);
    assert.ok(one.by < other.after);
  });

  it('go on through the pauses of an idle guest', () => {
    const [run, ...others] = runsOf(idle);
    assert.ok(run && others.length === 0);
    assert.ok(idle.length * EVERY_MS - run.last <= 500);
  });

  it('are told of several vCPUs together, each of which may be quitting', () => {
    assert.deepEqual(runsOf([...rest, 16], 2), []);
    assert.equal(runsOf([...rest, 20, ...rest], 2).length, 1);
  });
});
