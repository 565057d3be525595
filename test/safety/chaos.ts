/**
 * Moves several instances back and forth among three hosts while things go wrong at random, and has the whole history
 * judged. What is done, and after which pauses, follows from one seed; what comes of it need not.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Running } from '../../client/api.ts';
import { explain } from '../../client/failure.ts';
import type { HostId, MoveResult } from '../../workflows/contract.ts';
import { VmferryError } from '../../workflows/failures.ts';
import { judge } from './checker.ts';
import { FAULTS, type Fault } from './faults.ts';
import { Fleet, type Guest } from './fleet.ts';
import type { History, Violation } from './history.ts';
import { Observer } from './observe/observer.ts';
import { Random } from './random.ts';
import { backInService } from './service.ts';

export interface ChaosOptions {
  seed: number;
  minutes: number;
  hosts: number;
  guests: number;
  log: (line: string) => void;
}

export interface ChaosReport {
  seed: number;
  minutes: number;
  /** How often each fault struck, and how the moves ended. */
  faults: Record<string, number>;
  ends: Record<string, number>;
  /** Moves that ended as a defect, and guests that did not come back into service once all was mended. */
  problems: string[];
  violations: Violation[];
  /** All that was observed, for `judge.ts`. */
  history: History;
}

/** Short, so that moves also end in their way back. */
const RETRY_WINDOW_SECONDS = 30;
/** Once nothing is broken any more, everything comes to its end within this time. */
const CALM_SECONDS = 420;
/** Faults that strike at the same time, at different hosts. */
const FAULTS_AT_ONCE = 2;
/** What a fault waits for in a sweep, where it knows which moves stand where. */
const HEARTBEAT_LOST_MS = 12_000;

export async function chaos({ seed, minutes, hosts, guests, log }: ChaosOptions): Promise<ChaosReport> {
  const fleet = await Fleet.up({ hosts, log });
  try {
    log(`booting ${guests} guests on ${hosts} hosts`);
    await fleet.spawn(guests, fleet.testbed.hosts);
    const observer = await Observer.start(fleet.testbed, { log });
    for (const guest of fleet.guests) observer.watch(guest);
    const campaign = new Campaign(fleet, observer, seed, log);
    log(`seed ${seed}: ${minutes} minutes of moves and faults begin`);
    await campaign.run(minutes * 60_000);
    await campaign.calm();
    const history = await observer.finish();
    const { faults, ends, problems } = campaign;
    return { seed, minutes, faults, ends, problems, violations: judge(history), history };
  } finally {
    await fleet.down();
  }
}

class Campaign {
  readonly faults: Record<string, number> = {};
  readonly ends: Record<string, number> = {};
  readonly problems: string[] = [];
  readonly #fleet: Fleet;
  readonly #observer: Observer;
  readonly #seed: number;
  readonly #log: (line: string) => void;
  readonly #struck = new Set<string>();
  #over = 0;

  constructor(fleet: Fleet, observer: Observer, seed: number, log: (line: string) => void) {
    this.#fleet = fleet;
    this.#observer = observer;
    this.#seed = seed;
    this.#log = log;
  }

  /** Moves and faults, until the time is over and whatever was begun has been given the chance to end. */
  async run(milliseconds: number): Promise<void> {
    this.#over = performance.now() + milliseconds;
    const faults = Array.from({ length: FAULTS_AT_ONCE }, (_, index) =>
      this.#breakThings(new Random(this.#seed, index)),
    );
    const moves = this.#fleet.guests.map((guest, index) => this.#moveAbout(guest, new Random(this.#seed, 100 + index)));
    // Whichever fails ends all; it is told of when the others have come to their end, and nothing goes on behind the report.
    for (const one of [...faults, ...moves]) one.catch(() => (this.#over = 0));
    const struck = await Promise.allSettled(faults);
    await this.#fleet.testbed.heal();
    const ended = [...struck, ...(await Promise.allSettled(moves))];
    const failed = ended.find((result) => result.status === 'rejected');
    if (failed) throw failed.reason;
  }

  /** All is mended: whoever is not in service a while later is lost. */
  async calm(): Promise<void> {
    await this.#fleet.locate();
    for (const { guest, text } of await backInService(this.#fleet)) this.problems.push(`${guest.name}: ${text}`);
  }

  get #going(): boolean {
    return performance.now() < this.#over;
  }

  async #breakThings(random: Random): Promise<void> {
    while (this.#going) {
      await sleep(random.between(1_000, 12_000));
      const fault = random.pick(FAULTS);
      const where = fault.on === 'control' ? 'control' : random.pick(this.#fleet.testbed.hosts);
      // Two faults of one host would undo each other; the other loop's choice was first.
      if (!this.#going || this.#struck.has(where)) continue;
      this.#struck.add(where);
      this.faults[fault.name] = (this.faults[fault.name] ?? 0) + 1;
      this.#log(`${where}: ${fault.name}`);
      await this.#strike(fault, where);
      this.#struck.delete(where);
    }
  }

  async #strike(fault: Fault, where: string): Promise<void> {
    const { testbed } = this.#fleet;
    if (fault.disturbs) this.#observer.disturbance({ kind: fault.disturbs, host: where, note: fault.name });
    await fault.strike({
      testbed,
      host: where,
      go: () => Promise.resolve(),
      givenUp: () => sleep(HEARTBEAT_LOST_MS),
      anotherAttempt: () => Promise.resolve(),
    });
    // Only what has no end of its own.
    if (fault.lift) await fault.lift(testbed, where);
  }

  async #moveAbout(guest: Guest, random: Random): Promise<void> {
    while (this.#going) {
      const destination = random.pick(this.#fleet.testbed.hosts.filter((host) => host !== guest.host));
      const onFailure = random.once(3) ? 'park' : 'return';
      const callOffAfter = random.once(6) ? random.between(0, 20_000) : null;
      const end = await this.#move(guest, destination, onFailure, callOffAfter, random);
      this.ends[end] = (this.ends[end] ?? 0) + 1;
      this.#log(`${guest.name} ${guest.host} → ${destination}: ${end}`);
      await this.#fleet.locate([guest]);
      await this.#serve(guest);
      await this.#observer.checkpoint(guest.id);
      await sleep(random.between(0, 4_000));
    }
  }

  async #move(
    guest: Guest,
    destination: HostId,
    onFailure: 'park' | 'return',
    callOffAfter: number | null,
    random: Random,
  ): Promise<string> {
    try {
      const running = await this.#fleet.migrate(guest, destination, {
        onFailure,
        retryWindowSeconds: RETRY_WINDOW_SECONDS,
      });
      const leave = new AbortController();
      const beside = [this.#decide(running, random, leave.signal)];
      if (callOffAfter !== null) beside.push(this.#callOff(running, callOffAfter, leave.signal));
      // Seen below, when the move has come to its end.
      for (const one of beside) one.catch(() => undefined);
      try {
        await this.#fleet.end(running, CALM_SECONDS + Math.max(0, (this.#over - performance.now()) / 1000));
        return 'moved';
      } finally {
        leave.abort();
        await Promise.all(beside);
      }
    } catch (error) {
      const { type, message } = explain(error);
      // The answer to an earlier start was lost with the server that gave it.
      if (type === 'InstanceBusy') await this.#fleet.idle(guest, CALM_SECONDS);
      if (type === 'Internal' || type === 'Interrupted') this.problems.push(`${guest.name}: ${type}: ${message}`);
      return type;
    }
  }

  /** The operator, who decides by the dice about a move that is parked. */
  async #decide(running: Running<MoveResult>, random: Random, leave: AbortSignal): Promise<void> {
    while (!leave.aborted) {
      await pause(2_000, leave);
      const progress = await this.#ask(async () => (await running.snapshot()).progress);
      if (progress?.phase !== 'parked' || progress.parked === undefined) continue;
      // An abandoned move leaves its guest to a person, who is not part of this.
      const choice = random.pick(progress.parked.choices.filter((one) => one !== 'abandon'));
      const elsewhere = this.#fleet.testbed.hosts.filter((host) => host !== progress.source);
      this.#log(`${progress.instanceName} is parked: ${progress.parked.failure}; ${choice}`);
      await this.#ask(async () => {
        if (choice === 'retry') await running.retry();
        if (choice === 'return') await running.return();
        if (choice === 'readdress') await running.readdress(random.pick(elsewhere));
      });
    }
  }

  async #callOff(running: Running<MoveResult>, after: number, leave: AbortSignal): Promise<void> {
    await pause(after, leave);
    if (!leave.aborted) await this.#ask(() => running.cancel());
  }

  /** What a person asks may come too late, or find nobody at home; the move goes on either way. */
  async #ask<T>(question: () => Promise<T>): Promise<T | null> {
    try {
      return await question();
    } catch (error) {
      if (explain(error).type === 'Internal') throw error;
      return null;
    }
  }

  /** A guest that a fault took down is started by whoever looks after it, as soon as its host is there. */
  async #serve(guest: Guest): Promise<void> {
    while (this.#going) {
      try {
        const [problem] = await backInService(this.#fleet, [guest]);
        if (!problem) return;
      } catch (error) {
        if (!(error instanceof VmferryError)) throw error;
      }
      await sleep(2_000);
    }
  }
}

const pause = (milliseconds: number, leave: AbortSignal): Promise<void> =>
  sleep(milliseconds, undefined, { signal: leave }).catch(() => undefined);
