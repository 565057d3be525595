/**
 * One fault against many moves at once: each stands at a point of its own when the fault strikes. Some moves go one way and
 * some the other, so that the struck host is the source of these and the destination of those.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Running } from '../../client/api.ts';
import { explain } from '../../client/failure.ts';
import type { HostId, MoveResult } from '../../workflows/contract.ts';
import { VmferryError } from '../../workflows/failures.ts';
import { expectedEnds, type End, type Role } from './expectation.ts';
import type { Fault } from './faults.ts';
import type { Fleet, Guest, Held } from './fleet.ts';
import type { Place, Point } from './points.ts';

/** One case of the sweep. */
export interface Cell {
  fault: Fault;
  role: Role;
  point: Point;
}

export interface Outcome {
  cell: Cell;
  guest: Guest;
  end: End | 'no end';
  /** The failure's type and message, unless it moved. */
  why: string;
  /** From the strike to the end of the move. */
  seconds: number;
  /** What was not as expected; empty if all was. */
  problems: string[];
}

/** The host that faults strike, and the one at the other end of every move. */
export const STRUCK: HostId = 'alpha';
export const OTHER: HostId = 'beta';

const REACH_SECONDS = 300;
/** No fault lasts for half a minute, and retries are at most 15 s apart. */
const END_SECONDS = 420;
const RETRY_WINDOW_SECONDS = 180;
/** An attempt is given up one heartbeat timeout after its last sign of life; one on the control worker after 30 s. */
const GIVEN_UP_SECONDS = 90;
/** Retries are at most 15 s apart, and all begin on a host that has just come back. */
const AGAIN_SECONDS = 120;

/** Where a guest must be for this cell. */
export const sourceOf = ({ role }: Cell, guestHost: HostId): HostId =>
  role === 'source' ? STRUCK : role === 'destination' ? OTHER : guestHost;

interface Case {
  cell: Cell;
  guest: Guest;
  destination: HostId;
  /** Where the activity of the point runs. */
  where: string;
  running: Running<MoveResult>;
  held: Held;
  /** Resolves when the move stands at its point, or to what kept it from coming there. */
  arrived: Promise<string | null>;
}

/**
 * Strikes all cells, which share one fault, each with a guest that is where the cell needs it.
 */
export async function runWave(
  fleet: Fleet,
  fault: Fault,
  cells: readonly { cell: Cell; guest: Guest }[],
  aboutToStrike: () => void,
): Promise<Outcome[]> {
  const cases = await Promise.all(cells.map(({ cell, guest }) => begin(fleet, cell, guest)));
  const problems = await Promise.all(cases.map(({ arrived }) => arrived));
  aboutToStrike();
  const struckAt = performance.now();
  const onStruckHost = cases.filter(({ where }) => where === STRUCK);
  const again: Held[] = [];
  const go = async (): Promise<void> => {
    await Promise.all([...cases.map(({ held }) => held), ...again].map((held) => held.release()));
  };
  const strike = fault.strike({
    testbed: fleet.testbed,
    host: STRUCK,
    go,
    givenUp: () => givenUp(onStruckHost),
    anotherAttempt: async () => {
      // Asked for now, so that it cannot have been the first attempt that came here.
      const next = onStruckHost.map(async (one) => {
        const { cell, guest } = one;
        const held = await fleet.hold(STRUCK, `${cell.point.activity}.before`, guest.id);
        again.push(held);
        // A step at which nothing is at stake is not tried for long: then there is no next attempt.
        const begun = async (): Promise<boolean> => held.reached() || !(await isPending(one));
        await until(begun, AGAIN_SECONDS, `no next attempt of ${cell.point.activity} of ${guest.name} begins`);
      });
      await Promise.all(next);
    },
  });
  const failed = await strike.then(
    () => null,
    (error: unknown) => `the strike failed: ${explain(error).message}`,
  );
  if (failed !== null) {
    // Half a strike leaves nobody standing for the next wave.
    await fleet.testbed.heal();
    await go();
  }
  const outcomes = await Promise.all(cases.map((one) => endOf(fleet, one, struckAt)));
  for (const [index, outcome] of outcomes.entries()) {
    const problem = problems[index] ?? failed;
    if (problem !== null) outcome.problems.push(problem);
  }
  return outcomes;
}

/** Starts the move, which is to be held at its point. */
async function begin(fleet: Fleet, cell: Cell, guest: Guest): Promise<Case> {
  const destination = guest.host === STRUCK ? OTHER : STRUCK;
  const at: Record<Place, string> = { source: guest.host, destination, control: 'control' };
  const where = at[cell.point.place];
  const held = await fleet.hold(where, cell.point.name, guest.id);
  const turning = cell.point.wayBack ? await fleet.hold(destination, 'transferPackage.before', guest.id) : null;
  const running = await fleet.migrate(guest, destination, { retryWindowSeconds: RETRY_WINDOW_SECONDS });
  const reached = async (one: Held, point: string): Promise<void> => {
    let failed: unknown = null;
    // The end of the move, before it came to its point, says why it never will.
    running.result(new AbortController().signal).catch((error: unknown) => (failed = error));
    await until(
      () => {
        if (failed !== null)
          throw new VmferryError('Internal', `${guest.name} never came to ${point}`, { cause: failed });
        return one.reached();
      },
      REACH_SECONDS,
      `${guest.name} did not come to ${point} on ${where}`,
    );
  };
  const arrive = async (): Promise<void> => {
    if (turning) {
      await reached(turning, 'transferPackage.before');
      await running.return();
      await turning.release();
    }
    await reached(held, cell.point.name);
  };
  const arrived = arrive().then(
    () => null,
    (error: unknown) => explain(error).message,
  );
  return { cell, guest, destination, where, running, held, arrived };
}

/** Is Temporal still to get an answer from the activity of the point? */
async function isPending({ running, cell }: Case): Promise<boolean> {
  return (await running.snapshot()).activities.some(({ type }) => type === cell.point.activity);
}

async function givenUp(cases: readonly Case[]): Promise<void> {
  await Promise.all(
    cases.map(async ({ running, cell, guest }) => {
      const { activity } = cell.point;
      await until(
        async () => {
          const { activities } = await running.snapshot();
          return activities.filter(({ type }) => type === activity).every(({ attempt }) => attempt > 1);
        },
        GIVEN_UP_SECONDS,
        `Temporal does not give up ${activity} of ${guest.name}`,
      );
    }),
  );
}

async function endOf(fleet: Fleet, { cell, guest, destination, running }: Case, struckAt: number): Promise<Outcome> {
  const ends = expectedEnds(cell.fault, cell.role, cell.point);
  const ended = (end: Outcome['end'], why: string): Outcome => {
    const seconds = (performance.now() - struckAt) / 1000;
    const expected = ends.some((one) => one === end);
    const problems = expected ? [] : [`ended as ${end}, not as ${ends.join(' or ')}: ${why}`];
    return { cell, guest, end, why, seconds, problems };
  };
  try {
    await fleet.end(running, END_SECONDS);
    guest.host = destination;
    return ended('moved', '');
  } catch (error) {
    const { type, message } = explain(error);
    const why = `${type}: ${message}`;
    if (type === 'Interrupted') return ended('no end', JSON.stringify((await running.snapshot()).progress));
    return ended(type === 'MoveReturned' ? 'returned' : 'refused', why);
  }
}

async function until(condition: () => boolean | Promise<boolean>, seconds: number, otherwise: string): Promise<void> {
  for (const deadline = performance.now() + seconds * 1000; !(await condition()); await sleep(50)) {
    if (performance.now() > deadline) throw new VmferryError('Internal', `${otherwise} within ${seconds} s`);
  }
}
