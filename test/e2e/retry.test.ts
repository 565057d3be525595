import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { readdirSync, readFileSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { after, before, describe, it } from 'node:test';
import { ConsoleObserver } from '../support/console-observer.ts';
import { cannotRun, Pool, type Guest } from '../support/pool.ts';

const EMULATOR = '/usr/bin/qemu-system-x86_64';

/** Ways to make a restore fail at a host, for real, and to mend it. */
const CAUSES: Record<
  string,
  { break: (pool: Pool, host: string) => Promise<void>; mend: (pool: Pool, host: string) => Promise<void> }
> = {
  'the emulator is broken': {
    break: (pool, host) => replaceEmulator(pool, host, '#!/bin/sh\nexit 1\n'),
    mend: restoreEmulator,
  },
  'QEMU gets no memory': {
    // Real QEMU, real refusal: it may have 150 MiB of address space, less than the guest's RAM.
    break: async (pool, host) => {
      await pool.testbed.exec(host, ['cp', EMULATOR, '/var/lib/vmferry-emulator']);
      await replaceEmulator(pool, host, '#!/bin/bash\nulimit -v 400000\nexec -a "$0" /var/lib/vmferry-emulator "$@"\n');
    },
    mend: restoreEmulator,
  },
  'libvirtd is stopped': {
    break: (pool, host) => pool.testbed.kill(host, 'libvirtd'),
    mend: (pool, host) => pool.testbed.start(host, 'libvirtd'),
  },
};

async function replaceEmulator(pool: Pool, host: string, script: string): Promise<void> {
  await writeFile(pool.testbed.outside(host, '/var/lib/vmferry-broken'), script, { mode: 0o755 });
  await pool.testbed.exec(host, ['mount', '--bind', '/var/lib/vmferry-broken', EMULATOR]);
}
async function restoreEmulator(pool: Pool, host: string): Promise<void> {
  await pool.testbed.exec(host, ['umount', '--lazy', EMULATOR]);
}

/** What the guest can see of an overlay: everything behind the first cluster, which holds the name of the base. */
const body = (path: string): string => createHash('sha256').update(readFileSync(path).subarray(65536)).digest('hex');

describe('a restore that fails is retried from the preserved package', { skip: cannotRun }, () => {
  let pool: Pool;
  let guest: Guest;
  let observer: ConsoleObserver;
  let here = 'alpha';
  let there = 'beta';

  before(async () => {
    pool = await Pool.up();
    guest = await pool.spawn('alpha', 'retried');
    observer = new ConsoleObserver(pool.testbed, guest.id);
  });
  after(async () => {
    observer.stop();
    await pool.down();
  });

  for (const [cause, { break: breakIt, mend }] of Object.entries(CAUSES)) {
    it(`f26: succeeds when the cause is gone: ${cause}`, async () => {
      const state = (host: string, path: string): string => pool.testbed.outside(host, `/var/lib/vmferry/${path}`);
      const before = await pool.testbed.guestStatus(here, guest.ip);
      const early = await pool.hold(there, 'restoreInstance', 'before');
      const late = await pool.hold(there, 'restoreInstance', 'after');
      const move = pool.cli('instances', 'migrate', guest.id, there, '--retry-window', '120');
      await early.reached();
      await breakIt(pool, there);
      await early.release();
      await sleep(4000); // at least one attempt fails
      assert.deepEqual(
        (await pool.whereabouts(guest).catch(() => ({ runningOn: [] }))).runningOn,
        [],
        'nobody runs it',
      );
      await mend(pool, there);
      await late.reached(120);

      const [moveId] = readdirSync(state(here, 'moves'));
      assert.ok(moveId);
      const packaged = body(join(state(here, 'moves'), moveId, 'disk-vda.qcow2'));
      const generation = readdirSync(state(there, `instances/${guest.id}`)).filter((name) => /^g[0-9]+$/.test(name));
      assert.equal(generation.length, 1);
      const used = join(state(there, `instances/${guest.id}`), generation[0] ?? '', 'vda.qcow2');
      assert.equal(body(used), packaged, 'the overlay that QEMU got is the packaged one');
      assert.equal(body(join(state(there, 'staging'), moveId, 'disk-vda.qcow2')), packaged, 'and so is the staged one');
      await late.release();

      const { exitCode, stderr } = await move;
      assert.equal(exitCode, 0, stderr);
      assert.equal((await pool.testbed.guestStatus(there, guest.ip)).token, before.token);
      assert.deepEqual(await pool.violations(guest, there), []);
      assert.deepEqual(observer.violations(), []);
      [here, there] = [there, here];
    });
  }

  it('f5: brings the VM back when the cause stays', async () => {
    const before = await pool.testbed.guestStatus(here, guest.ip);
    const held = await pool.hold(there, 'restoreInstance', 'before');
    const move = pool.cli('instances', 'migrate', guest.id, there, '--retry-window', '5');
    await held.reached();
    await replaceEmulator(pool, there, '#!/bin/sh\nexit 1\n');
    await held.release();
    const { exitCode, stderr } = await move;
    assert.equal(exitCode, 9, stderr);
    assert.match(stderr, /MoveReturned/);
    await restoreEmulator(pool, there);

    await pool.answers(here, guest);
    const after = await pool.testbed.guestStatus(here, guest.ip);
    assert.equal(after.token, before.token);
    assert.ok(after.counter > before.counter);
    assert.deepEqual(await pool.violations(guest, here), []);
    assert.deepEqual(observer.violations(), []);
  });
});
