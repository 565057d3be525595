/** One testbed for what a single move shows: it goes on, nobody sees it, and what the user got wrong begins none. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { createReadStream } from 'node:fs';
import { readdir, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { ConsoleObserver } from '../support/console-observer.ts';
import { cannotRun, Pool, type Guest, type Outcome } from '../support/pool.ts';
import type { MoveResult } from '../../workflows/contract.ts';

const CLIENT = new URL('../../client/main.ts', import.meta.url).pathname;

let pool: Pool;
if (cannotRun === false) {
  before(async () => {
    pool = await Pool.up();
  });
  after(() => pool.down());
}

describe('a running VM moves from alpha to beta', { skip: cannotRun }, () => {
  let guest: Guest;
  let observer: ConsoleObserver;

  before(async () => {
    guest = await pool.spawn('alpha', 'mover');
    observer = new ConsoleObserver(pool.testbed, guest.id);
  });
  after(() => observer.stop());

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

/** Does the file hold the text anywhere? */
async function holds(path: string, text: string): Promise<boolean> {
  let rest = '';
  for await (const chunk of createReadStream(path, { encoding: 'latin1', highWaterMark: 1024 * 1024 })) {
    const part = rest + String(chunk);
    if (part.includes(text)) return true;
    rest = part.slice(-text.length);
  }
  return false;
}

async function filesThatHold(folder: string, text: string): Promise<string[]> {
  const found: string[] = [];
  for (const entry of await readdir(folder, { recursive: true, withFileTypes: true })) {
    const path = join(entry.parentPath, entry.name);
    if (entry.isFile() && (await holds(path, text))) found.push(path);
  }
  return found;
}

describe('nobody but the two hosts sees the guest', { skip: cannotRun }, () => {
  let guest: Guest;

  before(async () => {
    guest = await pool.spawn('alpha', 'secretive');
  });

  it('f32: leaves no trace of a marker in RAM and on disk in Temporal, in the catalog or on the wire', async () => {
    const marker = `marker-${randomBytes(16).toString('hex')}`;
    await pool.testbed.guestGet('alpha', guest.ip, `/marker?text=${marker}`);
    const capture = join(pool.testbed.directory, 'wire.pcap');
    // Everything that beta gets or sends passes its port of the bridge.
    const listen = ['tcpdump', '-i', 'beta', '-s', '0', '-U', '-Z', 'root', '-w', capture] as const;
    const [program, ...args] = pool.testbed.enter('wan', listen);
    const tcpdump = spawn(program, args, { stdio: ['ignore', 'ignore', 'pipe'] });
    await once(tcpdump.stderr, 'data'); // it says that it listens

    const held = await pool.hold('alpha', 'buildPackage', 'after');
    const move = pool.cli('instances', 'migrate', guest.id, 'beta');
    await held.reached();
    // The search must be able to find it: the save file on alpha holds it in clear.
    const moves = pool.testbed.outside('alpha', '/var/lib/vmferry/moves');
    assert.ok((await filesThatHold(moves, marker)).some((path) => path.endsWith('/snapshot')));
    await held.release();
    assert.equal((await move).exitCode, 0);
    await sleep(500);
    tcpdump.kill('SIGINT');
    await once(tcpdump, 'exit');

    assert.ok((await stat(capture)).size > 10_000_000, 'the capture holds the move');
    assert.ok(!(await holds(capture, marker)), 'the wire carries no clear text');
    for (const part of ['temporal', 'postgres']) {
      const folder = join(pool.testbed.directory, part);
      assert.ok((await readdir(folder)).length > 0, `${folder} is where ${part} keeps its data`);
      assert.deepEqual(await filesThatHold(folder, marker), []);
    }
    // Sealed packages too are ciphertext.
    for (const host of ['alpha', 'beta']) {
      assert.deepEqual(await filesThatHold(pool.testbed.outside(host, '/var/lib/vmferry/packages'), marker), []);
    }
    const kept = await pool.testbed.guestGet('beta', guest.ip, '/marker');
    assert.deepEqual(kept, { ram: marker, disk: marker }, 'the guest still has it, in RAM and on its disk');
  });
});

describe('what the user got wrong costs one sentence and changes nothing', { skip: cannotRun }, () => {
  let guest: Guest;

  before(async () => {
    guest = await pool.spawn('alpha', 'untouched');
  });

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
