/**
 * Failures that other movers of VMs are known for (docs/known-failures.md), each as its reporters met it, on real hosts:
 * one pool, two guests, one row after the other. Each test leaves its guest running on `here`.
 */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { readdirSync, readFileSync } from 'node:fs';
import { mkdir, open, readdir, rm, stat, writeFile } from 'node:fs/promises';
import { dirname, join, relative } from 'node:path';
import { after, afterEach, before, beforeEach, describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import type { MoveProgress, MoveResult } from '../../workflows/contract.ts';
import { workflowId } from '../../workflows/contract.ts';
import { ConsoleObserver } from '../support/console-observer.ts';
import { cannotRun, Pool, type Guest, type Outcome } from '../support/pool.ts';
import { RogueOrchestrator } from '../support/rogue-orchestrator.ts';

const CLIENT = new URL('../../client/main.ts', import.meta.url).pathname;
const STATE = '/var/lib/vmferry';
/** Seconds until a step is reached, even where many share two cores. */
const REACH = 240;

describe('what other movers of VMs are known to get wrong', { skip: cannotRun }, () => {
  let pool: Pool;
  let guest: Guest;
  let bystander: Guest;
  let rogue: RogueOrchestrator;
  /** Lives in the guest's RAM only. */
  let token: string;
  let observer: ConsoleObserver | undefined;
  let here = 'alpha';
  let there = 'beta';
  /** Of the last move that came to its end. */
  let lastPackage: string;

  before(async () => {
    pool = await Pool.up();
    guest = await pool.spawn('alpha', 'subject');
    bystander = await pool.spawn('beta', 'bystander');
    rogue = await RogueOrchestrator.start(pool.testbed.temporalAddress);
    ({ token } = await pool.testbed.guestStatus('alpha', guest.ip));
  });
  beforeEach(async () => {
    // A row that failed may have left the guest on either host.
    const { host } = await pool.ok<{ host: string }>('instances', 'show', guest.id);
    [here, there] = host === 'alpha' ? ['alpha', 'beta'] : ['beta', 'alpha'];
  });
  afterEach(async () => {
    observer?.stop();
    observer = undefined;
    // What a row that failed has not taken back would hold up the next one.
    for (const host of pool.testbed.hosts) {
      await rm(pool.testbed.outside(host, '/var/lib/vmferry-faults'), { recursive: true, force: true });
    }
  });
  after(async () => {
    await rogue.stop();
    await pool.down();
  });

  const state = (host: string, path = ''): string => pool.testbed.outside(host, join(STATE, path));
  const virsh = async (host: string, ...args: string[]): Promise<string> =>
    (await pool.testbed.exec(host, ['virsh', '-q', ...args])).stdout.trim();
  const migrate = (...options: string[]): Promise<Outcome> =>
    pool.cli('instances', 'migrate', guest.id, there, ...options);
  const progress = (): Promise<MoveProgress> => pool.ok<MoveProgress>('moves', 'show', guest.id);
  const runningOn = async (): Promise<string[]> => (await pool.whereabouts(guest)).runningOn;

  async function until(what: string, be: () => Promise<boolean>, seconds = REACH): Promise<void> {
    for (const deadline = Date.now() + seconds * 1000; !(await be()); await sleep(200)) {
      assert.ok(Date.now() < deadline, `${what}: not within ${seconds} s`);
    }
  }

  /** The guest lives on, on this host alone, with its RAM and a whole disk; nothing of the move is left. */
  async function unharmed(owner: string): Promise<void> {
    await pool.answers(owner, guest);
    assert.equal((await pool.testbed.guestStatus(owner, guest.ip)).token, token);
    // What a host could not be told while it was away it is told soon after it is back.
    let found: string[] = [];
    for (let tries = 0; tries < 30; tries++) {
      found = await pool.violations(guest, owner);
      if (found.length === 0) return;
      await sleep(1000);
    }
    assert.deepEqual(found, []);
  }
  /** All files of a host's worker. */
  const files = (host: string): string[] =>
    readdirSync(state(host), { recursive: true, withFileTypes: true })
      .filter((entry) => entry.isFile())
      .map((entry) => relative(state(host), join(entry.parentPath, entry.name)));
  const swap = (): void => void ([here, there] = [there, here]);
  async function moved({ exitCode, stderr, json }: Outcome): Promise<void> {
    assert.equal(exitCode, 0, stderr);
    lastPackage = (json as MoveResult).packageId;
    await unharmed(there);
    swap();
  }
  async function returned({ exitCode, stderr }: Outcome, because: RegExp): Promise<void> {
    assert.equal(exitCode, 9, stderr);
    assert.match(stderr, because);
    await unharmed(here);
  }

  it('f14: a domain with the name or the UUID of the guest is found at the destination before the guest stops', async () => {
    const stranger = (name: string, uuid: string): string =>
      `<domain type="qemu"><name>${name}</name><uuid>${uuid}</uuid><memory unit="MiB">16</memory>` +
      `<os><type arch="x86_64" machine="q35">hvm</type></os></domain>`;
    const another = '5b0f1f4e-6d5c-4a53-9d0e-3f0c6a0b7d11';
    const cases: [name: string, uuid: string, make: string[], state: string][] = [
      ['subject', another, ['define'], 'shut off'],
      ['stranger', guest.id, ['define'], 'shut off'],
      ['stranger', guest.id, ['create', '--paused'], 'paused'],
      ['stranger', guest.id, ['create'], 'running'],
    ];
    const packages = await pool.ok('packages', 'list');
    for (const [name, uuid, make, made] of cases) {
      const [verb = '', ...flags] = make;
      await writeFile(pool.testbed.outside(there, '/var/lib/stranger.xml'), stranger(name, uuid));
      await virsh(there, verb, '/var/lib/stranger.xml', ...flags);
      const { counter } = await pool.testbed.guestStatus(here, guest.ip);
      const { exitCode, stderr } = await migrate('--retry-window', '5');
      assert.equal(exitCode, 4, stderr);
      assert.match(stderr, /AlreadyExists/);
      assert.equal(await virsh(there, 'domstate', uuid), made, `the ${made} domain of another is as it was`);
      assert.deepEqual(await runningOn(), made === 'running' ? [here, there].sort() : [here]);
      assert.ok((await pool.testbed.guestStatus(here, guest.ip)).counter > counter, 'the guest never stopped');
      await virsh(there, verb === 'define' ? 'undefine' : 'destroy', uuid);
    }
    assert.deepEqual(await pool.ok('packages', 'list'), packages);
    await unharmed(here);
  });

  it('f20: a base image stays while a guest needs it, by the word of the catalog and by each host’s own look', async () => {
    const [image] = await pool.ok<{ id: string }[]>('images', 'list');
    assert.ok(image);
    const kept = (host: string): string => state(host, `images/${image.id}/disk.img`);
    const { exitCode, stderr } = await pool.cli('images', 'delete', image.id);
    assert.equal(exitCode, 4, stderr);
    assert.match(stderr, /InUse/);
    for (const host of [here, there]) {
      assert.equal(await rogue.ask(host, 'deleteImage', { imageId: image.id }), 'InUse', host);
      assert.ok((await stat(kept(host))).size > 0);
    }
    // Also while its guest is down and lives in a package alone.
    await pool.ok('instances', 'save', bystander.id);
    assert.equal(await rogue.ask('beta', 'deleteImage', { imageId: image.id }), 'InUse');
    await pool.ok('instances', 'restore', bystander.id);
    await pool.answers('beta', bystander);
  });

  it('f1: the guest has stopped for good at its source before its first instruction at the destination', async () => {
    observer = new ConsoleObserver(pool.testbed, guest.id);
    const source = here;
    const [left, began] = await Promise.all([listen(pool, here), listen(pool, there)]);
    try {
      await moved(await migrate());
    } finally {
      await Promise.all([left.stop(), began.stop()]);
    }
    const at = ({ events }: Listener, what: RegExp): number => {
      const found = events().find(({ domain, event }) => domain === 'subject' && what.test(event));
      assert.ok(found, `${what} is none of ${JSON.stringify(events())}`);
      return found.time;
    };
    const [suspended, stopped, resumed] = [at(left, /^Suspended/), at(left, /^Stopped/), at(began, /^Resumed/)];
    assert.ok(suspended < stopped && stopped < resumed, `${suspended} < ${stopped} < ${resumed}`);
    assert.ok(!left.events().some(({ event }) => /^(Resumed|Started)/.test(event)), 'the source never ran again');
    // Nor can anybody start it there by mistake.
    const { exitCode } = await pool.testbed.exec(source, ['virsh', 'start', guest.id], { okExitCodes: [0, 1] });
    assert.equal(exitCode, 1);
    livedOnce(observer);
  });

  it('f4: a source whose guest was taken over never resumes it, whatever fails afterwards and whoever asks', async () => {
    observer = new ConsoleObserver(pool.testbed, guest.id);
    const held = await pool.hold(there, 'resumeInstance', 'after');
    const move = migrate();
    await held.reached(REACH);
    // It runs there, but nobody was told: from here it looks as if the move had failed.
    const { moveId, packageId, generation } = await progress();
    const ref = { moveId, packageId, generation, instanceId: guest.id };
    assert.equal((await pool.cli('moves', 'return', guest.id)).exitCode, 4);
    assert.equal((await pool.cli('moves', 'cancel', guest.id)).exitCode, 4);
    assert.equal(await rogue.ask(here, 'returnInstance', ref), 'OwnershipDecided');
    assert.equal(await rogue.ask(here, 'saveInstance', ref), 'NotOwner');
    assert.deepEqual(await runningOn(), [there]);
    await pool.testbed.kill(there, 'worker');
    await held.release();
    assert.equal(await rogue.ask(here, 'returnInstance', ref), 'OwnershipDecided');
    await pool.testbed.start(there, 'worker');
    await moved(await move);
    // A step of the past that wakes up at the new owner changes nothing there.
    await rogue.ask(here, 'restoreInstance', ref);
    assert.equal(await rogue.ask(here, 'discardCopy', ref), 'OwnershipDecided');
    await unharmed(here);
    livedOnce(observer);
  });

  it('f3: libvirt’s autostart brings no copy back, neither while the save lies there nor after the move', async () => {
    observer = new ConsoleObserver(pool.testbed, guest.id);
    await virsh(here, 'autostart', guest.id);
    const held = await pool.hold(here, 'rebaseOverlay', 'before');
    const move = migrate();
    await held.reached(REACH);
    const source = here;
    await pool.testbed.kill(source, 'host');
    await held.release();
    await pool.testbed.start(source, 'host'); // its libvirtd starts all that is to start with the host
    assert.deepEqual(await runningOn(), []);
    await moved(await move);
    await pool.testbed.kill(source, 'libvirtd');
    await pool.testbed.start(source, 'libvirtd');
    await pool.testbed.kill(source, 'host');
    await pool.testbed.start(source, 'host');
    assert.deepEqual(await runningOn(), [here]);
    await unharmed(here);
    livedOnce(observer);
  });

  it('f5: f33: a move whose destination lost power leaves a whole guest, and the next try succeeds amid its leftovers', async () => {
    await virsh(here, 'autostart', guest.id);
    const held = await pool.hold(there, 'restoreInstance', 'after');
    const move = migrate('--retry-window', '2');
    await held.reached(REACH);
    const left = ['staging', 'packages', 'instances'].map((name) => readdirSync(state(there, name)).length);
    assert.ok(!left.includes(0), 'the first try has got far');
    await pool.testbed.kill(there, 'host');
    await held.release();
    assert.equal((await move).exitCode, 9);
    await pool.answers(here, guest);
    assert.equal((await pool.testbed.guestStatus(here, guest.ip)).token, token);
    assert.match(await virsh(here, 'dominfo', guest.id), /^Autostart: +enable$/m, 'it starts with its host as before');

    await pool.testbed.start(there, 'host');
    await moved(await migrate());
    await virsh(here, 'autostart', '--disable', guest.id);
  });

  it('f26: a copy that ran by mistake and died is never restored over: the next one begins from the package', async () => {
    const held = await pool.hold(there, 'restoreInstance', 'after');
    const move = migrate();
    await held.reached(REACH);
    const [moveId = ''] = await readdir(state(here, 'moves'));
    const generation = Math.max(...(await readdir(state(there, `instances/${guest.id}`))).map(generationOf));
    const used = state(there, `instances/${guest.id}/g${generation}/vda.qcow2`);
    const packaged = body(state(here, `moves/${moveId}/disk-vda.qcow2`));
    assert.equal(body(used), packaged);

    await virsh(there, 'resume', guest.id);
    const { last } = await pool.testbed.guestDiskCheck(there, guest.ip);
    await until('it writes', async () => (await pool.testbed.guestDiskCheck(there, guest.ip)).last > last + 10);
    await virsh(there, 'destroy', guest.id);
    assert.notEqual(body(used), packaged, 'the copy that ran has written to its disk');
    await pool.testbed.kill(there, 'worker');
    await held.release();
    const again = await pool.hold(there, 'restoreInstance', 'after');
    await pool.testbed.start(there, 'worker');
    await again.reached(REACH);
    assert.equal(body(used), packaged, 'the second restore got the disk as it was packaged');
    await again.release();
    await moved(await move);

    // And what has run here is never restored from that package again.
    const { packageId } = await progress();
    const ref = { moveId, packageId, generation, instanceId: guest.id };
    await rogue.ask(here, 'restoreInstance', ref);
    assert.equal((await pool.cli('instances', 'restore', guest.id)).exitCode, 4);
    await unharmed(here);
  });

  it('f8: a package that has arrived is kept when the restore fails; the retry sends none of it again', async () => {
    const held = await pool.hold(there, 'restoreInstance', 'before');
    const move = migrate('--on-failure', 'park', '--retry-window', '2', '--until-parked');
    await held.reached(REACH);
    await pool.testbed.kill(there, 'libvirtd');
    await held.release();
    assert.equal((await move).exitCode, 10);
    const { packageId } = await progress();
    const segment = state(there, `packages/${packageId}/snapshot/000000.seg`);
    const { ino } = await stat(segment);
    const before = await receivedBytes(pool, there);
    await pool.testbed.start(there, 'libvirtd');
    const outcome = await pool.cli('moves', 'retry', guest.id, '--watch');
    const received = (await receivedBytes(pool, there)) - before;
    const { packageBytes } = outcome.json as MoveResult;
    assert.ok(packageBytes > 5_000_000);
    assert.ok(received < packageBytes / 5, `${received} bytes came for a package of ${packageBytes} that was there`);
    assert.equal((await stat(segment)).ino, ino);
    await moved(outcome);
  });

  it('f9: f32: bytes that were altered or blanked on their way are found before anything runs from them', async () => {
    const altered: [where: string, after: string, file: (move: MoveProgress) => string, alter: typeof flipOneBit][] = [
      [here, 'encryptPackage', ({ packageId }) => `packages/${packageId}/disk-vda/000000.seg`, flipOneBit],
      [there, 'transferPackage', ({ packageId }) => `packages/${packageId}/disk-vda/000000.seg`, blank],
      [there, 'rewriteXml', ({ moveId }) => `staging/${moveId}/disk-vda.qcow2`, flipOneBit],
    ];
    for (const [where, activity, file, alter] of altered) {
      const held = await pool.hold(where, activity, 'after');
      const move = migrate('--retry-window', '1');
      await held.reached(REACH);
      const found = await progress();
      await alter(state(where, file(found)));
      await held.release();
      await returned(await move, /segment 0 of stream disk-vda|disk-vda\.qcow2 is not what/);
      const intact = activity === 'rewriteXml' ? 0 : 8;
      const verified = await pool.cli('packages', 'verify', found.packageId, '--host', where);
      assert.equal(verified.exitCode, intact, verified.stderr);
    }
  });

  it('f7: f11: f13: a cut and then a cancel in the middle of a transfer stop its bytes, and remove what it made and nothing else', async () => {
    // As a move would leave them that is not over yet.
    const foreign = ['moves/other/snapshot', 'staging/other/disk-vda.qcow2', 'incoming/other/snapshot/000000.seg'];
    for (const path of [here, there].flatMap((host) => foreign.map((name) => state(host, name)))) {
      await mkdir(dirname(path), { recursive: true });
      await writeFile(path, 'of another move');
    }
    // A power loss of an earlier row may have taken it along.
    if ((await virsh('beta', 'domstate', bystander.id)) !== 'running') await virsh('beta', 'start', bystander.id);
    await pool.answers('beta', bystander);
    const neighbour = (await pool.testbed.guestStatus('beta', bystander.ip)).token;
    const before = new Map([here, there].map((host) => [host, files(host)]));
    await pool.testbed.rate(there, '4mbit');
    const move = migrate();
    await until('the transfer', async () => (await progress()).step === 'transferPackage');
    const { packageId } = await progress();
    const arrived = (): string[] =>
      files(there).filter((path) => path.includes(`incoming/${packageId}/`) && path.endsWith('.seg'));
    await until('a segment has arrived', () => Promise.resolve(arrived().length > 0));

    await pool.testbed.cut(there);
    await sleep(2000);
    await pool.testbed.join(there);
    const resumed = await receivedBytes(pool, there);
    await until('it goes on', async () => (await receivedBytes(pool, there)) > resumed + 500_000);
    assert.ok(arrived().length > 0, 'what had come was kept');

    await pool.ok('moves', 'cancel', guest.id);
    await move;
    const atEnd = await receivedBytes(pool, there);
    await sleep(3000); // at this rate 1.5 MB, if anything were sent still
    const more = (await receivedBytes(pool, there)) - atEnd;
    assert.ok(more < 100_000, `${more} bytes came after the move was over`);
    await pool.testbed.rate(there, 'none');

    for (const [host, paths] of before) {
      const now = new Set(files(host));
      // The guest works in a folder of its new generation.
      const gone = paths.filter((path) => !now.has(path) && !path.startsWith(`instances/${guest.id}/`));
      assert.deepEqual(gone, [], `${host} keeps all that was there`);
      for (const name of foreign) {
        assert.equal(readFileSync(state(host, name), 'utf8'), 'of another move');
        await pool.testbed.exec(host, ['rm', '-r', join(STATE, dirname(name).split('/').slice(0, 2).join('/'))]);
      }
      await pool.ok('packages', 'verify', lastPackage, '--host', host);
    }
    await pool.ok('packages', 'verify', packageId, '--host', here);
    assert.equal((await pool.testbed.guestStatus('beta', bystander.ip)).token, neighbour);
    await unharmed(here);
  });

  it('f6: with the source out of reach for good before its release nobody runs the guest, however long that lasts', async () => {
    const held = await pool.hold(there, 'restoreInstance', 'after');
    const move = migrate('--retry-window', '1');
    await held.reached(REACH);
    const old = releaseIn(state(here, `instances/${guest.id}/ledger`));
    await pool.testbed.kill(here, 'host');
    await held.release();
    await until('it waits for the source', async () => (await progress()).waitingFor === here);
    const { moveId, packageId, generation } = await progress();
    const ref = { moveId, packageId, generation, instanceId: guest.id };
    // Ten times the retry window. Whoever asks the destination to go on meanwhile is refused, with an old release too.
    const source = (await pool.ok<{ id: string; record: string }[]>('nodes', 'list')).find(({ id }) => id === here);
    assert.ok(source);
    for (let second = 0; second < 10; second++) {
      const { stdout } = await pool.testbed.exec(there, ['virsh', '-q', 'list', '--state-running', '--uuid']);
      assert.ok(!stdout.includes(guest.id));
      if (second === 5) {
        const asked: string = await rogue.ask(there, 'resumeInstance', { ...ref, release: old, source: source.record });
        assert.equal(asked, 'ReleaseInvalid');
      }
      await sleep(1000);
    }
    await pool.testbed.start(here, 'host');
    await moved(await move);
  });

  it('f10: a move ends though client, server, database and control worker died in its middle', async () => {
    const held = await pool.hold(there, 'transferPackage', 'after');
    const client = spawn(process.execPath, [CLIENT, 'instances', 'migrate', guest.id, there], {
      env: { ...process.env, VMFERRY_PROFILE: pool.testbed.profilePath },
      stdio: 'ignore',
    });
    const ended = once(client, 'exit');
    await held.reached(REACH).finally(() => client.kill('SIGKILL'));
    await ended;
    for (const what of ['temporal', 'postgres', 'worker']) await pool.testbed.kill('control', what);
    await held.release();
    await Promise.all([pool.testbed.start('control', 'postgres'), pool.testbed.start('control', 'temporal')]);
    await pool.testbed.start('control', 'worker');
    await until('it moved', async () => (await progress().catch(() => null))?.phase === 'moved');
    await unharmed(there);
    swap();
  });

  it('f12: nothing keeps a guest busy for ever: it moves on after its workflow was terminated', async () => {
    const lost = async (where: string, activity: string, point: 'before' | 'after'): Promise<void> => {
      const held = await pool.hold(where, activity, point);
      const move = migrate();
      await held.reached(REACH);
      await rogue.terminate(workflowId.instance(guest.id));
      // An attempt that goes on before it hears of the end would do its step.
      await pool.testbed.kill(where, 'worker');
      await held.release();
      await pool.testbed.start(where, 'worker');
      assert.notEqual((await move).exitCode, 0);
    };
    await lost(here, 'announceMove', 'before');
    await moved(await migrate());
    // Stopped and saved, but not sealed; sealed and sent; released, and the new owner was never told.
    for (const [side, activity, point] of [
      ['source', 'buildPackage', 'before'],
      ['destination', 'transferPackage', 'after'],
      ['destination', 'resumeInstance', 'before'],
    ] as const) {
      await lost(side === 'source' ? here : there, activity, point);
      assert.deepEqual(await runningOn(), []);
      await pool.ok('instances', 'start', guest.id);
      await pool.cli('doctor', '--mend'); // what the lost move has left at its other host
      if (activity === 'resumeInstance') swap();
      await unharmed(here);
    }
    await moved(await migrate());
  });

  it('f37: what a move has called done is whole after both hosts lose power the next instant', async () => {
    const { exitCode, stderr, json } = await migrate();
    await Promise.all([here, there].map((host) => pool.testbed.kill(host, 'host')));
    assert.equal(exitCode, 0, stderr);
    const { packageId } = json as MoveResult;
    for (const host of [here, there]) {
      await pool.testbed.start(host, 'host');
      await pool.ok('packages', 'verify', packageId, '--host', host);
    }
    const folder = state(there, `instances/${guest.id}`);
    const newest = Math.max(...readdirSync(folder).map(generationOf));
    const disk = join(STATE, `instances/${guest.id}/g${newest}/vda.qcow2`);
    await pool.testbed.exec(there, ['qemu-img', 'check', '-f', 'qcow2', disk], { okExitCodes: [0, 3] });
    await pool.ok('instances', 'start', guest.id);
    await pool.answers(there, guest);
    const { gaps, torn, boots } = await pool.testbed.guestDiskCheck(there, guest.ip);
    assert.deepEqual({ gaps, torn, boots }, { gaps: 0, torn: 0, boots: 2 });
  });
});

/** Every count of the guest was printed once, on whatever host. */
function livedOnce(observer: ConsoleObserver): void {
  const found = observer.violations();
  assert.deepEqual(found, []);
}

const generationOf = (name: string): number => Number(/^g([0-9]+)$/.exec(name)?.[1] ?? 0);

/** What the guest can see of an overlay: everything behind the first cluster, which holds the name of the base. */
const body = (path: string): string => createHash('sha256').update(readFileSync(path).subarray(65536)).digest('hex');

async function flipOneBit(path: string): Promise<void> {
  const file = await open(path, 'r+');
  const middle = Math.floor((await file.stat()).size / 2);
  const { buffer } = await file.read(Buffer.alloc(1), 0, 1, middle);
  await file.write(Buffer.of((buffer[0] ?? 0) ^ 1), 0, 1, middle);
  await file.close();
}

async function blank(path: string): Promise<void> {
  await writeFile(path, Buffer.alloc((await stat(path)).size));
}

/** By the counter of the host's network card. */
async function receivedBytes(pool: Pool, host: string): Promise<number> {
  const { stdout } = await pool.testbed.exec(host, ['ip', '-s', '-j', 'link', 'show', 'dev', 'wan0']);
  const [card] = JSON.parse(stdout) as { stats64: { rx: { bytes: number } } }[];
  assert.ok(card);
  return card.stats64.rx.bytes;
}

/** The first release that a host's ledger of an instance holds. */
function releaseIn(ledger: string): string {
  for (const name of readdirSync(ledger).filter((file) => file.startsWith('decision-'))) {
    const { kind, statement } = JSON.parse(readFileSync(join(ledger, name), 'utf8')) as Record<string, string>;
    if (kind === 'release' && statement !== undefined) return statement;
  }
  assert.fail(`${ledger} holds no release`);
}

interface Listener {
  /** libvirt's lifecycle events since it listens; times in milliseconds. */
  events: () => { time: number; domain: string; event: string }[];
  stop: () => Promise<void>;
}

/** Listens to a host's libvirtd, from outside vmferry. */
async function listen(pool: Pool, host: string): Promise<Listener> {
  const command = ['stdbuf', '-oL', 'virsh', 'event', '--event', 'lifecycle', '--loop', '--timestamp'] as const;
  const [program, ...args] = pool.testbed.enter(host, command);
  // In a group of its own: nsenter does not hand on the signals that it gets.
  const virsh = spawn(program, args, { stdio: ['ignore', 'pipe', 'inherit'], detached: true });
  let text = '';
  virsh.stdout.setEncoding('utf8').on('data', (more: string) => (text += more));
  // It does not say when it listens; a domain that comes and goes tells.
  const xml = '<domain type="qemu"><name>probe</name><memory>1</memory><os><type>hvm</type></os></domain>';
  await writeFile(pool.testbed.outside(host, '/var/lib/probe.xml'), xml);
  for (const deadline = Date.now() + 20_000; !text.includes("'probe'");) {
    assert.ok(Date.now() < deadline, `virsh hears nothing on ${host}: ${text}`);
    await pool.testbed.exec(host, ['virsh', '-q', 'define', '/var/lib/probe.xml']);
    await pool.testbed.exec(host, ['virsh', '-q', 'undefine', 'probe']);
  }
  return {
    events: () =>
      [...text.matchAll(/^(\S+ \S+): event 'lifecycle' for domain '?([^':]+)'?: (.*)$/gm)].map(
        ([, time = '', domain = '', event = '']) => ({ time: Date.parse(time), domain, event }),
      ),
    stop: async () => {
      const closed = once(virsh, 'close');
      if (virsh.pid !== undefined) process.kill(-virsh.pid, 'SIGTERM');
      await closed;
    },
  };
}
