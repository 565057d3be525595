/** One clock for everything observed: CLOCK_MONOTONIC, in milliseconds. */
import { readFileSync, type BigIntStats } from 'node:fs';
import type { Between, Time } from '../history.ts';

export const now = (): Time => Number(process.hrtime.bigint()) / 1e6;

/** The kernel stamps files with the time of its last tick (4 ms at 250 Hz); the rest is the error of the conversion. */
const STAMP_MS = 6;

/** What to subtract from the wall clock's time. */
let offset = measure();

/** To be called now and then: the machine's clock may be set. */
export function calibrate(): void {
  offset = measure();
}

/** Stamps of a file as a window of the monotonic clock: its content was there after its birth, at the latest by its change. */
export function writtenAt(stats: BigIntStats): Between {
  return { after: fileTime(stats.birthtimeNs), by: fileTime(stats.ctimeNs) + STAMP_MS };
}

/** When a process began that has this start time in /proc/PID/stat: clock ticks of 10 ms, which count from boot. */
export function ticksAt(startTime: number): Between {
  const at = startTime * 10 - bootOffset;
  return { after: at - 20, by: at + 20 };
}

/** A machine that has slept, or was restored from a snapshot, has been up for longer than its clock has run. */
const bootOffset = Number(readFileSync('/proc/uptime', 'latin1').split(' ')[0]) * 1000 - now();

const fileTime = (wall: bigint): Time => Number(wall) / 1e6 - offset;

/** `Date.now` tells whole milliseconds, so we wait for the instant at which it turns. To be interrupted there makes it less. */
function measure(): number {
  let best = -Infinity;
  for (let trial = 0; trial < 3; trial++) {
    const begun = Date.now();
    let wall: number;
    while ((wall = Date.now()) === begun);
    best = Math.max(best, wall - now());
  }
  return best;
}
