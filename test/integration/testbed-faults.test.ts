/** The faults that a testbed can inject: each is shown to bite, and to be undone. */
import assert from 'node:assert/strict';
import { closeSync, existsSync, openSync, readdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
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

describe('the faults of a testbed', { skip: cannotRun }, () => {
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
    await testbed.freeze('alpha', 'host');
    assert.deepEqual(['host', 'worker', 'libvirtd', 'qemu'].flatMap((what) => pids('alpha', what)).flatMap(moving), []);
    await testbed.thaw('alpha', 'host');
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
    const { disk } = testbed.imagePaths;
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
    await pool.ok('images', 'add', disk, '--host', 'alpha');
    await testbed.thaw('alpha', 'worker');
    await testbed.kill('alpha', 'second-worker');
    assert.equal(pids('alpha', 'second-worker').length, 0);
    assert.ok(await serves());
    await pool.ok('images', 'add', disk, '--host', 'alpha');
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

  it('sets a clock wrong for all that starts on a host, and right again', async () => {
    const ahead = async (host: string, command: readonly [string, ...string[]]): Promise<number> => {
      const { stdout } = await testbed.exec(host, command);
      return Math.round(Number(stdout) - Date.now() / 1000);
    };
    const date = ['date', '+%s.%N'] as const;
    const near = (value: number, expected: number): void =>
      assert.ok(Math.abs(value - expected) <= 5, `${value} s ahead, not ${expected}`);
    const libvirtd = pids('alpha', 'libvirtd');
    for (const seconds of [3600, -3600]) {
      await testbed.skewClock('alpha', seconds);
      near(await ahead('alpha', date), seconds);
      near(await ahead('alpha', [process.execPath, '-p', 'Date.now() / 1000']), seconds);
      near(await ahead('beta', date), 0);
      const started = performance.now();
      await testbed.exec('alpha', ['timeout', '10', process.execPath, '-e', 'setTimeout(() => {}, 300)']);
      assert.ok(performance.now() - started < 5000, 'a time limit is what it was');
    }
    assert.notDeepEqual(pids('alpha', 'libvirtd'), libvirtd);
    const late = await pool.spawn('alpha', 'late');
    near(Math.round(((await testbed.guestStatus('alpha', late.ip)).wall - Date.now()) / 1000), -3600);
    near(Math.round(((await testbed.guestStatus('alpha', guest.ip)).wall - Date.now()) / 1000), 0);
    await testbed.kill('alpha', 'worker');
    await testbed.start('alpha', 'worker');
    const [worker] = pids('alpha', 'worker');
    assert.match(readFileSync(`/proc/${worker}/maps`, 'utf8'), /clock\.so/, 'a worker that starts later has it too');
    await testbed.skewClock('alpha', 0);
    await testbed.skewClock('alpha', 0);
    near(await ahead('alpha', date), 0);
    assert.doesNotMatch(readFileSync(`/proc/${pids('alpha', 'worker')[0]}/maps`, 'utf8'), /clock\.so/);
    await assert.rejects(testbed.skewClock('alpha', 0.5), { type: 'InvalidInput' });
    await pool.ok('instances', 'delete', late.id, '--yes');
  });

  describe('of the disk', () => {
    const state = (path: string): string => testbed.outside('alpha', `/var/lib/vmferry/${path}`);
    const node = (script: string): Promise<unknown> =>
      testbed.exec('alpha', [process.execPath, '--input-type=module', '-e', script]);
    const guestState = async (): Promise<string> =>
      (await testbed.exec('alpha', ['virsh', '--quiet', 'domstate', '--reason', guest.id])).stdout.trim();

    it('are possible on this machine', () => {
      assert.equal(testbed.diskFaultless('alpha'), null);
    });

    it('fill it to the last block and give it back', async () => {
      await testbed.fillDisk('alpha');
      assert.throws(() => writeFileSync(state('new'), 'x'), { code: 'ENOSPC' });
      await testbed.fillDisk('alpha', 1_000_000);
      writeFileSync(state('new'), Buffer.alloc(900_000));
      assert.throws(() => writeFileSync(state('newer'), Buffer.alloc(200_000)), { code: 'ENOSPC' });
      await testbed.freeDisk('alpha');
      await testbed.freeDisk('alpha');
      writeFileSync(state('newer'), Buffer.alloc(2_000_000));
      await testbed.exec('alpha', ['rm', '/var/lib/vmferry/new', '/var/lib/vmferry/newer']);
    });

    it('pause a guest that needs space, until somebody lets it go on', async () => {
      await testbed.fillDisk('alpha');
      const writing = testbed.guestGet('alpha', guest.ip, '/write?mib=16');
      for (const deadline = Date.now() + 30_000; (await guestState()) !== 'paused (I/O error)'; await sleep(100)) {
        assert.ok(Date.now() < deadline, 'the guest runs on');
      }
      await testbed.freeDisk('alpha');
      assert.equal(await guestState(), 'paused (I/O error)');
      await testbed.exec('alpha', ['virsh', '--quiet', 'resume', guest.id]);
      assert.deepEqual(await writing, { mib: 16 });
      const { gaps, torn } = await testbed.guestDiskCheck('alpha', guest.ip);
      assert.deepEqual({ gaps, torn }, { gaps: 0, torn: 0 });
    });

    it('make it read-only for all but what is open', async () => {
      await testbed.readOnly('alpha');
      await testbed.readOnly('alpha');
      assert.throws(() => writeFileSync(state('new'), 'x'), { code: 'EROFS' });
      assert.throws(() => renameSync(state('images'), state('pictures')), { code: 'EROFS' });
      assert.deepEqual(await testbed.guestGet('alpha', guest.ip, '/write?mib=2'), { mib: 2 });
      await testbed.readWrite('alpha');
      await testbed.readWrite('alpha');
      writeFileSync(state('new'), 'x');
    });

    it('lose what was not synced with the power, and nothing that was', async () => {
      const folder = '/var/lib/vmferry/power';
      await testbed.exec('alpha', ['mkdir', folder]);
      await testbed.exec('alpha', ['sync', '--file-system', folder]);
      const [durable, records] = ['node:fs', join(import.meta.dirname, '../../activities/records/durable.ts')];
      await node(`
        import { renameSync, writeFileSync } from '${durable}';
        import { createOnce, makeDirectory, writeDurable } from '${records}';
        writeFileSync('${folder}/careless.new', 'whole');
        renameSync('${folder}/careless.new', '${folder}/careless');
        await writeDurable('${folder}/durable', 'whole');
        await createOnce('${folder}/once', 'whole');
        await makeDirectory('${folder}/one/two');
        writeFileSync('${folder}/last.new', 'whole');
        renameSync('${folder}/last.new', '${folder}/last');
      `);
      // Somebody keeps a file of the old file system open; the boot is not to wait for him.
      const open = openSync(state('power/durable'), 'r');
      let look = '';
      const stop = testbed.beforePowerLoss((host) => (look = `${host} ${readFileSync(state('power/last'), 'utf8')}`));
      await testbed.kill('alpha', 'host');
      stop();
      assert.equal(look, 'alpha whole', 'until the power goes all of it is there');
      assert.ok(!existsSync(state('power')), 'the disk of a host that is off cannot be seen');
      await testbed.start('alpha', 'host');
      const found = Object.fromEntries(
        readdirSync(state('power'), { withFileTypes: true }).map((entry) => [
          entry.name,
          entry.isDirectory() ? 'directory' : readFileSync(state(`power/${entry.name}`), 'utf8'),
        ]),
      );
      // What was synced later has taken its name along, not its content.
      assert.deepEqual(found, { careless: '', durable: 'whole', once: 'whole', one: 'directory' });
      assert.ok(existsSync(state('power/one/two')));
      closeSync(open);
      await pool.ok('images', 'add', testbed.imagePaths.disk, '--host', 'alpha');
    });

    it('fail and are repaired by a reboot', async () => {
      const { id, ip } = await pool.spawn('alpha', 'unlucky');
      await testbed.failDisk('alpha');
      await testbed.failDisk('alpha');
      assert.throws(() => writeFileSync(state('new'), 'x'), { code: 'EROFS' });
      await assert.rejects(testbed.guestGet('alpha', ip, '/write?mib=2'), /error/);
      await testbed.readWrite('alpha');
      writeFileSync(state('new'), 'x');
      assert.ok(existsSync(state(`instances/${id}`)));
    });
  });
});
