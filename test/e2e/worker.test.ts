/**
 * One testbed for what workers are as processes: how much memory they take, and how they end.
 *
 * They are told to stop (SIGTERM) while steps of a move stand half done, again and again in one move, and are started
 * again. Steps hand over: the guest is stopped once and resumed once, as if nothing had happened.
 */
import assert from 'node:assert/strict';
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { saveFileState } from '../../activities/hypervisor/save-file.ts';
import type { Mark } from '../../activities/marks.ts';
import { MEMBER } from '../../activities/records/layout.ts';
import { ConsoleObserver } from '../support/console-observer.ts';
import { cannotRun, Pool, type Guest } from '../support/pool.ts';

let pool: Pool;
if (cannotRun === false) {
  before(async () => {
    pool = await Pool.up();
  });
  after(() => pool.down());
}

/** The most memory that a process ever had resident, in bytes. */
function peakMemory(pid: number): number {
  const kilobytes = /^VmHWM:\s+([0-9]+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1];
  return Number(kilobytes) * 1024;
}

// First, while the workers are young.
describe('a worker’s memory does not grow with the guest', { skip: cannotRun }, () => {
  it('f34: stays below 300 MB while a guest of 2 GiB moves', async () => {
    const guest = await pool.spawn('alpha', 'large', ['--memory', '2GiB']);
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
    await pool.ok('instances', 'delete', guest.id, '--yes');
  });
});

const STOP_SECONDS = 1;
/** From the signal to the end of the process, on a busy machine. */
const GONE_MS = 10_000;

/** What libvirt says of the guest on one host, from outside of vmferry. */
class Lifecycle {
  readonly #virsh: ChildProcess;
  #text = '';

  constructor(pool: Pool, host: string) {
    const command = ['stdbuf', '-oL', 'virsh', 'event', '--event', 'lifecycle', '--loop'] as const;
    const [program, ...args] = pool.testbed.enter(host, command);
    this.#virsh = spawn(program, args, { stdio: ['ignore', 'pipe', 'ignore'] });
    this.#virsh.stdout?.on('data', (part: Buffer) => (this.#text += part.toString()));
  }

  /** Suspended, Resumed, Started, Stopped, …; since the last call. */
  get events(): string[] {
    const found = [...this.#text.matchAll(/^event 'lifecycle' for domain \S+ (\w+)/gm)].map(([, event]) => event ?? '');
    this.#text = '';
    return found;
  }

  async stop(): Promise<void> {
    this.#virsh.kill();
    if (this.#virsh.exitCode === null && this.#virsh.signalCode === null) await once(this.#virsh, 'exit');
  }
}

describe('a worker that is told to stop hands its steps over', { skip: cannotRun }, () => {
  let guest: Guest;
  let observer: ConsoleObserver;
  let token: string;
  let lifecycles: Record<string, Lifecycle>;

  before(async () => {
    for (const host of pool.testbed.hosts) {
      const path = pool.testbed.outside(host, '/etc/vmferry/host.json');
      const config = JSON.parse(readFileSync(path, 'utf8')) as object;
      writeFileSync(path, JSON.stringify({ ...config, stopSeconds: STOP_SECONDS }));
      await pool.testbed.kill(host, 'worker', 'SIGTERM');
      await pool.testbed.start(host, 'worker');
    }
    guest = await pool.spawn('alpha', 'drained');
    ({ token } = await pool.testbed.guestStatus('alpha', guest.ip));
    observer = new ConsoleObserver(pool.testbed, guest.id);
    lifecycles = Object.fromEntries(pool.testbed.hosts.map((host) => [host, new Lifecycle(pool, host)]));
  });
  after(async () => {
    observer.stop();
    for (const lifecycle of Object.values(lifecycles)) await lifecycle.stop();
  });

  const log = (host: string): string => readFileSync(pool.testbed.outside(host, '/var/log/vmferry/worker.log'), 'utf8');
  const count = (host: string, message: string): number => log(host).split(`"message":"${message}"`).length - 1;
  const stop = async (host: string): Promise<void> => {
    const stopped = count(host, 'stopped');
    const begun = performance.now();
    await pool.testbed.kill(host, 'worker', 'SIGTERM');
    assert.ok(performance.now() - begun < GONE_MS, `${host} was gone within its time`);
    assert.equal(count(host, 'stopped'), stopped + 1, 'it ended by itself');
  };

  /** Moves the guest; the worker of `victim` is stopped and started at each of these points. */
  const moved = async (
    destination: string,
    victim: string,
    points: [activity: string, point: Mark][],
  ): Promise<void> => {
    for (const lifecycle of Object.values(lifecycles)) assert.ok(lifecycle.events);
    const before = count(victim, 'handed over to the next attempt');
    const helds = [];
    for (const [activity, point] of points) helds.push({ activity, held: await pool.hold(victim, activity, point) });
    const move = pool.cli('instances', 'migrate', guest.id, destination, '--retry-window', '600');
    for (const { held } of helds) {
      await held.reached();
      await stop(victim);
      await held.release();
      await pool.testbed.start(victim, 'worker');
    }
    const { exitCode, stderr } = await move;
    assert.equal(exitCode, 0, stderr);
    assert.equal(count(victim, 'handed over to the next attempt') - before, points.length);
    assert.match(log(victim), new RegExp(`"step":"${points[0]?.[0]}","instanceId":"${guest.id}"`));
  };
  const unharmed = async (owner: string, source: string): Promise<void> => {
    assert.equal((await pool.testbed.guestStatus(owner, guest.ip)).token, token);
    assert.deepEqual(await pool.violations(guest, owner), []);
    assert.deepEqual(observer.violations(), []);
    const vcpus = (host: string): string[] =>
      lifecycles[host]?.events.filter((event) => event === 'Suspended' || event === 'Resumed') ?? [];
    // At the destination it appears paused, and is let run.
    assert.deepEqual(
      { [source]: vcpus(source), [owner]: vcpus(owner).at(-1) },
      { [source]: ['Suspended'], [owner]: 'Resumed' },
    );
  };

  it('the source’s, at every step from the suspend to the release', async () => {
    await moved('beta', 'alpha', [
      ['saveInstance', 'recorded'],
      ['rebaseOverlay', 'copied'],
      ['buildPackage', 'packed'],
      ['encryptPackage', 'signed'],
      ['releaseInstance', 'released'],
    ]);
    await unharmed('beta', 'alpha');
  });

  it('the destination’s, at every step from the transfer to the resume', async () => {
    await moved('alpha', 'alpha', [
      ['transferPackage', 'accepted'],
      ['openPackage', 'accepted'],
      ['restoreInstance', 'restored'],
      ['resumeInstance', 'owned'],
    ]);
    await unharmed('alpha', 'beta');
  });

  it('in the middle of libvirt’s save, which goes on and is taken by the next attempt', async () => {
    const suspended = await pool.hold('alpha', 'saveInstance', 'suspended');
    const move = pool.cli('instances', 'migrate', guest.id, 'beta', '--retry-window', '600');
    await suspended.reached();
    const [qemu] = pool.testbed.status().filter(({ where, what }) => where === 'alpha' && what === 'qemu');
    assert.ok(qemu?.pid);
    await suspended.release();
    const moves = pool.testbed.outside('alpha', '/var/lib/vmferry/moves');
    const [snapshot = ''] = readdirSync(moves).map((move) => join(moves, move, MEMBER.snapshot));
    for (const deadline = Date.now() + 30_000; !existsSync(snapshot); await sleep(1)) assert.ok(Date.now() < deadline);
    // QEMU writes the file, so a QEMU that stands still keeps it from being complete.
    process.kill(qemu.pid, 'SIGSTOP');
    assert.notEqual(await saveFileState(snapshot), 'complete');
    await stop('alpha');
    await pool.testbed.thaw('alpha', `qemu:${guest.id}`);
    await pool.testbed.start('alpha', 'worker');
    const { exitCode, stderr } = await move;
    assert.equal(exitCode, 0, stderr);
    await unharmed('beta', 'alpha');
  });

  it('a control worker ends with exit code 0, and another goes on', async () => {
    const held = await pool.hold('control', 'reserveMove', 'after');
    const move = pool.cli('instances', 'migrate', guest.id, 'alpha');
    await held.reached();
    await pool.testbed.kill('control', 'worker', 'SIGTERM');
    await held.release();
    const program = join(import.meta.dirname, '../../workers/control.ts');
    const config = join(pool.testbed.directory, 'control.json');
    const worker = spawn(process.execPath, [program, '--config', config], { stdio: ['ignore', 'pipe', 'ignore'] });
    await once(worker.stdout, 'data');
    const { exitCode, stderr } = await move;
    assert.equal(exitCode, 0, stderr);
    await unharmed('alpha', 'beta');
    worker.kill('SIGTERM');
    assert.deepEqual(await once(worker, 'exit'), [0, null]);
  });
});
