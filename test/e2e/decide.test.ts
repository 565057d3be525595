import assert from 'node:assert/strict';
import { readdirSync } from 'node:fs';
import { after, before, describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { ConsoleObserver } from '../support/console-observer.ts';
import { cannotRun, Pool, type Guest } from '../support/pool.ts';

interface Move {
  phase: string;
  parked?: { failure: string; choices: string[] };
}

describe('an operator decides about a move', { skip: cannotRun }, () => {
  let pool: Pool;
  let guest: Guest;
  let observer: ConsoleObserver;
  let token: string;

  before(async () => {
    pool = await Pool.up(3);
    guest = await pool.spawn('alpha', 'decided');
    ({ token } = await pool.testbed.guestStatus('alpha', guest.ip));
    observer = new ConsoleObserver(pool.testbed, guest.id);
  });
  after(async () => {
    observer.stop();
    await pool.down();
  });

  const unharmed = async (owner: string): Promise<void> => {
    await pool.answers(owner, guest);
    assert.equal((await pool.testbed.guestStatus(owner, guest.ip)).token, token);
    // What a host could not be told while its libvirtd was down is done soon after it is back.
    for (let tries = 0; tries < 30 && (await pool.violations(guest, owner)).length > 0; tries++) await sleep(1000);
    assert.deepEqual(await pool.violations(guest, owner), []);
    assert.deepEqual(observer.violations(), []);
  };

  /** A move to beta is parked, because beta’s libvirtd is gone. */
  const park = async (): Promise<void> => {
    const held = await pool.hold('beta', 'restoreInstance', 'before');
    const move = pool.cli(
      'instances',
      'migrate',
      guest.id,
      'beta',
      '--on-failure',
      'park',
      '--retry-window',
      '3',
      '--until-parked',
    );
    await held.reached();
    await pool.testbed.kill('beta', 'libvirtd');
    await held.release();
    const { exitCode, stderr } = await move;
    assert.equal(exitCode, 10, stderr);
    const { phase, parked } = await pool.ok<Move>('moves', 'show', guest.id);
    assert.equal(phase, 'parked');
    assert.deepEqual(parked?.choices, ['retry', 'return', 'readdress', 'abandon']);
  };

  it('retries a parked move when its cause is gone', async () => {
    await park();
    await pool.testbed.start('beta', 'libvirtd');
    await pool.ok('moves', 'retry', guest.id, '--watch');
    await unharmed('beta');
    await pool.ok('instances', 'migrate', guest.id, 'alpha');
    await unharmed('alpha');
  });

  it('returns a parked move to its source', async () => {
    await park();
    const { exitCode, stderr } = await pool.cli('moves', 'return', guest.id, '--watch');
    assert.equal(exitCode, 9, stderr);
    await pool.testbed.start('beta', 'libvirtd');
    await unharmed('alpha');
  });

  it('sends a parked move elsewhere without sealing it again', async () => {
    await park();
    const packages = pool.testbed.outside('alpha', '/var/lib/vmferry/packages');
    const sealed = readdirSync(packages).length;
    await pool.ok('moves', 'readdress', guest.id, 'gamma', '--watch');
    assert.equal(readdirSync(packages).length, sealed, 'the package on alpha is the one that was made for beta');
    await pool.testbed.start('beta', 'libvirtd');
    await unharmed('gamma');
  });

  it('cancels a move while the package travels; the transfer stops and the VM is back', async () => {
    await pool.testbed.rate('beta', '2mbit');
    const move = pool.cli('instances', 'migrate', guest.id, 'beta');
    for (const deadline = Date.now() + 60_000; ; await sleep(200)) {
      const { step } = await pool.ok<{ step: string }>('moves', 'show', guest.id);
      if (step === 'transferPackage') break;
      assert.ok(Date.now() < deadline);
    }
    await pool.ok('moves', 'cancel', guest.id);
    await move;
    await pool.testbed.rate('beta', 'none');
    await unharmed('gamma');
  });
});
