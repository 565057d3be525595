/** One testbed for packages that are kept: they are verified before they are needed, and gone on from when they are. */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { after, before, describe, it } from 'node:test';
import { ConsoleObserver } from '../support/console-observer.ts';
import { cannotRun, Pool, type Guest } from '../support/pool.ts';

let pool: Pool;
if (cannotRun === false) {
  before(async () => {
    pool = await Pool.up();
  });
  after(() => pool.down());
}

interface Listed {
  id: string;
  copies: { host: string; verifiedAt: string | null; damage: { type: string } | null }[];
}
interface Scrubbed {
  hosts: { host: string; verified: number; damaged: number; silent: string | null }[];
}

// First: it counts the packages that there are.
describe('packages are verified before they are needed', { skip: cannotRun }, () => {
  let guest: Guest;
  let token: string;
  /** Of the guest, needed on alpha; and of another one. Each has a copy on beta. */
  let needed: string;
  let other: string;

  before(async () => {
    guest = await pool.spawn('alpha', 'kept');
    ({ token } = await pool.testbed.guestStatus('alpha', guest.ip));
    ({ packageId: needed } = await pool.ok<{ packageId: string }>('instances', 'save', 'kept'));
    const second = await pool.spawn('alpha', 'other');
    ({ packageId: other } = await pool.ok<{ packageId: string }>('instances', 'save', second.id));
    for (const id of [needed, other]) await pool.ok('packages', 'pull', id, 'beta');
  });

  const segment = (host: string, id: string): string =>
    join(pool.testbed.outside(host, `/var/lib/vmferry/packages/${id}`), 'snapshot', '000000.seg');
  const damage = async (): Promise<string[]> =>
    (await pool.ok<Listed[]>('packages', 'list')).flatMap(({ id, copies }) =>
      copies.flatMap((copy) => (copy.damage ? [`${copy.damage.type} of ${id} on ${copy.host}`] : [])),
    );
  /** What the doctor finds, and its exit code. */
  const examined = async (): Promise<{ exitCode: number; found: string[]; advice: string[] }> => {
    const { exitCode, json } = await pool.cli('doctor');
    const { findings } = json as { findings: { type: string; host: string; packageId?: string; advice: string }[] };
    const found = findings.map(({ type, host, packageId }) => `${type} ${packageId} ${host}`).sort();
    return { exitCode, found, advice: findings.map(({ advice }) => advice) };
  };

  it('a scrub by the schedule finds them whole, and passes over a host whose worker is down', async () => {
    await pool.testbed.kill('beta', 'worker');
    const { exitCode, json } = await pool.cli('packages', 'scrub');
    await pool.testbed.start('beta', 'worker');
    assert.equal(exitCode, 5);
    const { hosts } = json as Scrubbed;
    assert.deepEqual(hosts[0], { host: 'alpha', verified: 2, damaged: 0, silent: null });
    assert.match(hosts[1]?.silent ?? '', /absent/);
    const whole = await pool.ok<Scrubbed>('packages', 'scrub');
    assert.deepEqual(
      whole.hosts.map(({ verified, silent }) => [verified, silent]),
      [
        [2, null],
        [2, null],
      ],
    );
    const copies = (await pool.ok<Listed[]>('packages', 'list')).flatMap((row) => row.copies);
    assert.ok(copies.every(({ verifiedAt }) => verifiedAt !== null));
  });

  it('f9: a flipped byte and a missing file are found, listed, and told by the doctor with what to do', async () => {
    const flipped = readFileSync(segment('alpha', needed));
    const middle = flipped.length >> 1;
    flipped[middle] = (flipped[middle] ?? 0) ^ 1;
    writeFileSync(segment('alpha', needed), flipped);
    rmSync(segment('beta', other));

    const { exitCode, json } = await pool.cli('packages', 'scrub');
    assert.equal(exitCode, 8);
    assert.deepEqual(
      (json as Scrubbed).hosts.map(({ verified, damaged }) => [verified, damaged]),
      [
        [2, 1],
        [2, 1],
      ],
    );
    const expected = [`SegmentDamaged of ${needed} on alpha`, `SegmentDamaged of ${other} on beta`].sort();
    assert.deepEqual((await damage()).sort(), expected);
    const { exitCode: doctor, found, advice } = await examined();
    assert.equal(doctor, 8);
    assert.deepEqual(found, [`neededPackageDamaged ${needed} alpha`, `packageDamaged ${other} beta`].sort());
    assert.ok(advice.some((one) => one.includes(`vmferry packages pull ${needed} alpha`)));
  });

  it('f11: a pull repairs each from the other host, and what it has repaired outlives a power loss', async () => {
    await pool.ok('packages', 'pull', needed, 'alpha');
    await pool.ok('packages', 'pull', other, 'beta');
    await pool.testbed.kill('beta', 'host');
    await pool.testbed.start('beta', 'host');
    assert.deepEqual(await damage(), []);
    for (const id of [needed, other]) {
      for (const host of ['alpha', 'beta']) await pool.ok('packages', 'verify', id, '--host', host);
    }
    assert.deepEqual((await examined()).found, []);
    assert.equal((await pool.cli('packages', 'scrub')).exitCode, 0);
  });

  it('the instance goes on from its repaired package', async () => {
    await pool.ok('instances', 'restore', 'kept');
    await pool.answers('alpha', guest);
    assert.equal((await pool.testbed.guestStatus('alpha', guest.ip)).token, token);
  });
});

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
  let guest: Guest;
  let observer: ConsoleObserver;
  let here = 'alpha';
  let there = 'beta';

  before(async () => {
    guest = await pool.spawn('alpha', 'retried');
    observer = new ConsoleObserver(pool.testbed, guest.id);
  });
  after(() => observer.stop());

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
