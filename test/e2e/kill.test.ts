import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { ConsoleObserver } from '../support/console-observer.ts';
import { cannotRun, Pool, type Guest } from '../support/pool.ts';

/** Activities of a move in order, and whose they are. */
const ACTIVITIES = [
  ['planMove', 'control'],
  ['preflightSource', 'source'],
  ['preflightDestination', 'destination'],
  ['reserveMove', 'control'],
  ['reserve', 'destination'],
  ['announceMove', 'source'],
  ['saveInstance', 'source'],
  ['rebaseOverlay', 'source'],
  ['buildPackage', 'source'],
  ['encryptPackage', 'source'],
  ['transferPackage', 'destination'],
  ['openPackage', 'destination'],
  ['rewriteXml', 'destination'],
  ['restoreInstance', 'destination'],
  ['releaseInstance', 'source'],
  ['resumeInstance', 'destination'],
  ['settleMove', 'source'],
  ['settleMove', 'destination'],
  ['closeMove', 'control'],
] as const;

/** What is killed, while which activities stand at a marked point. */
const VICTIMS = {
  'the source’s host worker': { where: 'source', what: 'worker' },
  'the destination’s host worker': { where: 'destination', what: 'worker' },
  'the control worker': { where: 'control', what: 'worker' },
  'the Temporal server': { where: 'control', what: 'temporal' },
  libvirtd: { where: 'owner', what: 'libvirtd' },
} as const;

/**
 * One move for each pair of victim and step, back and forth between the same two hosts. A step stands before or after its
 * work when the victim gets SIGKILL, by turns, so that both “never began” and “done but not reported” occur.
 */
describe('a move ends well though something is killed in the middle of it', { skip: cannotRun }, () => {
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

  let turn = 0;
  for (const [victim, { where, what }] of Object.entries(VICTIMS)) {
    for (const [activity, owner] of ACTIVITIES) {
      // A host worker is killed in its own steps; libvirtd only where a host's step is under way.
      if (what === 'worker' && where !== owner) continue;
      if (what === 'libvirtd' && owner === 'control') continue;
      const point = turn++ % 2 === 0 ? 'after' : 'before';
      it(`${victim}, ${point} ${activity} at the ${owner}`, async () => {
        const place = { source, destination, control: 'control' };
        const held = await pool.hold(place[owner], activity, point);
        const move = pool.cli('instances', 'migrate', guest.id, destination, '--retry-window', '120');
        await held.reached();
        const home = where === 'owner' ? place[owner] : place[where];
        await pool.testbed.kill(home, what);
        await held.release();
        await sleep(200);
        await pool.testbed.start(home, what);

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
  }
});
