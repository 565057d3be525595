/**
 * The network is lost at the hand-over: one side is cut off at the very instant at which it has done its part and nobody
 * was told, and stays away until Temporal has given its answer up and asks again. The guest must never be active on both
 * sides, and in the end it must be active on one.
 */
import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { Client, Connection } from '@temporalio/client';
import { workflowId } from '../../workflows/contract.ts';
import { ConsoleObserver } from '../support/console-observer.ts';
import { cannotRun, Pool, type Guest } from '../support/pool.ts';

type Side = 'source' | 'destination';
interface Case {
  /** What has just happened, and who is cut off. */
  title: string;
  at: readonly [side: Side, activity: string, point: 'before' | 'after'];
  cut: Side;
}

const CASES: readonly Case[] = [
  {
    title: 'the destination has signed its receipt, and is cut off before it can hand it on',
    at: ['destination', 'restoreInstance', 'after'],
    cut: 'destination',
  },
  {
    title: 'the source is cut off as it is to release',
    at: ['source', 'releaseInstance', 'before'],
    cut: 'source',
  },
  {
    title: 'the source has released, and is cut off before it can say so',
    at: ['source', 'releaseInstance', 'after'],
    cut: 'source',
  },
  {
    title: 'the destination is cut off as it is to resume',
    at: ['destination', 'resumeInstance', 'before'],
    cut: 'destination',
  },
  {
    title: 'the destination runs the guest, and is cut off before it can say so',
    at: ['destination', 'resumeInstance', 'after'],
    cut: 'destination',
  },
];

describe('the network is lost at the hand-over', { skip: cannotRun }, () => {
  let pool: Pool;
  let guest: Guest;
  let observer: ConsoleObserver;
  let token: string;
  let temporal: Client;
  let source = 'alpha';
  let destination = 'beta';

  before(async () => {
    pool = await Pool.up();
    guest = await pool.spawn('alpha', 'handed');
    ({ token } = await pool.testbed.guestStatus('alpha', guest.ip));
    observer = new ConsoleObserver(pool.testbed, guest.id);
    temporal = new Client({ connection: await Connection.connect({ address: pool.testbed.temporalAddress }) });
  });
  after(async () => {
    observer.stop();
    await temporal.connection.close();
    await pool.down();
  });

  /** How often the step has been given to its host. */
  async function attempts(activity: string): Promise<number> {
    const { raw } = await temporal.workflow.getHandle(workflowId.instance(guest.id)).describe();
    const pending = raw.pendingActivities?.find(({ activityType }) => activityType?.name === activity);
    return pending?.attempt ?? 0;
  }

  for (const { title, at, cut } of CASES) {
    it(`f38: ${title}`, async () => {
      const place = { source, destination };
      const [side, activity, point] = at;
      const held = await pool.hold(place[side], activity, point);
      const move = pool.cli('instances', 'migrate', guest.id, destination);
      await held.reached(240);
      await pool.testbed.cut(place[cut]);
      await held.release();
      const seen = new Set<string>();
      for (const deadline = Date.now() + 240_000; (await attempts(activity)) < 2; await sleep(300)) {
        assert.ok(Date.now() < deadline, `${activity} is not asked for again`);
        seen.add((await pool.whereabouts(guest)).runningOn.join());
      }
      // Whoever may not run it yet does not, however long the other is silent.
      const owner = activity === 'resumeInstance' ? destination : null;
      for (const where of seen) assert.ok(where === '' || where === owner, `it ran on ${where}`);
      await pool.testbed.join(place[cut]);

      const { exitCode, stderr } = await move;
      assert.equal(exitCode, 0, stderr);
      assert.equal((await pool.testbed.guestStatus(destination, guest.ip)).token, token);
      assert.deepEqual(await pool.violations(guest, destination), []);
      assert.deepEqual(observer.violations(), []);
      [source, destination] = [destination, source];
    });
  }
});
