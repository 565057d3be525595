import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { ConsoleObserver } from '../support/console-observer.ts';
import { cannotRun, Pool, type Guest } from '../support/pool.ts';
import type { MoveResult } from '../../workflows/contract.ts';

const CLIENT = new URL('../../client/main.ts', import.meta.url).pathname;

describe('a running VM moves from alpha to beta', { skip: cannotRun }, () => {
  let pool: Pool;
  let guest: Guest;
  let observer: ConsoleObserver;

  before(async () => {
    pool = await Pool.up();
    guest = await pool.spawn('alpha', 'mover');
    observer = new ConsoleObserver(pool.testbed, guest.id);
  });
  after(async () => {
    observer.stop();
    await pool.down();
  });

  it('goes on with its RAM, its address and its disk, and leaves nothing behind', async () => {
    const before = await pool.testbed.guestStatus('alpha', guest.ip);
    const begun = performance.now();
    const result = await pool.ok<MoveResult>('instances', 'migrate', guest.id, 'beta');
    const after = await pool.testbed.guestStatus('beta', guest.ip);
    const elapsed = (performance.now() - begun) / 1000;

    assert.equal(result.source, 'alpha');
    assert.equal(result.destination, 'beta');
    assert.equal(result.wireBytes, result.packageBytes, 'every byte crossed the wire once');
    assert.equal(after.token, before.token, 'the token lives in RAM only');
    assert.equal(after.bootId, before.bootId);
    assert.ok(after.counter > before.counter, 'the guest runs');
    assert.ok(
      after.counter - before.counter <= elapsed * 10 + 1,
      'the counter grew by no more than the time that passed',
    );
    assert.deepEqual(await pool.violations(guest, 'beta'), []);
    assert.deepEqual(observer.violations(), []);
  });

  it('keeps the package whole on both hosts', async () => {
    const [move] = await pool.ok<{ packageId: string }[]>('packages', 'list');
    assert.ok(move);
    for (const host of ['alpha', 'beta']) {
      const facts = await pool.ok<{ bytes: number }>('packages', 'verify', move.packageId, '--host', host);
      assert.ok(facts.bytes > 0);
    }
  });

  it('lets its host check the package offline, from nothing but the folder and the host’s keys', async () => {
    const [move] = await pool.ok<{ packageId: string }[]>('packages', 'list');
    const folder = `/var/lib/vmferry/packages/${move?.packageId}`;
    const verify = (...extra: string[]): Promise<{ stdout: string; exitCode: number }> =>
      pool.testbed.exec('beta', [process.execPath, CLIENT, '--output', 'json', 'packages', 'verify', ...extra], {
        okExitCodes: [0, 8],
      });
    assert.equal((await verify(folder)).exitCode, 0);
    const copy = `${folder}-copy/`;
    await pool.testbed.exec('beta', ['cp', '-r', folder, copy]);
    await pool.testbed.exec('beta', [
      'bash',
      ...['-c', 'printf X | dd of="$0/snapshot/000000.seg" bs=1 seek=5000 conv=notrunc status=none', copy],
    ]);
    assert.equal((await verify(copy)).exitCode, 8, 'one changed byte is found');
    await pool.testbed.exec('beta', ['rm', '-r', copy]);
  });

  it('f37: has a sound qcow2 file at the destination', async () => {
    const { stdout } = await pool.testbed.exec('beta', [
      'bash',
      ...['-c', 'for d in "$1"/*.qcow2; do qemu-img check -U -f qcow2 "$d" || exit 1; done', 'check'],
      `/var/lib/vmferry/instances/${guest.id}/g2`,
    ]);
    assert.match(stdout, /No errors were found/);
  });

  it('moves back, and there again', async () => {
    for (const [from, to] of [
      ['beta', 'alpha'],
      ['alpha', 'beta'],
    ] as const) {
      const before = await pool.testbed.guestStatus(from, guest.ip);
      await pool.ok('instances', 'migrate', guest.id, to);
      assert.equal((await pool.testbed.guestStatus(to, guest.ip)).token, before.token);
      assert.deepEqual(await pool.violations(guest, to), []);
    }
    assert.deepEqual(observer.violations(), []);
  });

  it('is saved, stays down, and goes on from its package', async () => {
    const before = await pool.testbed.guestStatus('beta', guest.ip);
    await pool.ok('instances', 'save', guest.id);
    assert.deepEqual((await pool.whereabouts(guest)).runningOn, []);
    await pool.ok('instances', 'restore', guest.id);
    await pool.answers('beta', guest);
    assert.equal((await pool.testbed.guestStatus('beta', guest.ip)).token, before.token);
    assert.deepEqual(await pool.violations(guest, 'beta'), []);
    assert.deepEqual(observer.violations(), []);
  });

  it('is saved here and goes on elsewhere', async () => {
    const before = await pool.testbed.guestStatus('beta', guest.ip);
    await pool.ok('instances', 'save', guest.id);
    await pool.ok('instances', 'restore', guest.id, 'alpha');
    await pool.answers('alpha', guest);
    assert.equal((await pool.testbed.guestStatus('alpha', guest.ip)).token, before.token);
    assert.deepEqual(await pool.violations(guest, 'alpha'), []);
    assert.deepEqual(observer.violations(), []);
  });

  it('is gone after it was deleted', async () => {
    await pool.ok('instances', 'delete', guest.id, '--yes');
    assert.deepEqual(await pool.whereabouts(guest), { runningOn: [], knownOn: [] });
  });
});
