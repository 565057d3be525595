/**
 * The observers on real hosts: what goes well is accepted, a power loss excuses what it may, and what is done to a guest by
 * hand, behind vmferry's back, is rejected by the invariant that it breaks.
 */
import assert from 'node:assert/strict';
import { copyFile, cp } from 'node:fs/promises';
import { after, before, describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { Observer } from '../safety/observe/observer.ts';
import type { Violation } from '../safety/history.ts';
import { cannotRun, Pool, type Guest } from '../support/pool.ts';

const texts = (violations: readonly Violation[]): string[] =>
  violations.map(({ invariant, text }) => `[${invariant}] ${text}`);

describe('the observers', { skip: cannotRun }, () => {
  let pool: Pool;
  let observer: Observer;
  let guest: Guest;

  const spawn = async (host: string, name: string): Promise<Guest> => {
    const spawned = await pool.spawn(host, name);
    observer.watch({ ...spawned, name });
    return spawned;
  };

  before(async () => {
    pool = await Pool.up();
    observer = await Observer.start(pool.testbed, { log: console.log });
    guest = await spawn('alpha', 'observed');
  });
  after(async () => {
    await observer.stop();
    await pool.down();
  });

  it('accept a move there, and one back in which the worker of the destination is killed', async () => {
    const told = await observer.checkpoint(guest.id);
    assert.ok(told);
    await pool.ok('instances', 'migrate', guest.id, 'beta');

    const held = await pool.hold('alpha', 'openPackage', 'before');
    const move = pool.cli('instances', 'migrate', guest.id, 'alpha');
    await held.reached();
    observer.disturbance({ kind: 'worker-killed', host: 'alpha' });
    await pool.testbed.kill('alpha', 'worker');
    await held.release();
    await pool.testbed.start('alpha', 'worker');
    assert.equal((await move).exitCode, 0);

    assert.deepEqual(texts(await observer.judgeNow([guest.id])), []);
    assert.equal((await observer.checkpoint(guest.id))?.token, told.token);
  });

  it('see that a frozen guest does not run, and that it goes on', async () => {
    const [qemu] = pool.testbed.status().filter(({ where, what }) => where === 'alpha' && what === 'qemu');
    assert.ok(qemu?.pid);
    process.kill(qemu.pid, 'SIGSTOP');
    await sleep(1_500);
    process.kill(qemu.pid, 'SIGCONT');
    await pool.answers('alpha', guest);
    const history = await observer.snapshot([guest.id]);
    const runs = history.qemus.find(({ pid }) => pid === qemu.pid)?.runs ?? [];
    const pauses = runs.slice(1).map(({ after }, index) => after - (runs[index]?.by ?? 0));
    assert.equal(pauses.filter((millis) => millis > 1_200 && millis < 3_000).length, 1, JSON.stringify(runs));
    assert.deepEqual(texts(await observer.judgeNow([guest.id])), []);
  });

  it('accept that a guest boots anew after its host has lost power, and only then', async () => {
    observer.disturbance({ kind: 'power-loss', host: 'alpha' });
    await pool.testbed.kill('alpha', 'host');
    await pool.testbed.start('alpha', 'host');
    await pool.testbed.exec('alpha', ['virsh', '--quiet', 'start', guest.id]);
    await pool.answers('alpha', guest, 60);
    await sleep(2_000);
    assert.deepEqual(texts(await observer.judgeNow([guest.id])), []);

    await pool.testbed.exec('alpha', ['virsh', '--quiet', 'reset', guest.id]);
    await sleep(1_000);
    await pool.answers('alpha', guest, 60);
    await sleep(2_000);
    const violations = await observer.judgeNow([guest.id]);
    assert.deepEqual([...new Set(violations.map(({ invariant }) => invariant))], [3], texts(violations).join('\n'));
    assert.match(texts(violations).join('\n'), /booted anew on alpha .* though nothing had cost it its RAM/);
  });

  it('reject that a paused copy was resumed before it was released', async () => {
    const early = await spawn('alpha', 'early');
    const held = await pool.hold('alpha', 'releaseInstance', 'before');
    const move = pool.cli('instances', 'migrate', early.id, 'beta');
    await held.reached();
    await pool.testbed.exec('beta', ['virsh', '--quiet', 'resume', early.id]);
    await pool.testbed.exec('beta', ['virsh', '--quiet', 'suspend', early.id]);
    await held.release();
    assert.equal((await move).exitCode, 0);

    const violations = await observer.judgeNow([early.id]);
    assert.deepEqual([...new Set(violations.map(({ invariant }) => invariant))], [6], texts(violations).join('\n'));
    assert.match(texts(violations).join('\n'), /ran on beta .* while beta did not own it/);
  });

  it('reject that the source was restored from its save file once more, while the instance runs elsewhere', async () => {
    const twice = await spawn('alpha', 'twice');
    const copy = pool.testbed.outside('alpha', `/var/lib/vmferry/instances/${twice.id}/g1`);
    const kept = pool.testbed.outside('alpha', '/var/lib/libvirt/images');
    const held = await pool.hold('alpha', 'encryptPackage', 'after');
    const move = pool.ok<{ moveId: string }>('instances', 'migrate', twice.id, 'beta');
    await held.reached();
    const { records } = await observer.snapshot([]);
    const { moveId } = records.findLast(({ path }) => path.endsWith(`${twice.id}/save-1.json`))?.content as {
      moveId: string;
    };
    await copyFile(pool.testbed.outside('alpha', `/var/lib/vmferry/moves/${moveId}/snapshot`), `${kept}/twice.save`);
    await cp(copy, `${kept}/twice`, { recursive: true, filter: (path) => !path.endsWith('serial.log') });
    await held.release();
    await move;

    await cp(`${kept}/twice`, copy, { recursive: true });
    await pool.testbed.exec('alpha', [
      'virsh',
      '--quiet',
      'restore',
      '--running',
      '/var/lib/libvirt/images/twice.save',
    ]);
    await sleep(3_000);
    const violations = await observer.judgeNow([twice.id]);
    const found = texts(violations).join('\n');
    assert.match(found, /\[1\] twice ran twice for \d+ ms/);
    assert.match(found, /\[3\] twice told counts? .* twice/);
    assert.match(found, /\[5\] twice: a QEMU process .* is left on alpha; beta owns it/);
    assert.match(found, /\[6\] twice ran on alpha .* while alpha did not own it/);
  });
});
