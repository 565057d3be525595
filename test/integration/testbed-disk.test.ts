/** A host's disk full, read-only, broken and without power, its clock wrong, and all of it undone together. */
import assert from 'node:assert/strict';
import {
  closeSync,
  existsSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  statfsSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Testbed } from '../../infra/testbed/testbed.ts';
import { connectsAgain, measure } from '../support/link-probes.ts';
import { cannotRun, Pool, type Guest } from '../support/pool.ts';
import { inhabitants, interfaceOf, traces } from '../support/traces.ts';

describe('a testbed with faults of disks and clocks', { skip: cannotRun }, () => {
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
  const state = (path: string): string => testbed.outside('alpha', `/var/lib/vmferry/${path}`);
  const guestState = async (): Promise<string> =>
    (await testbed.exec('alpha', ['virsh', '--quiet', 'domstate', '--reason', guest.id])).stdout.trim();

  it('sets a clock wrong for all that starts on a host, and right again', async () => {
    const ahead = async (host: string, command: readonly [string, ...string[]]): Promise<number> => {
      const { stdout } = await testbed.exec(host, command);
      return Math.round(Number(stdout) - Date.now() / 1000);
    };
    const date = ['date', '+%s.%N'] as const;
    const near = (value: number, expected: number): void =>
      assert.ok(Math.abs(value - expected) <= 5, `${value} s ahead, not ${expected}`);
    const libvirtd = pids('alpha', 'libvirtd');
    for (const seconds of [-3600, 3600]) {
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
    near(Math.round(((await testbed.guestStatus('alpha', late.ip)).wall - Date.now()) / 1000), 3600);
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

  it('has a disk that takes faults on this machine', () => {
    assert.equal(testbed.diskFaultless('alpha'), null);
  });

  it('fills a disk to the last block and gives it back', async () => {
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

  it('lets QEMU pause a guest that needs space, until somebody lets it go on', async () => {
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

  it('makes a disk read-only for all but what is open', async () => {
    await testbed.readOnly('alpha');
    await testbed.readOnly('alpha');
    assert.throws(() => writeFileSync(state('new'), 'x'), { code: 'EROFS' });
    assert.throws(() => renameSync(state('images'), state('pictures')), { code: 'EROFS' });
    assert.deepEqual(await testbed.guestGet('alpha', guest.ip, '/write?mib=2'), { mib: 2 });
    await testbed.fillDisk('beta');
    await testbed.readOnly('beta');
    await testbed.freeDisk('beta');
    await testbed.readWrite('alpha');
    await testbed.readWrite('alpha');
    writeFileSync(state('new'), 'x');
    await testbed.readWrite('beta');
    await testbed.fillDisk('beta');
    await testbed.kill('beta', 'host');
    await testbed.freeDisk('beta');
    await testbed.readWrite('beta');
    await testbed.start('beta', 'host');
    const { bavail, blocks } = statfsSync(testbed.outside('beta', '/var/lib/vmferry'));
    assert.ok(bavail > blocks / 2);
  });

  it('loses with the power what was not synced, and nothing that was', async () => {
    const folder = '/var/lib/vmferry/power';
    await testbed.exec('alpha', ['mkdir', folder]);
    await testbed.exec('alpha', ['sync', '--file-system', folder]);
    const [durable, records] = ['node:fs', join(import.meta.dirname, '../../activities/records/durable.ts')];
    await testbed.exec('alpha', [
      process.execPath,
      '--input-type=module',
      '-e',
      `
      import { renameSync, statfsSync, writeFileSync } from '${durable}';
      import { createOnce, makeDirectory, writeDurable } from '${records}';
      writeFileSync('${folder}/careless.new', 'whole');
      renameSync('${folder}/careless.new', '${folder}/careless');
      await writeDurable('${folder}/durable', 'whole');
      await createOnce('${folder}/once', 'whole');
      await makeDirectory('${folder}/one/two');
      writeFileSync('${folder}/last.new', 'whole');
      renameSync('${folder}/last.new', '${folder}/last');
    `,
    ]);
    // Somebody keeps a file of the old file system open; the boot is not to wait for him.
    const open = openSync(state('power/durable'), 'r');
    try {
      let look = '';
      const stop = testbed.beforePowerLoss((host) => {
        look = `${host} ${readFileSync(state('power/last'), 'utf8')}`;
      });
      const command = assert.rejects(testbed.exec('alpha', ['sleep', '60']), { type: 'CommandFailed' });
      await sleep(300);
      await testbed.kill('alpha', 'host');
      await command;
      stop();
      assert.equal(look, 'alpha whole', 'until the power goes all of it is there');
      assert.ok(!existsSync(state('power')), 'the disk of a host that is off cannot be seen');
      await testbed.start('alpha', 'host');
    } finally {
      closeSync(open);
    }
    const { last = '', ...found } = Object.fromEntries(
      readdirSync(state('power'), { withFileTypes: true }).map((entry) => [
        entry.name,
        entry.isDirectory() ? 'directory' : readFileSync(state(`power/${entry.name}`), 'utf8'),
      ]),
    );
    // What was synced later has taken a name along, not the content: that of the careless file always, that of the
    // last one where the guest or libvirt happened to sync something of theirs.
    assert.deepEqual(found, { careless: '', durable: 'whole', once: 'whole', one: 'directory' });
    assert.equal(last, '');
    assert.ok(existsSync(state('power/one/two')));
    await pool.addImage('alpha');
  });

  it('lets a disk fail, and repairs it by a reboot', async () => {
    const { id, ip } = await pool.spawn('alpha', 'unlucky');
    await testbed.failDisk('alpha');
    await testbed.failDisk('alpha');
    assert.throws(() => writeFileSync(state('new'), 'x'), { code: 'EROFS' });
    await assert.rejects(testbed.guestGet('alpha', ip, '/write?mib=2'), /error/);
    await testbed.readWrite('alpha');
    writeFileSync(state('new'), 'x');
    assert.ok(existsSync(state(`instances/${id}`)));
  });

  it('heals whatever there was together', async () => {
    const expectService = async (): Promise<void> => {
      assert.deepEqual(
        testbed.status().filter((part) => (part.pid === null) !== (part.what === 'second-worker') || part.frozen),
        [],
      );
      await connectsAgain(testbed, 'alpha', 'beta');
      await connectsAgain(testbed, 'beta', 'wan');
      assert.ok((await measure(testbed, 'alpha', 'beta', 5_000_000)) > 30);
      const apart = Number((await testbed.exec('alpha', ['date', '+%s'])).stdout) - Date.now() / 1000;
      assert.ok(Math.abs(apart) < 5);
      for (const host of testbed.hosts) {
        writeFileSync(testbed.outside(host, '/var/lib/vmferry/healed'), Buffer.alloc(1_000_000));
        await pool.addImage(host);
      }
    };
    await testbed.heal();
    assert.deepEqual(await testbed.heal(), []);

    await testbed.start('alpha', 'second-worker');
    await testbed.freeze('alpha', 'worker');
    await testbed.skewClock('alpha', 3600);
    await testbed.fillDisk('alpha');
    await testbed.readOnly('alpha');
    await testbed.freeze('alpha', 'host');
    await testbed.cut('alpha', { way: 'send' });
    await testbed.cut('alpha', { from: 'beta' });
    await testbed.rate('alpha', '1mbit', 'beta');
    await testbed.rate('beta', '1mbit');
    await testbed.cut('beta');
    await testbed.fillDisk('beta', 1000);
    await testbed.failDisk('beta');
    await testbed.kill('beta', 'libvirtd');
    await testbed.freeze('control', 'temporal');
    await testbed.kill('control', 'worker');
    await testbed.freeze('control', 'postgres');
    const did = await testbed.heal();
    for (const part of [
      'thawed alpha',
      'cable of beta',
      'repaired the disk of beta',
      'clock of alpha',
      'second worker',
    ]) {
      assert.ok(
        did.some((line) => line.includes(part)),
        `${part} is not in: ${did.join('; ')}`,
      );
    }
    await expectService();

    await testbed.kill('alpha', 'host');
    await testbed.kill('control', 'temporal');
    await testbed.kill('beta', 'worker');
    await testbed.freeze('beta', 'libvirtd');
    await testbed.heal();
    await expectService();
    assert.deepEqual(await testbed.heal(), []);
  });

  it('leaves nothing after down, whatever there is', async () => {
    await testbed.start('alpha', 'second-worker');
    await testbed.freeze('alpha', 'host');
    await testbed.fillDisk('beta');
    await testbed.readOnly('beta');
    await testbed.freeze('control', 'postgres');
    await testbed.cut('beta', { way: 'receive' });
    const processes = inhabitants(testbed);
    assert.ok(processes.size >= 8);
    await pool.down();
    assert.deepEqual(await traces(testbed.directory, [interfaceOf(testbed)], processes), []);
  });
});
