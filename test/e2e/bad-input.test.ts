import assert from 'node:assert/strict';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { cannotRun, Pool, type Guest, type Outcome } from '../support/pool.ts';

describe('what the user got wrong costs one sentence and changes nothing', { skip: cannotRun }, () => {
  let pool: Pool;
  let guest: Guest;

  before(async () => {
    pool = await Pool.up();
    guest = await pool.spawn('alpha', 'untouched');
  });
  after(() => pool.down());

  /** One error object on standard error, of one line, without a stack; and the world as it was. */
  const refused = async (exitCode: number, type: string, names: string, run: () => Promise<Outcome>): Promise<void> => {
    const world = (): Promise<unknown[]> =>
      Promise.all([pool.ok('list'), pool.ok('packages', 'list'), pool.whereabouts(guest)]);
    const before = await world();
    const outcome = await run();
    assert.equal(outcome.exitCode, exitCode, outcome.stderr);
    assert.equal(outcome.json, undefined, 'nothing is printed as a result');
    const error = JSON.parse(outcome.stderr.trim().split('\n').at(-1) ?? '') as { type: string; message: string };
    assert.equal(error.type, type);
    assert.match(error.message, /^[^\n]+\.$/, 'one sentence');
    assert.ok(error.message.includes(names), `“${error.message}” names ${names}`);
    assert.doesNotMatch(outcome.stderr, /\n\s+at /, 'no stack');
    assert.deepEqual(await world(), before);
  };

  it('an unknown instance', () =>
    refused(3, 'InstanceNotFound', 'nobody', () => pool.cli('instances', 'migrate', 'nobody', 'beta')));

  it('an unknown host', () =>
    refused(3, 'HostNotFound', 'omega', () => pool.cli('instances', 'migrate', guest.id, 'omega')));

  it('the host where it is already', () =>
    refused(2, 'SameHost', 'alpha', () => pool.cli('instances', 'migrate', guest.id, 'alpha')));

  it('a missing image file', () =>
    refused(3, 'FileNotFound', '/no/such.qcow2', () => pool.cli('images', 'add', '/no/such.qcow2', '--host', 'alpha')));

  it('a malformed profile', async () => {
    const broken = join(pool.testbed.directory, 'broken.toml');
    await writeFile(broken, '[vmferry\n');
    await refused(2, 'ProfileInvalid', broken, () => pool.cli('--profile', broken, 'list'));
  });

  it('a server that is down', async () => {
    await pool.testbed.kill('control', 'temporal');
    const outcome = await pool.cli('instances', 'migrate', guest.id, 'beta');
    await pool.testbed.start('control', 'temporal');
    assert.equal(outcome.exitCode, 5, outcome.stderr);
    assert.match(outcome.stderr, /ServerUnreachable/);
    assert.doesNotMatch(outcome.stderr, /\n\s+at /);
    assert.deepEqual((await pool.whereabouts(guest)).runningOn, ['alpha']);
  });
});
