/**
 * Something is killed with SIGKILL while a step of a move stands at a marked point, then started again: one move for each
 * step, back and forth between the same two hosts. After each of them a program decides whether the guest lived one life
 * and whether the move left what it must and nothing else.
 *
 * The marked point is before the step's work or after it, by turns, so that both “never began” and “done, but nobody was
 * told” occur.
 */
import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { MOVE_STEPS, type MoveStep } from '../../workflows/contract.ts';
import { ConsoleObserver } from './console-observer.ts';
import { cannotRun, Pool, type Guest } from './pool.ts';

type Place = 'source' | 'destination' | 'control';

/** An activity of each step, and where it runs. */
const ACTIVITIES: Record<MoveStep, readonly [activity: string, owner: Place]> = {
  preflight: ['preflightDestination', 'destination'],
  reserve: ['reserve', 'destination'],
  announceMove: ['announceMove', 'source'],
  saveInstance: ['saveInstance', 'source'],
  rebaseOverlay: ['rebaseOverlay', 'source'],
  buildPackage: ['buildPackage', 'source'],
  encryptPackage: ['encryptPackage', 'source'],
  transferPackage: ['transferPackage', 'destination'],
  openPackage: ['openPackage', 'destination'],
  rewriteXml: ['rewriteXml', 'destination'],
  restoreInstance: ['restoreInstance', 'destination'],
  releaseInstance: ['releaseInstance', 'source'],
  resumeInstance: ['resumeInstance', 'destination'],
  settleMove: ['settleMove', 'source'],
};

export interface Victim {
  name: string;
  /** `owner`: the host whose step stands. */
  where: Place | 'owner';
  what: 'worker' | 'temporal' | 'libvirtd';
}

export function killSuite(victim: Victim): void {
  describe(`a move ends well though ${victim.name} is killed in the middle of it`, { skip: cannotRun }, () => {
    let pool: Pool;
    let guest: Guest;
    let observer: ConsoleObserver;
    let token: string;
    let source = 'alpha';
    let destination = 'beta';

    before(async () => {
      pool = await Pool.up();
      guest = await pool.spawn('alpha', 'survivor');
      ({ token } = await pool.testbed.guestStatus('alpha', guest.ip));
      observer = new ConsoleObserver(pool.testbed, guest.id);
    });
    after(async () => {
      observer.stop();
      await pool.down();
    });

    for (const [turn, step] of MOVE_STEPS.entries()) {
      const [activity, owner] = ACTIVITIES[step];
      const point = turn % 2 === 0 ? 'after' : 'before';
      it(`${point} ${step}`, async () => {
        const place = { source, destination, control: 'control' };
        const held = await pool.hold(place[owner], activity, point);
        const move = pool.cli('instances', 'migrate', guest.id, destination, '--retry-window', '120');
        await held.reached();
        const home = victim.where === 'owner' ? place[owner] : place[victim.where];
        await pool.testbed.kill(home, victim.what);
        await held.release();
        await sleep(200);
        await pool.testbed.start(home, victim.what);

        const { exitCode, stderr } = await move;
        if (exitCode !== 0) {
          // The client may lose its server; the move must not.
          assert.equal(exitCode, 5, stderr);
          await pool.ok('moves', 'watch', guest.id);
        }
        assert.equal((await pool.testbed.guestStatus(destination, guest.ip)).token, token);
        assert.deepEqual(await pool.violations(guest, destination), []);
        assert.deepEqual(observer.violations(), []);
        [source, destination] = [destination, source];
      });
    }

    it('f2: leaves no move that has not come to an end', async () => {
      const moves = await pool.ok<{ outcome: string | null }[]>('moves', 'list', '--instance', guest.id);
      assert.deepEqual(
        moves.map(({ outcome }) => outcome),
        MOVE_STEPS.map(() => 'moved'),
      );
      assert.deepEqual(await pool.ok('moves', 'list', '--open'), []);
    });
  });
}
