/**
 * What a move tells while it goes on: to programs by the progress query, to people in the Temporal UI by the current
 * details, to searches by the attributes. Nothing here decides anything.
 */
import { setCurrentDetails, upsertSearchAttributes } from '@temporalio/workflow';
import {
  searchAttributes,
  type Host,
  type HostId,
  type MoveKind,
  type MovePhase,
  type MoveProgress,
  type ParkChoice,
  type Parked,
  type StepRecord,
} from '../contract.ts';
import { reasonOf } from '../failing.ts';

const TITLES: Record<MovePhase, string> = {
  preparing: 'is being prepared; the guest runs',
  blackout: 'goes on; the guest is stopped',
  waiting: 'waits for a host',
  parked: 'is parked',
  returning: 'goes back to its source',
  settling: 'is done; clearing up',
  moved: 'is done',
  returned: 'was returned',
  abandoned: 'was abandoned; the instance is saved',
  failed: 'failed',
};

const ENDS: readonly MovePhase[] = ['moved', 'returned', 'abandoned', 'failed'];

export class Story {
  readonly progress: MoveProgress;
  readonly #what: string;
  readonly #onPhase: (phase: MovePhase) => void;
  readonly #notes: string[] = [];
  readonly #absent = new Set<HostId>();
  #phaseBeforeWaiting: MovePhase = 'preparing';

  /** `onPhase` is told of every phase but the first. */
  constructor(
    kind: MoveKind,
    ids: Pick<MoveProgress, 'moveId' | 'instanceId' | 'packageId'>,
    onPhase: (phase: MovePhase) => void,
  ) {
    this.#what = kind === 'migrate' ? 'Move' : kind === 'save' ? 'Save' : 'Restore';
    this.#onPhase = onPhase;
    this.progress = {
      ...ids,
      instanceName: '',
      source: '',
      destination: '',
      generation: 0,
      phase: kind === 'restore' ? 'blackout' : 'preparing',
      step: null,
      steps: [],
      packageBytes: 0,
      wireBytes: 0,
    };
    upsertSearchAttributes([
      { key: searchAttributes.instance, value: ids.instanceId },
      { key: searchAttributes.phase, value: this.progress.phase },
    ]);
    this.#publish();
  }

  /** Who moves, from where, and where to; told again when the move is sent elsewhere. */
  route(instanceName: string, source: Host, destination: Host): void {
    Object.assign(this.progress, { instanceName, source: source.id, destination: destination.id });
    upsertSearchAttributes([
      { key: searchAttributes.source, value: source.id },
      { key: searchAttributes.destination, value: destination.id },
    ]);
    this.#publish();
  }

  phase(phase: MovePhase): void {
    if (phase === this.progress.phase) return;
    this.progress.phase = phase;
    if (ENDS.includes(phase)) this.progress.step = null;
    upsertSearchAttributes([{ key: searchAttributes.phase, value: phase }]);
    this.#publish();
    this.#onPhase(phase);
  }

  /** Runs one step and keeps its record. `told` says for people what it did. */
  async step<T>(
    step: StepRecord['step'],
    host: StepRecord['host'],
    run: () => Promise<T>,
    told?: (result: T) => string,
  ): Promise<T> {
    const record: StepRecord = { step, host, startedAt: Date.now() };
    this.progress.steps.push(record);
    this.progress.step = step;
    this.#publish();
    try {
      const result = await run();
      if (told) record.summary = told(result);
      return result;
    } catch (error) {
      const { type, message } = reasonOf(error);
      record.summary = `${type}: ${message}`;
      throw error;
    } finally {
      record.endedAt = Date.now();
      this.#publish();
    }
  }

  /** A host worker is absent. On the way back and while settling the phase goes on to say so. */
  waiting(host: HostId): void {
    const { phase } = this.progress;
    this.#absent.add(host);
    this.progress.waitingFor = host;
    this.progress.waitingSince ??= Date.now();
    if (phase === 'preparing' || phase === 'blackout') {
      this.#phaseBeforeWaiting = phase;
      this.phase('waiting');
    }
    this.#publish();
  }

  waitingOver(host: HostId): void {
    this.#absent.delete(host);
    const [other] = this.#absent;
    if (other === undefined) {
      delete this.progress.waitingFor;
      delete this.progress.waitingSince;
    } else {
      this.progress.waitingFor = other;
    }
    if (other === undefined && this.progress.phase === 'waiting') this.phase(this.#phaseBeforeWaiting);
    this.#publish();
  }

  /** It cannot go on, or not without luck: the operator may decide. Told again with another reason, its age stays. */
  parked(failure: unknown, offer: { choices: ParkChoice[]; released: boolean }): void {
    this.stuck(failure, offer);
    this.phase('parked');
  }

  /** As `parked`, while the phase tells of something that goes on in any case: the return, or the clearing up. */
  stuck(failure: unknown, offer: { choices: ParkChoice[]; released: boolean }): void {
    const { type, message } = reasonOf(failure);
    const since = this.progress.parked?.since ?? Date.now();
    this.progress.parked = { failure: type, reason: message, since, ...offer };
    this.#publish();
  }

  unparked(): void {
    delete this.progress.parked;
    this.#publish();
  }

  /** Something worth knowing that changes nothing. */
  note(text: string): void {
    this.#notes.push(`${clock(Date.now())} ${text}`);
    if (this.#notes.length > 20) this.#notes.shift();
    this.#publish();
  }

  /** The guest runs again. */
  blackoutEnded(seconds: number): void {
    this.progress.blackoutSeconds = seconds;
    this.#publish();
  }

  /** Seconds of each step, repetitions together. */
  stepSeconds(): Record<string, number> {
    const millis: Record<string, number> = {};
    for (const { step, startedAt, endedAt } of this.progress.steps) {
      if (endedAt !== undefined) millis[step] = (millis[step] ?? 0) + endedAt - startedAt;
    }
    return Object.fromEntries(Object.entries(millis).map(([step, sum]) => [step, sum / 1000]));
  }

  #publish(): void {
    setCurrentDetails(markdown(this.#what, this.progress, this.#notes));
  }
}

function markdown(what: string, progress: MoveProgress, notes: string[]): string {
  const { instanceName, instanceId, source, destination, phase, parked, waitingFor, waitingSince } = progress;
  const { blackoutSeconds } = progress;
  const route = source === destination ? `on **${source}**` : `from **${source}** to **${destination}**`;
  const lines = [`${what} of **${instanceName || instanceId}**${source && ` ${route}`} ${TITLES[phase]}.`, ''];
  if (parked) {
    lines.push(`Since ${clock(parked.since)}: ${parked.failure}: ${parked.reason}`, '', choicesOf(parked), '');
  }
  if (waitingFor) {
    const since = waitingSince === undefined ? '' : ` since ${clock(waitingSince)}`;
    lines.push(`The worker of **${waitingFor}** is absent${since}; this goes on when it is back.`, '');
  }
  const stopped = progress.steps.find(({ step }) => step === 'saveInstance');
  if (blackoutSeconds !== undefined) lines.push(`Blackout: ${blackoutSeconds.toFixed(2)} s.`, '');
  else if (stopped) lines.push(`Blackout since ${clock(stopped.startedAt)}.`, '');
  for (const { step, host, startedAt, endedAt, summary } of progress.steps) {
    const time = endedAt === undefined ? `since ${clock(startedAt)}` : `${((endedAt - startedAt) / 1000).toFixed(2)} s`;
    lines.push(`1. \`${step}\` on ${host}: ${time}${summary ? ` · ${summary}` : ''}`);
  }
  if (notes.length > 0) lines.push('', ...notes.map((note) => `- ${note}`));
  return lines.join('\n');
}

/** The commands that decide, for people. */
function choicesOf({ choices, released }: Parked): string {
  const list = choices.map((choice) => `\`${choice}\``).join(', ');
  const fenced =
    released && choices.includes('readdress') ? ' (`readdress` needs a fence, signed with the pool key)' : '';
  const goesOn = released || choices.length === 1 ? 'It goes on by itself once the cause is gone. ' : '';
  return `${goesOn}Decide with \`vmferry moves …\`: ${list}${fenced}.`;
}

const clock = (time: number): string => new Date(time).toISOString().slice(11, 19);
