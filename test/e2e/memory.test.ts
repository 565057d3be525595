import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { after, before, describe, it } from 'node:test';
import { cannotRun, Pool, type Guest } from '../support/pool.ts';

/** The most memory that a process ever had resident, in bytes. */
function peakMemory(pid: number): number {
  const kilobytes = /^VmHWM:\s+([0-9]+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1];
  return Number(kilobytes) * 1024;
}

describe('a worker’s memory does not grow with the guest', { skip: cannotRun }, () => {
  let pool: Pool;
  let guest: Guest;

  before(async () => {
    pool = await Pool.up();
    guest = await pool.spawn('alpha', 'large', ['--memory', '2GiB']);
  });
  after(() => pool.down());

  it('f34: stays below 300 MB while a guest of 2 GiB moves', async () => {
    await pool.testbed.guestGet('alpha', guest.ip, '/fill?mib=1200');
    await pool.ok('instances', 'migrate', guest.id, 'beta');
    const peaks = pool.testbed
      .status()
      .flatMap(({ where, what, pid }) =>
        what === 'worker' && pid !== null ? [{ where, bytes: peakMemory(pid) }] : [],
      );
    for (const { where, bytes } of peaks) console.log(`worker of ${where}: ${Math.round(bytes / 1e6)} MB at most`);
    assert.equal(peaks.length, 3);
    assert.deepEqual(
      peaks.filter(({ bytes }) => bytes >= 300_000_000),
      [],
    );
    assert.deepEqual(await pool.violations(guest, 'beta'), []);
  });
});
