/** Frozen processes, a second worker, and links that lose or slow what they carry: each is shown to bite, and to be undone. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { after, before, describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Testbed } from '../../infra/testbed/testbed.ts';
import { connects, connectsAgain, hears, measure } from '../support/link-probes.ts';
import { cannotRun, Pool, type Guest } from '../support/pool.ts';

const STATES = ['worker', 'libvirtd', 'qemu'] as const;
const CONTROL = ['worker', 'temporal', 'postgres'] as const;

/** Threads of a process that are not stopped. */
const moving = (pid: number): string[] =>
  /^State:\s+T/m.test(readFileSync(`/proc/${pid}/status`, 'utf8')) ? [] : [`${pid}`];

describe('a testbed with faults of processes and links', { skip: cannotRun }, () => {
  let pool: Pool;
  let testbed: Testbed;
  let guest: Guest;
  before(async () => {
    pool = await Pool.up();
    ({ testbed } = pool);
    guest = await pool.spawn('alpha', 'victim');
  });
  after(() => pool.down());

  const pids = (where: string, what: string): number[] =>
    testbed
      .status()
      .flatMap((part) => (part.where === where && part.what === what && part.pid !== null ? [part.pid] : []));

  it('freezes and thaws each daemon and the guests', async () => {
    for (const [where, what] of [
      ...STATES.map((what) => ['alpha', what] as const),
      ...CONTROL.map((what) => ['control', what] as const),
    ]) {
      const states = (): boolean[] =>
        testbed.status().flatMap((part) => (part.where === where && part.what === what ? [part.frozen] : []));
      await testbed.freeze(where, what);
      await testbed.freeze(where, what);
      assert.deepEqual(states(), [true], `${where} ${what}`);
      assert.deepEqual(pids(where, what).flatMap(moving), []);
      await testbed.thaw(where, what);
      await testbed.thaw(where, what);
      assert.deepEqual(states(), [false], `${where} ${what}`);
    }
    // All of it serves again.
    await pool.ok('instances', 'list');
    await testbed.exec('alpha', ['virsh', 'version']);
    await testbed.guestStatus('alpha', guest.ip);
  });

  it('freezes all processes of PostgreSQL, not the one alone that listens', async () => {
    const [postmaster] = pids('control', 'postgres');
    const children = readFileSync(`/proc/${postmaster}/task/${postmaster}/children`, 'utf8')
      .trim()
      .split(' ')
      .map(Number);
    assert.ok(children.length > 3);
    await testbed.freeze('control', 'postgres');
    assert.deepEqual(children.flatMap(moving), []);
    await testbed.thaw('control', 'postgres');
    assert.deepEqual(children.flatMap(moving), children.map(String));
  });

  it('freezes one guest', async () => {
    const begin = await testbed.guestStatus('alpha', guest.ip);
    await testbed.freeze('alpha', `qemu:${guest.id}`);
    await assert.rejects(testbed.guestStatus('alpha', guest.ip), { type: 'CommandFailed' });
    await testbed.thaw('alpha', 'qemu:victim');
    const end = await testbed.guestStatus('alpha', guest.ip);
    assert.ok(end.counter - begin.counter < 50, `it counted ${end.counter - begin.counter} meanwhile`);
    for (const fault of [testbed.kill('alpha', 'qemu:nobody'), testbed.freeze('alpha', 'qemu:nobody')]) {
      await assert.rejects(fault, { type: 'InstanceNotFound' });
    }
    await testbed.thaw('alpha', 'qemu:nobody');
  });

  it('freezes a whole host', async () => {
    const command = testbed.exec('alpha', ['bash', '-c', 'echo begun; sleep 1; echo ended']);
    await sleep(300);
    await testbed.freeze('alpha', 'host');
    assert.deepEqual(['host', 'worker', 'libvirtd', 'qemu'].flatMap((what) => pids('alpha', what)).flatMap(moving), []);
    await testbed.thaw('alpha', 'host');
    assert.equal((await command).stdout, 'begun\nended', 'whoever waits for a frozen command goes on with it');
    await testbed.guestStatus('alpha', guest.ip);
  });

  it('kills and starts again what is frozen', async () => {
    for (const [where, what, signal] of [
      ['alpha', 'worker', 'SIGKILL'],
      ['alpha', 'libvirtd', 'SIGTERM'],
      ['control', 'worker', 'SIGTERM'],
      ['control', 'temporal', 'SIGKILL'],
      ['control', 'postgres', 'SIGKILL'],
    ] as const) {
      await testbed.freeze(where, what);
      const [old] = pids(where, what);
      await testbed.kill(where, what, signal);
      assert.deepEqual(pids(where, what), [], `${where} ${what}`);
      await testbed.start(where, what);
      assert.notEqual(pids(where, what)[0], old);
    }
    await pool.ok('instances', 'list');
    await assert.rejects(testbed.kill('alpha', 'worker', 'SIGSTOP'), { type: 'InvalidInput' });
  });

  it('runs a second worker beside a frozen one', async () => {
    await testbed.kill('alpha', 'second-worker'); // nothing to do
    await testbed.freeze('alpha', 'worker');
    const serves = async (): Promise<boolean> => {
      const hello = ['timeout', '5', 'openssl', 's_client', '-connect', 'alpha:7443'] as const;
      const { stdout } = await testbed.exec('beta', hello, { okExitCodes: [0, 1, 124] });
      return stdout.includes('BEGIN CERTIFICATE');
    };
    assert.ok(!(await serves()));
    await testbed.start('alpha', 'second-worker');
    await testbed.start('alpha', 'second-worker');
    assert.equal(pids('alpha', 'second-worker').length, 1);
    assert.ok(await serves());
    await pool.addImage('alpha');
    await testbed.thaw('alpha', 'worker');
    await testbed.kill('alpha', 'second-worker');
    assert.equal(pids('alpha', 'second-worker').length, 0);
    assert.ok(await serves());
    await pool.addImage('alpha');
  });

  it('loses what a host sends, or what it would receive', async () => {
    for (const [way, sends, receives] of [
      ['send', false, true],
      ['receive', true, false],
    ] as const) {
      // Without a word between them they would not know each other’s cards.
      assert.ok((await connects(testbed, 'alpha', 'beta')) && (await connects(testbed, 'alpha', 'wan')));
      await testbed.cut('alpha', { way });
      assert.equal(await hears(testbed, 'alpha', 'beta'), sends, `alpha without ${way} sends`);
      assert.equal(await hears(testbed, 'beta', 'alpha'), receives, `alpha without ${way} receives`);
      assert.equal(await hears(testbed, 'alpha', 'wan'), sends);
      await testbed.join('alpha');
      await connectsAgain(testbed, 'alpha', 'beta');
    }
  });

  it('cuts two parties off from each other and from nobody else', async () => {
    const reached = async (): Promise<boolean[]> => [
      await connects(testbed, 'alpha', 'beta'),
      await connects(testbed, 'beta', 'alpha'),
      await connects(testbed, 'alpha', 'wan'),
      await connects(testbed, 'beta', 'wan'),
    ];
    await testbed.cut('alpha', { from: 'beta' });
    assert.deepEqual(await reached(), [false, false, true, true]);
    await testbed.join('beta', 'temporal'); // another pair
    await testbed.join('beta', 'alpha');
    await connectsAgain(testbed, 'alpha', 'beta');
    await testbed.cut('alpha', { from: 'temporal' });
    assert.deepEqual(await reached(), [true, true, false, true]);
    await testbed.join('alpha');
    await testbed.join('alpha');
    await connectsAgain(testbed, 'alpha', 'wan');
    await assert.rejects(testbed.cut('alpha', { from: 'omega' }), { type: 'HostNotFound' });
  });

  it('slows what goes between two hosts, both ways, and nothing else', async () => {
    await testbed.rate('alpha', '20mbit', 'beta');
    for (const [from, to] of [
      ['alpha', 'beta'],
      ['beta', 'alpha'],
    ] as const) {
      const rate = await measure(testbed, from, to, 2_500_000);
      assert.ok(rate > 12 && rate < 23, `${from} to ${to}: ${rate} Mbit/s`);
    }
    assert.ok((await measure(testbed, 'alpha', 'wan', 5_000_000)) > 40);
    assert.ok((await measure(testbed, 'wan', 'alpha', 5_000_000)) > 40);
    await testbed.rate('beta', '10mbit');
    const slower = await measure(testbed, 'alpha', 'beta', 1_250_000);
    assert.ok(slower > 6 && slower < 12, `the slower of two limits holds: ${slower} Mbit/s`);
    await testbed.rate('beta', 'none');
    await testbed.rate('beta', 'none', 'alpha');
    assert.ok((await measure(testbed, 'alpha', 'beta', 5_000_000)) > 40);
  });

  it('lets a link flap, and leaves it joined', async () => {
    await testbed.cut('alpha', { from: 'temporal' });
    const begun = performance.now();
    const flapping = testbed.flap('alpha', { cycles: 3, down: 700, up: 500 });
    await sleep(250);
    assert.ok(!(await connects(testbed, 'alpha', 'beta', 0.3)));
    await flapping;
    assert.ok(performance.now() - begun >= 3600);
    await connectsAgain(testbed, 'alpha', 'beta');
    await connectsAgain(testbed, 'alpha', 'wan');
  });
});
