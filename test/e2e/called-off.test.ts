/**
 * What an operator may decide about a move, at every step: before the release all is undone, after it nothing is, except that a
 * host which died for good is replaced by a fence. Several small guests move at once, each held at a point of its own.
 */
import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { execa } from 'execa';
import type { Running } from '../../client/api.ts';
import { explain } from '../../client/failure.ts';
import { until as poll } from '../../infra/testbed/processes.ts';
import type { MoveProgress, MoveResult } from '../../workflows/contract.ts';
import { Fleet, type Guest, type Held } from '../safety/fleet.ts';
import { Observer } from '../safety/observe/observer.ts';
import { POINTS, type Place, type Point } from '../safety/points.ts';
import { settledVerdict } from '../safety/sweep.ts';
import { cannotRun } from '../support/pool.ts';

/** As many as two cores carry well. */
const GUESTS = 8;
const REACH_SECONDS = 90;
const END_SECONDS = 120;

/** Within each step that can be called off: its marks, and its beginning where it has none. */
const STEPS: readonly Point[] = POINTS.filter(({ name, activity, phase, wayBack }) => {
  if (wayBack || ['released', 'moved'].includes(phase) || activity === 'releaseInstance') return false;
  const hasMarks = POINTS.some((other) => other.activity === activity && !/\.(before|after)$/.test(other.name));
  return hasMarks ? !/\.(before|after)$/.test(name) : name.endsWith('.before');
});

describe('a move is called off', { skip: cannotRun }, () => {
  let fleet: Fleet;
  let observer: Observer;

  before(async () => {
    fleet = await Fleet.up({ hosts: 3 });
    await fleet.spawn(GUESTS, ['alpha']);
    observer = await Observer.start(fleet.testbed, { log: console.log });
    for (const guest of fleet.guests) observer.watch(guest);
  });
  after(async () => {
    await observer.stop();
    await fleet.down();
  });

  const places: Record<Place, string> = { source: 'alpha', destination: 'beta', control: 'control' };
  const hold = (guest: Guest, { place, name }: Pick<Point, 'place' | 'name'>): Promise<Held> =>
    fleet.hold(places[place], name, guest.id);
  const until = (
    what: string,
    condition: () => boolean | Promise<boolean>,
    seconds = REACH_SECONDS,
  ): Promise<boolean> => poll(condition, seconds * 1000, () => `${what} did not come about within ${seconds} s`);
  const progressOf = async (running: Running<unknown>): Promise<MoveProgress | null> =>
    (await running.snapshot()).progress;
  /** How it ended. */
  const failureOf = async (running: Running<MoveResult>): Promise<{ type: string; message: string }> => {
    try {
      const { destination } = await fleet.end(running, END_SECONDS);
      return { type: 'moved', message: destination };
    } catch (error) {
      return explain(error);
    }
  };
  const unharmed = async (guests: readonly Guest[]): Promise<void> => {
    for (const guest of guests) await fleet.answers(guest, guest.host);
    const violations = await settledVerdict(
      observer,
      guests.map(({ id }) => id),
    );
    assert.deepEqual(
      violations.map(({ invariant, text }) => `[${invariant}] ${text}`),
      [],
    );
  };

  for (let from = 0; from < STEPS.length; from += GUESTS) {
    const steps = STEPS.slice(from, from + GUESTS);
    it(`by cancel, and the VM is back: ${steps.map(({ name }) => name).join(', ')}`, async () => {
      const guests = fleet.guests.slice(0, steps.length);
      const moves = await Promise.all(
        steps.map(async (point, index) => {
          const guest = guests[index] as Guest;
          const held = await hold(guest, point);
          const running = await fleet.migrate(guest, 'beta');
          await until(point.name, () => held.reached());
          return { point, held, running };
        }),
      );
      await Promise.all(moves.map(({ running }) => running.cancel()));
      await Promise.all(moves.map(({ held }) => held.release()));
      const ends = await Promise.all(
        moves.map(async ({ point, running }) => [point.name, (await failureOf(running)).type]),
      );
      assert.deepEqual(
        ends,
        steps.map(({ name }) => [name, 'Cancelled']),
      );
      await unharmed(guests);
    });
  }

  it('not once it may be released: the cancel is refused with the reason, and the move goes on', async () => {
    const points = POINTS.filter(
      ({ activity, place }) =>
        ['releaseInstance', 'resumeInstance'].includes(activity) || (activity === 'settleMove' && place === 'source'),
    ).filter(({ name }) => !name.endsWith('.after'));
    const guests = fleet.guests.slice(0, points.length);
    const moves = await Promise.all(
      points.map(async (point, index) => {
        const guest = guests[index] as Guest;
        const held = await hold(guest, point);
        const running = await fleet.migrate(guest, 'beta');
        await until(point.name, () => held.reached());
        return { guest, held, running };
      }),
    );
    for (const { guest, held, running } of moves) {
      const reason = 'alpha releases the instance to beta; from then on it belongs there';
      await assert.rejects(running.cancel(), (error) => {
        const { type, message } = explain(error);
        assert.deepEqual([type, message.includes(reason)], ['PointOfNoReturn', true], message);
        return true;
      });
      await held.release();
      assert.deepEqual(await failureOf(running), { type: 'moved', message: 'beta' });
      guest.host = 'beta';
    }
    await unharmed(guests);
  });

  it('by abandon, when it is parked: the instance stays down in its package, and starts from there', async () => {
    const guest = fleet.guests.find(({ host }) => host === 'alpha');
    assert.ok(guest);
    const held = await hold(guest, { place: 'destination', name: 'restoreInstance.before' });
    const running = await fleet.migrate(guest, 'beta', { onFailure: 'park', retryWindowSeconds: 1 });
    await until('the restore', () => held.reached());
    await fleet.testbed.kill('beta', 'libvirtd');
    await held.release();
    await until('the parking', async () => (await progressOf(running))?.phase === 'parked');
    observer.expect(guest.id, 'stopped');
    await running.abandon();
    await fleet.testbed.start('beta', 'libvirtd');
    assert.equal((await failureOf(running)).type, 'MoveAbandoned');
    assert.deepEqual(await settledVerdict(observer, [guest.id]), []);
    const starting = await (await fleet.temporal()).start('start', { instanceId: guest.id });
    const { host, how } = await fleet.end(starting, END_SECONDS);
    assert.deepEqual([host, how], ['alpha', 'restored']);
    observer.expect(guest.id, 'running');
    await unharmed([guest]);
  });

  it('by a fence behind the release; the host that comes back late gives up its paused copy', async () => {
    const guest = fleet.guests.findLast(({ host }) => host === 'alpha');
    assert.ok(guest);
    const held = await hold(guest, { place: 'destination', name: 'resumeInstance.before' });
    const running = await fleet.migrate(guest, 'beta', { retryWindowSeconds: 1 });
    await until('the resume', () => held.reached());
    await fleet.testbed.kill('beta', 'worker');
    await held.release();
    await until('the wait', async () => ['waiting', 'parked'].includes((await progressOf(running))?.phase ?? ''));

    await assert.rejects(running.return(), (error) => explain(error).type === 'PointOfNoReturn');
    await assert.rejects(running.readdress('gamma'), (error) => explain(error).type === 'FenceMissing');
    observer.disturbance({ kind: 'fenced', host: 'beta', ids: [guest.id] });
    const cli = new URL('../../client/main.ts', import.meta.url).pathname;
    await execa(process.execPath, [cli, 'moves', 'readdress', guest.id, 'gamma', '--yes'], {
      env: { VMFERRY_PROFILE: fleet.testbed.profilePath },
      stdin: 'ignore',
    });
    assert.deepEqual(await failureOf(running), { type: 'moved', message: 'gamma' });
    guest.host = 'gamma';
    await fleet.answers(guest, 'gamma');

    const knownTo = async (host: string): Promise<boolean> =>
      (await fleet.testbed.exec(host, ['virsh', '-q', 'list', '--all', '--uuid'])).stdout.includes(guest.id);
    assert.ok(await knownTo('beta'), 'its copy stands there, paused');
    await fleet.testbed.start('beta', 'worker');
    await until('the end of the copy', async () => !(await knownTo('beta')));
    await unharmed([guest]);
  });
});
