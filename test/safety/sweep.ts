/** Runs cases of the sweep in waves on one testbed, and has the history of each guest judged after its wave. */
import { setTimeout as sleep } from 'node:timers/promises';
import { VmferryError } from '../../workflows/failures.ts';
import { keepHistory } from './evidence.ts';
import type { Fault } from './faults.ts';
import { Fleet, type Guest } from './fleet.ts';
import { Observer } from './observe/observer.ts';
import { backInService } from './service.ts';
import type { Violation } from './history.ts';
import { OTHER, runWave, sourceOf, STRUCK, type Cell, type Outcome } from './wave.ts';

/** As many small guests as two cores carry. */
const GUESTS = 16;
const SETTLE_SECONDS = 45;
const CROSS_SECONDS = 420;

export class Sweep {
  readonly #fleet: Fleet;
  readonly #observer: Observer;
  readonly #log: (line: string) => void;
  /** In a move that has not come to an end, which is a finding. */
  readonly #busy = new Set<Guest>();

  private constructor(fleet: Fleet, observer: Observer, log: (line: string) => void) {
    this.#fleet = fleet;
    this.#observer = observer;
    this.#log = log;
  }

  static async up(log: (line: string) => void, guests = GUESTS): Promise<Sweep> {
    const fleet = await Fleet.up({ hosts: 2, log });
    try {
      log(`booting ${guests} guests`);
      await fleet.spawn(guests, [STRUCK, OTHER]);
      const observer = await Observer.start(fleet.testbed, { log });
      for (const guest of fleet.guests) observer.watch(guest);
      return new Sweep(fleet, observer, log);
    } catch (error) {
      await fleet.down();
      throw error;
    }
  }

  async down(): Promise<void> {
    await this.#observer.finish();
    await this.#fleet.down();
  }

  openMoves(): Promise<string[]> {
    return this.#fleet.openMoves();
  }

  /** Runs every case, as many at a time as there are guests where they are needed; `onOutcome` is told of each. */
  async run(cells: readonly Cell[], onOutcome: (outcome: Outcome) => unknown): Promise<void> {
    for (const fault of new Set(cells.map((cell) => cell.fault))) {
      let left = cells.filter((cell) => cell.fault === fault);
      while (left.length > 0) {
        const free = this.#fleet.guests.filter((guest) => !this.#busy.has(guest));
        if (free.length === 0) throw new VmferryError('Internal', 'no guest is left that is not in a move without end');
        const wave = assign(left, free);
        if (wave.length === 0) {
          await this.#cross(free.slice(0, left.length));
          continue;
        }
        left = left.filter((cell) => !wave.some((taken) => taken.cell === cell));
        for (const outcome of await this.#wave(fault, wave)) await onOutcome(outcome);
      }
    }
  }

  /** The disks of the hosts hold the packages of a few hundred moves, and all of them are verified with every verdict. */
  async #makeRoom(): Promise<void> {
    const ids = await this.#fleet.packages(this.#fleet.guests.filter((guest) => !this.#busy.has(guest)));
    this.#observer.disturbance({ kind: 'operator-deleted', ids });
    await this.#fleet.deletePackages(ids);
  }

  /** No guest is where a case needs it: these are moved to the other host, undisturbed. */
  async #cross(guests: readonly Guest[]): Promise<void> {
    const going = guests.map(async (guest) => {
      const destination = guest.host === STRUCK ? OTHER : STRUCK;
      const running = await this.#fleet.migrate(guest, destination);
      await this.#fleet.end(running, CROSS_SECONDS);
      guest.host = destination;
    });
    await Promise.all(going);
  }

  async #wave(fault: Fault, wave: readonly { cell: Cell; guest: Guest }[]): Promise<Outcome[]> {
    const begun = performance.now();
    this.#log(
      `${fault.name}: ${wave.map(({ cell, guest }) => `${guest.name} ${cell.role} ${cell.point.name}`).join(', ')}`,
    );
    await Promise.all(wave.map(({ guest }) => this.#observer.checkpoint(guest.id)));
    const outcomes = await runWave(this.#fleet, fault, wave, () => {
      if (fault.disturbs) this.#observer.disturbance({ kind: fault.disturbs, host: STRUCK, note: fault.name });
    });
    for (const { end, guest } of outcomes) if (end === 'no end') this.#busy.add(guest);
    await this.#fleet.locate();
    const problems = await backInService(this.#fleet);
    const struck = outcomes.map(({ guest }) => guest.id);
    const violations = await settledVerdict(this.#observer, struck);
    if (violations.length > 0) {
      const path = await keepHistory(await this.#observer.snapshot(struck), `sweep ${fault.name} ${Date.now()}`);
      this.#log(`  the history is in ${path}; node test/safety/judge.ts ${path} ${struck.join(' ')}`);
    }
    for (const violation of violations) {
      const outcome = outcomes.find(({ guest }) => guest.id === violation.instance) ?? outcomes[0];
      outcome?.problems.push(`invariant ${violation.invariant}: ${violation.text}`);
    }
    for (const { guest, text } of problems) {
      // The fault strikes the whole host, with guests that have no part in this wave.
      const outcome = outcomes.find((one) => one.guest === guest) ?? outcomes[0];
      outcome?.problems.push(`${guest.name} ${text}`);
    }
    await this.#makeRoom();
    const bad = outcomes.filter((outcome) => outcome.problems.length > 0);
    for (const { cell, problems: found } of bad) {
      this.#log(`  ✖ ${fault.name}, ${cell.role}, ${cell.point.name}: ${found.join('; ')}`);
    }
    const seconds = Math.round((performance.now() - begun) / 1000);
    this.#log(`  ${outcomes.length - bad.length} of ${outcomes.length} as they must be, after ${seconds} s`);
    return outcomes;
  }
}

/** Gives each cell a guest that is where the cell needs it, as long as there is one. */
function assign(cells: readonly Cell[], guests: readonly Guest[]): { cell: Cell; guest: Guest }[] {
  const free = [...guests];
  return cells.flatMap((cell) => {
    const index = free.findIndex(({ host }) => host === sourceOf(cell, host));
    return index < 0 ? [] : [{ cell, guest: free.splice(index, 1)[0] as Guest }];
  });
}

/** What a host could not be told while it was down is done soon after it is back: the last word counts. */
export async function settledVerdict(observer: Observer, instances: readonly string[]): Promise<Violation[]> {
  for (const deadline = performance.now() + SETTLE_SECONDS * 1000; ; await sleep(1000)) {
    const violations = await observer.judgeNow(instances);
    if (violations.length === 0 || performance.now() > deadline) return violations;
  }
}
