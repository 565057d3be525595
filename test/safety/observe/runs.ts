/**
 * When vCPUs ran, by the CPU time that their threads had used at each look. No thread that is paused uses much, but some is
 * used without a run. Measured under TCG on two cores with twenty processes waiting for them:
 *
 *   suspended             0, for minutes; also while libvirtd is restarted or asks for states, registers, block devices
 *   frozen by SIGSTOP     0; 0.07 ms at the signal
 *   saved while suspended up to 0.24 ms within 40 ms, when RAM is on the disk
 *   restored, paused      1.0 ms when the thread is made, 0.6 ms when its state is loaded; up to 1.6 ms in all
 *   paused, told to quit  nothing, or 3.7 to 4.2 ms; once more than 9 ms, within 60 ms
 *   running, guest idle   3 ms in every 100; longest pause 140 ms
 *   just resumed          all the time there is, for seconds
 */
import type { Run, Time } from '../history.ts';

/** Nanoseconds within one look that are more than a paused vCPU uses, unless it is made, loaded or told to quit. */
const STIRRED_NS = 400_000;
/** More than it uses for all of that together, half again as much as was seen. */
const NO_RUN_NS = 9_000_000;
/** Longer than an idle guest rests, shorter than anything that could happen elsewhere between two runs. */
const SAME_RUN_MS = 500;
/** Time that a running thread has used is booked at the kernel's next tick. */
const BOOKED_MS = 10;
/** Whichever thread ends last gives back the memory of its process: it uses less than this for it, and in less time. */
const ENDING_NS = 50_000_000;
const ENDING_MS = 200;

export class VcpuRuns {
  /** Those that are certain, in order. The last may go on. */
  readonly runs: Run[];
  readonly #noRun: number;
  #used = 0;
  #stirring: Stirring | null = null;

  constructor(runs: Run[], vcpus: number) {
    this.runs = runs;
    this.#noRun = NO_RUN_NS * vcpus;
  }

  /** All threads together had used so many nanoseconds at a look; none was looked at since `lastLook`. */
  look(used: number, lastLook: Time, thisLook: Time): void {
    const before = this.#used;
    this.#used = used;
    if (used - before < STIRRED_NS) return;
    const after = lastLook - BOOKED_MS;
    if (!this.#stirring || after - this.#stirring.run.by > SAME_RUN_MS) {
      const run = { after, first: thisLook, last: after, by: thisLook };
      this.#stirring = { run, usedBefore: before, unsure: [] };
    }
    const { run, usedBefore, unsure } = this.#stirring;
    run.by = thisLook;
    unsure.push({ used, after });
    // What it used last may have been used for quitting, however long it ran before.
    const sure = used - this.#noRun;
    if (sure <= usedBefore) return;
    if (this.runs.at(-1) !== run) {
      run.first = thisLook;
      this.runs.push(run);
    }
    while (unsure[0] && unsure[0].used <= sure) run.last = unsure.shift()?.after ?? run.last;
  }

  /** The process has ended by this time. What it used only then was no run; libvirt would tell of one that was so short. */
  ended(by: Time): void {
    if (!this.#stirring || this.runs.at(-1) !== this.#stirring.run) return;
    const { run, usedBefore } = this.#stirring;
    if (by - run.after < ENDING_MS && this.#used - usedBefore < ENDING_NS) this.runs.pop();
  }
}

/** Use without a longer rest: a run, if it is more than a paused vCPU uses. */
interface Stirring {
  run: Run;
  /** Nanoseconds. */
  usedBefore: number;
  /** Its latest looks: what they saw used may be no run. */
  unsure: { used: number; after: Time }[];
}
