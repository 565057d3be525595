/**
 * What a running workflow shows: a line that is drawn anew on a terminal, a line for each finished step elsewhere,
 * events in jsonl. `Tracker` turns snapshots into facts and is fed with the time, so that tests need no clock.
 */
import type { HostId, MovePhase, MoveProgress, Parked, StepRecord } from '../workflows/contract.ts';
import type { Snapshot } from './api.ts';
import { choicesOf } from './choices.ts';
import { formatBytes, formatSeconds } from './format.ts';
import type { Output } from './output.ts';

/** Rates are averaged over this many milliseconds. */
const RATE_WINDOW_MS = 8_000;

/** What is shown at one moment. */
export interface View {
  moveId: string | null;
  instanceId: string | null;
  /** `counter alpha → beta`. */
  title: string;
  phase: MovePhase | null;
  step: string | null;
  bytesDone: number;
  /** 0 while unknown. */
  bytesTotal: number;
  bytesPerSecond: number | null;
  etaSeconds: number | null;
  /** Of the current step; 1 for the first. */
  attempt: number;
  lastFailure: string | null;
  waitingFor: HostId | null;
  parked: Parked | null;
  trouble: string | null;
}

/** What changed since the snapshot before. */
export interface Change {
  ended: StepRecord[];
  /** Phase, step, failure or trouble changed. */
  turned: boolean;
  view: View;
}

/** Bytes a second over the last seconds of one step. */
class Rate {
  #samples: { at: number; bytes: number }[] = [];

  add(at: number, bytes: number): void {
    const last = this.#samples.at(-1);
    if (last !== undefined && bytes < last.bytes) this.#samples = [];
    this.#samples.push({ at, bytes });
    while (this.#samples.length > 2 && at - (this.#samples[0]?.at ?? at) > RATE_WINDOW_MS) this.#samples.shift();
  }

  get bytesPerSecond(): number | null {
    const first = this.#samples[0];
    const last = this.#samples.at(-1);
    if (first === undefined || last === undefined || last.at - first.at < 500) return null;
    return (last.bytes - first.bytes) / ((last.at - first.at) / 1000);
  }
}

export class Tracker {
  readonly #title: string;
  #rate = new Rate();
  #step: string | null = null;
  #told = new Set<string>();
  #signature = '';
  #last: MoveProgress | null = null;

  /** @param title until the workflow tells names */
  constructor(title: string) {
    this.#title = title;
  }

  /** @param now milliseconds */
  update(snapshot: Snapshot, now: number): Change {
    // A control worker that is away for a moment takes nothing back.
    const progress = snapshot.progress ?? this.#last;
    this.#last = progress;
    const working = snapshot.activities.filter(({ started }) => started);
    const activity =
      working.find(({ heartbeat }) => heartbeat?.step === progress?.step) ?? working[0] ?? snapshot.activities[0];
    const step = progress?.step ?? activity?.heartbeat?.step ?? activity?.type ?? null;
    if (step !== this.#step) this.#rate = new Rate();
    this.#step = step;
    const { bytesDone, bytesTotal } = activity?.heartbeat ?? { bytesDone: 0, bytesTotal: 0 };
    if (bytesTotal > 0) this.#rate.add(now, bytesDone);
    const bytesPerSecond = bytesTotal > 0 ? this.#rate.bytesPerSecond : null;
    const view: View = {
      moveId: progress?.moveId ?? null,
      instanceId: progress?.instanceId ?? null,
      // The workflow knows names once it has planned.
      title: progress === null || progress.source === '' ? this.#title : title(progress),
      phase: progress?.phase ?? null,
      step,
      bytesDone,
      bytesTotal,
      bytesPerSecond,
      etaSeconds:
        bytesPerSecond === null || bytesPerSecond <= 0 ? null : Math.max(0, bytesTotal - bytesDone) / bytesPerSecond,
      attempt: activity?.attempt ?? 1,
      lastFailure: activity?.lastFailure ?? null,
      waitingFor: progress?.waitingFor ?? null,
      parked: progress?.phase === 'parked' ? (progress.parked ?? null) : null,
      trouble: snapshot.trouble,
    };
    const ended = (progress?.steps ?? []).filter((record) => {
      const key = `${record.step} ${record.host} ${record.startedAt}`;
      if (record.endedAt === undefined || this.#told.has(key)) return false;
      this.#told.add(key);
      return true;
    });
    const signature = JSON.stringify([view.phase, view.step, view.lastFailure, view.waitingFor, view.trouble]);
    const turned = signature !== this.#signature;
    this.#signature = signature;
    return { ended, turned, view };
  }
}

function title({ instanceName, source, destination }: MoveProgress): string {
  return source === destination ? `${instanceName} on ${source}` : `${instanceName} ${source} → ${destination}`;
}

/** One line for a terminal. */
export function progressLine(view: View): string {
  const parts = [view.title];
  if (view.step !== null) parts.push(view.step);
  if (view.bytesTotal > 0) {
    const percent = Math.min(100, Math.floor((100 * view.bytesDone) / view.bytesTotal));
    parts.push(`${formatBytes(view.bytesDone)} of ${formatBytes(view.bytesTotal)}`, `${percent} %`);
    if (view.bytesPerSecond !== null) parts.push(`${formatBytes(view.bytesPerSecond)}/s`);
    if (view.etaSeconds !== null) parts.push(`${formatSeconds(Math.ceil(view.etaSeconds)).replace(/\.\d+/, '')} left`);
  }
  const remark = remarkOn(view);
  if (remark !== null) parts.push(remark);
  return parts.join('  ');
}

/** What keeps it from going on, if anything does. */
function remarkOn(view: View): string | null {
  if (view.trouble !== null) return view.trouble;
  if (view.parked !== null) return 'parked, waits for your decision';
  if (view.waitingFor !== null) return `waiting for the worker of host ${view.waitingFor}`;
  if (view.phase === 'returning') return 'on the way back to its source';
  if (view.attempt > 1) return `try ${view.attempt}${view.lastFailure === null ? '' : `: ${view.lastFailure}`}`;
  return null;
}

/** One line for a step that ended. */
export function stepLine(record: StepRecord): string {
  const seconds = record.endedAt === undefined ? '' : formatSeconds((record.endedAt - record.startedAt) / 1000);
  return `${record.step.padEnd(16)}  ${record.host.padEnd(10)}  ${seconds.padStart(8)}  ${record.summary ?? ''}`.trimEnd();
}

/** Shows changes in the form that the output has. */
export class ProgressDisplay {
  readonly #output: Output;
  #drawn = false;
  #remark: string | null = null;
  #parked: string | null = null;

  constructor(output: Output) {
    this.#output = output;
  }

  show({ ended, turned, view }: Change): void {
    for (const record of ended) this.#output.event('step', { moveId: view.moveId, ...record });
    if (turned || view.bytesTotal > 0) this.#output.event('progress', view);
    this.#tellParked(view);
    if (this.#output.live) {
      this.#output.status(progressLine(view));
      this.#drawn = true;
      return;
    }
    for (const record of ended) this.#output.note(stepLine(record));
    const remark = remarkOn(view);
    if (remark !== null && remark !== this.#remark) this.#output.note(`${view.title}: ${remark}`);
    this.#remark = remark;
  }

  /** Once for each reason: what was decided from another terminal may fail again. */
  #tellParked({ moveId, parked }: View): void {
    if (parked !== null && parked.reason !== this.#parked) {
      this.clear();
      this.#output.note(`The move is parked: ${parked.reason}`);
      if (parked.released) this.#output.note('It goes on by itself once the cause is gone. Or decide:');
      for (const { command, meaning } of choicesOf({ moveId: moveId ?? 'MOVE', source: '', parked })) {
        this.#output.note(`  ${command}  (${meaning})`);
      }
    }
    this.#parked = parked?.reason ?? null;
  }

  /** Frees the terminal's bottom line. */
  clear(): void {
    if (this.#drawn) this.#output.status('');
    this.#drawn = false;
  }
}
