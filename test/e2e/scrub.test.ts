import assert from 'node:assert/strict';
import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { cannotRun, Pool, type Guest } from '../support/pool.ts';

interface Listed {
  id: string;
  copies: { host: string; verifiedAt: string | null; damage: { type: string } | null }[];
}
interface Scrubbed {
  hosts: { host: string; verified: number; damaged: number; silent: string | null }[];
}

describe('packages are verified before they are needed', { skip: cannotRun }, () => {
  let pool: Pool;
  let guest: Guest;
  let token: string;
  /** Of the guest, needed on alpha; and of another one. Each has a copy on beta. */
  let needed: string;
  let other: string;

  before(async () => {
    pool = await Pool.up();
    guest = await pool.spawn('alpha', 'kept');
    ({ token } = await pool.testbed.guestStatus('alpha', guest.ip));
    ({ packageId: needed } = await pool.ok<{ packageId: string }>('instances', 'save', 'kept'));
    const second = await pool.spawn('alpha', 'other');
    ({ packageId: other } = await pool.ok<{ packageId: string }>('instances', 'save', second.id));
    for (const id of [needed, other]) await pool.ok('packages', 'pull', id, 'beta');
  });
  after(() => pool.down());

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
