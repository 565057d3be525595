/**
 * A schedule is a list of things that happen: steps of an honest move, calls of a hostile orchestrator, deaths and losses.
 * It is carried out on a world of its own, every invariant is checked after each of them, and in the end an honest
 * operator must get the instance to run again, once.
 */
import { randomUUID } from 'node:crypto';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { HostActivities, InstanceId, MoveRef } from '../../../workflows/contract.ts';
import type { Loss } from '../../support/power-loss.ts';
import type { HOSTILE_ACTIVITIES } from './hostile.ts';
import { Dice, hostileCall, Knowledge } from './hostile.ts';
import { Invariants, readBook } from './invariants.ts';
import { Journey, type Call } from './journey.ts';
import { findRecord, TornRecord } from './records.ts';
import {
  World,
  type ActivityName,
  type Attempt,
  type Course,
  type Instant,
  type Outcome,
  type Rig,
  type SaveFault,
  type SimHost,
} from './world.ts';

/** How a call is to go wrong, in numbers that fit whatever call it will be. */
export interface CourseSpec {
  /** At which of its calls it dies, modulo how many it usually makes; or at which instant. */
  die?: number | Instant;
  /** Together with `die`: the host loses its power at that. */
  loss?: Loss;
  /** Before which call to its ports it is held until somebody wakes it; or at which instant. */
  hold?: number | Instant;
  /** It does all, and nobody hears of it. */
  unheard?: true;
  save?: SaveFault;
}

/** About which move of the instance, counted from 0, and what is exchanged in it. */
export interface Order {
  move?: number;
  /** Generations above the move's. */
  later?: number;
  /** The move id of another move. */
  folder?: number | 'bystander';
  /** Which one of those that were ever given; one that was not is no receipt, or release, at all. */
  receipt?: number;
  release?: number;
  /** The host whose record is given, as source and as destination. */
  record?: number;
  with?: object;
}

export type Instruction =
  /** The newest open journey goes on by one step; with none open, one begins. */
  | ({ do: 'advance' } & CourseSpec)
  /** A journey of the instance begins: to another host; to its own host, it is saved or continued. */
  | { do: 'begin'; to: number; beside?: true }
  /** The operator sends the journey back, or elsewhere. */
  | { do: 'back' }
  | { do: 'elsewhere'; to: number }
  /** An earlier call once more, as it was. */
  | ({ do: 'again'; pick: number } & CourseSpec)
  | ({ do: 'hostile'; activity: (typeof HOSTILE_ACTIVITIES)[number]; host: number; dice: number[] } & CourseSpec)
  | { do: 'wake'; pick: number }
  | { do: 'kill worker'; host: number }
  | { do: 'lose power'; host: number; loss: Loss }
  | { do: 'kill libvirtd' | 'start libvirtd'; host: number }
  | { do: 'kill qemu'; host: number }
  | { do: 'person'; host: number; act: 'start' | 'resume' | 'suspend' }
  /** What a host fetches next arrives damaged. */
  | { do: 'damage'; host: number }
  /** The last byte of each disk that lies opened on a host is another now. */
  | { do: 'rot'; host: number }
  /** A call that says exactly what it is about. */
  | ({ do: 'order'; activity: ActivityName; host: number } & Order & CourseSpec)
  | { do: 'count' };

export interface Schedule {
  hosts: 2 | 3;
  /** The instance starts with its host. */
  autostart?: true;
  /** How far a move of another instance has come, which none of this may touch. */
  bystander?: number;
  /** What the honest operator tries first in the end. */
  finish: 'on' | 'back';
  instructions: Instruction[];
}

export interface Failure {
  violations: string[];
  /** Everything that happened, in order. */
  story: string[];
}

/** How often which call ended how: `activity answered`, `activity refused: NotOwner`, `activity died`, … */
export type Coverage = Map<string, number>;

/**
 * Calls that change something which an undisturbed attempt makes, as measured. Dying is spread over these; a little more
 * and it dies never.
 */
const USUAL_CALLS: Partial<Record<ActivityName, number>> = {
  preflightSource: 5,
  preflightDestination: 8,
  reserve: 10,
  saveInstance: 30,
  rebaseOverlay: 25,
  buildPackage: 60,
  encryptPackage: 60,
  readdressPackage: 8,
  transferPackage: 50,
  openPackage: 40,
  rewriteXml: 25,
  restoreInstance: 40,
  releaseInstance: 20,
  resumeInstance: 20,
  returnInstance: 30,
  settleMove: 8,
  discardCopy: 8,
  pullPackage: 40,
  deletePackage: 4,
};

const NAME = 'guest';
/** Far more than anything here takes on a busy machine. */
const PATIENCE_MS = 150_000;

type Started = Awaited<ReturnType<HostActivities['startInstance']>>;
type FoundRelease = Awaited<ReturnType<HostActivities['findRelease']>>;

/** @returns null if all went as it must */
export async function carryOut(rig: Rig, schedule: Schedule, coverage: Coverage): Promise<Failure | null> {
  const world = await World.make({ ...rig, seats: rig.seats.slice(0, schedule.hosts) });
  try {
    return await new Campaign(world, schedule, coverage).run();
  } finally {
    await world.close();
  }
}

class Campaign {
  readonly #world: World;
  readonly #schedule: Schedule;
  readonly #coverage: Coverage;
  readonly #known = new Knowledge();
  readonly #invariants: Invariants;
  readonly #journeys: Journey[] = [];
  readonly #story: string[] = [];
  /** Calls that ended in an error without a name: nobody could know what to do about it. */
  readonly #unforeseen: string[] = [];
  readonly #instanceId: InstanceId = randomUUID();

  constructor(world: World, schedule: Schedule, coverage: Coverage) {
    this.#world = world;
    this.#schedule = schedule;
    this.#coverage = coverage;
    this.#invariants = new Invariants(world);
  }

  async run(): Promise<Failure | null> {
    const { instructions, bystander, autostart } = this.#schedule;
    if (bystander !== undefined) await this.#makeBystander(bystander);
    await this.#spawn(this.#instanceId, NAME, 5);
    if (autostart) await this.#world.hosts[0]!.hypervisor.setAutostart(this.#instanceId, true);
    this.#world.tick(this.#instanceId);

    for (const instruction of instructions) {
      this.#say(JSON.stringify(instruction));
      const violations = await this.#inTime(this.#do(instruction).then(() => this.#check()));
      if (violations.length > 0) return { violations, story: this.#story };
    }
    const violations = await this.#inTime(this.#finish());
    return violations.length > 0 ? { violations, story: this.#story } : null;
  }

  /** A step that never ends would be the worst of all. */
  async #inTime(events: Promise<string[]>): Promise<string[]> {
    const timer = new AbortController();
    const late = sleep(PATIENCE_MS, ['it does not come to an end'], { signal: timer.signal });
    try {
      return await Promise.race([events, late]);
    } catch (error) {
      if (!(error instanceof TornRecord)) throw error;
      return [error.message];
    } finally {
      timer.abort();
      late.catch(() => undefined); // aborted, as it is meant to be
    }
  }

  #say(line: string): void {
    this.#story.push(line);
  }

  async #check(): Promise<string[]> {
    return [...this.#unforeseen, ...(await this.#invariants.check(this.#instanceId, this.#known.refs))];
  }

  async #spawn(instanceId: InstanceId, name: string, address: number): Promise<void> {
    const { hosts, rig } = this.#world;
    const spec = { name, imageId: rig.image.id, memoryBytes: 2 ** 28, vcpus: 1, domainType: 'qemu', boot: {} };
    const outcome = await this.#world.run(hosts[0]!, 'spawnInstance', {
      instanceId,
      spec,
      address: this.#world.address(address),
    });
    if (outcome.kind !== 'answered') throw new Error(`the instance was not spawned: ${JSON.stringify(outcome)}`);
  }

  async #makeBystander(steps: number): Promise<void> {
    const { hosts, rig } = this.#world;
    const instanceId = randomUUID();
    await this.#spawn(instanceId, 'bystander', 6);
    this.#world.tick(instanceId);
    const ref = { moveId: randomUUID(), instanceId, packageId: randomUUID(), generation: 2 };
    const journey = new Journey({
      ...{ ref, kind: 'migrate', source: hosts[0]!, destination: hosts[1]!, name: 'bystander' },
      ...{ address: this.#world.address(6), imageId: rig.image.id },
    });
    for (let step = 0; step < steps; step++) {
      const call = journey.next();
      if (call) journey.told(await this.#world.run(call.host, call.activity, call.input));
    }
    this.#known.refs.push(ref);
    if (journey.receipt !== null) this.#known.receipts.push(journey.receipt);
    if (journey.release !== null) this.#known.releases.push(journey.release);
    for (const { disk } of hosts) disk.settle();
    this.#invariants.watch(ref);
  }

  // ---- What happens ----

  async #do(instruction: Instruction): Promise<void> {
    const world = this.#world;
    switch (instruction.do) {
      case 'advance': {
        const journey = this.#open() ?? this.#begin(this.#journeys.length + 1);
        if (journey) await this.#advance(journey, instruction);
        break;
      }
      case 'begin':
        if (!this.#open() || instruction.beside) this.#begin(instruction.to);
        break;
      case 'back': {
        const journey = this.#open();
        if (journey?.returnable) journey.back();
        break;
      }
      case 'elsewhere':
        this.#open()?.elsewhere(this.#host(instruction.to));
        break;
      case 'again': {
        const call = new Dice([instruction.pick, 0]).recent(this.#known.calls);
        if (call) await this.#call(call, instruction);
        break;
      }
      case 'hostile': {
        const host = this.#host(instruction.host);
        const about = {
          ...{ instanceId: this.#instanceId, name: NAME, address: world.address(5), imageId: world.rig.image.id },
          ownedGeneration: readBook(host, this.#instanceId).owns ?? 0,
        };
        const dice = new Dice(instruction.dice);
        const call = hostileCall(world, host, instruction.activity, about, this.#known, dice);
        if (call) await this.#call(call, instruction);
        break;
      }
      case 'wake': {
        const attempts = [...world.attempts];
        const attempt = attempts[instruction.pick % attempts.length];
        if (attempt) await this.#wake(attempt);
        break;
      }
      case 'kill worker':
        await world.killWorker(this.#host(instruction.host));
        break;
      case 'lose power': {
        const host = this.#host(instruction.host);
        await world.killWorker(host);
        world.losePower(host, instruction.loss);
        this.#invariants.lookAgain();
        break;
      }
      case 'kill libvirtd':
        world.killLibvirtd(this.#host(instruction.host));
        break;
      case 'start libvirtd':
        if (!this.#host(instruction.host).hypervisor.libvirtdRuns)
          this.#host(instruction.host).hypervisor.startLibvirtd();
        break;
      case 'kill qemu':
        world.killQemu(this.#host(instruction.host), this.#instanceId);
        break;
      case 'person':
        await world.person(this.#host(instruction.host), this.#instanceId, instruction.act);
        break;
      case 'damage':
        world.damage(this.#host(instruction.host));
        break;
      case 'rot':
        world.rot(this.#host(instruction.host));
        break;
      case 'order': {
        const call = { host: this.#host(instruction.host), activity: instruction.activity };
        await this.#call({ ...call, input: this.#ordered(instruction) }, instruction);
        break;
      }
      case 'count':
        break;
    }
    world.tick(this.#instanceId);
  }

  #host(number: number): SimHost {
    return this.#world.hosts[number % this.#world.hosts.length]!;
  }

  #ordered({ move = 0, later = 0, folder, receipt, release, with: rest, record }: Order): object {
    const refs = this.#known.refs;
    const own = refs.filter(({ instanceId }) => instanceId === this.#instanceId);
    const ref = own[move];
    if (!ref) throw new Error(`there is no move ${move} yet`);
    const foreign = refs.find(({ instanceId }) => instanceId !== this.#instanceId);
    const moveId = folder === 'bystander' ? foreign?.moveId : folder === undefined ? ref.moveId : own[folder]?.moveId;
    const signed = record === undefined ? undefined : this.#host(record).signedRecord;
    return {
      ...{ ...ref, moveId, generation: ref.generation + later },
      ...(receipt !== undefined && { receipt: this.#known.receipts[receipt] ?? ref.moveId }),
      ...(release !== undefined && { release: this.#known.releases[release] ?? ref.moveId }),
      ...(signed !== undefined && { source: signed, destination: signed }),
      ...rest,
    };
  }

  #open(): Journey | undefined {
    return this.#journeys.findLast(({ end }) => end === null);
  }

  /** From the host that owns the instance, which the catalog follows. */
  #begin(to: number): Journey | null {
    const { hosts, rig } = this.#world;
    const source = hosts.find((host) => readBook(host, this.#instanceId).owns !== null);
    if (!source) return null;
    const generation = readBook(source, this.#instanceId).owns! + 1;
    const saved = savedPackage(source, this.#instanceId, generation - 1);
    const destination = this.#host(to);
    const kind = saved !== null ? 'restore' : destination === source ? 'save' : 'migrate';
    const ref: MoveRef = {
      moveId: randomUUID(),
      instanceId: this.#instanceId,
      packageId: saved ?? randomUUID(),
      generation,
    };
    const journey = new Journey({
      ...{ ref, kind, source, destination, name: NAME },
      ...{ address: this.#world.address(5), imageId: rig.image.id },
    });
    this.#known.refs.push(ref);
    this.#journeys.push(journey);
    this.#say(`  ${kind} from ${source.name} to ${destination.name} as generation ${generation}`);
    return journey;
  }

  async #advance(journey: Journey, spec: CourseSpec): Promise<void> {
    const call = journey.next();
    if (!call) return;
    const outcome = await this.#call(call, spec);
    if (outcome && !spec.unheard) journey.told(outcome);
  }

  /** Makes a call. Null if it is held amid it. */
  async #call(call: Call, spec: CourseSpec): Promise<Outcome | null> {
    const { host, activity } = call;
    this.#known.asked(call);
    if (activity === 'saveInstance' && spec.save !== undefined) host.nextSave = spec.save;
    const attempt = this.#world.begin(host, activity, call.input, courseOf(activity, spec));
    attempt.done.then(
      (outcome) => this.#heard(call, outcome),
      () => undefined,
    );
    const others = [...this.#world.attempts].filter((one) => one !== attempt && one.host === host);
    if (others.length > 0) {
      // They may hold the instance's lock, as a frozen worker does. The new one gets its chance beside them first.
      await Promise.race([attempt.done, attempt.held, sleep(40)]);
      for (const other of others) await this.#wake(other);
    }
    const outcome = await Promise.race([attempt.done, attempt.held.then(() => null)]);
    if (outcome === null) this.#say(`  ${host.name}.${activity} is held`);
    if (outcome?.kind === 'refused' && outcome.type === 'SourceStillRunning') await this.#world.endSave(host);
    if (outcome?.kind === 'died' && spec.loss !== undefined) this.#invariants.lookAgain();
    // A host that is looked at as a whole mends what is amiss with any instance.
    const { instanceId } = call.input as { instanceId: InstanceId | null };
    if (activity === 'inspectHost' && instanceId === null) this.#invariants.lookAgain();
    if (activity !== 'saveInstance') return outcome;
    host.nextSave = null;
    return outcome;
  }

  async #wake(attempt: Attempt): Promise<void> {
    attempt.wake();
    await attempt.done;
  }

  #heard(call: Call, outcome: Outcome): void {
    this.#known.heard(call, outcome);
    const how = outcome.kind === 'refused' ? `refused: ${outcome.type}` : outcome.kind;
    if (outcome.kind === 'failed') this.#unforeseen.push(`${call.activity} failed: ${String(outcome.error)}`);
    const key = `${call.activity} ${how}`;
    this.#coverage.set(key, (this.#coverage.get(key) ?? 0) + 1);
    const more =
      outcome.kind === 'refused'
        ? ` (${outcome.message})`
        : outcome.kind === 'failed'
          ? ` ${stackOf(outcome.error)}`
          : '';
    this.#say(`  ${call.host.name}.${call.activity} ${how}${more}`);
  }

  // ---- The end ----

  /** Everything works again, and an honest operator brings the instance back. */
  async #finish(): Promise<string[]> {
    const { hosts } = this.#world;
    this.#say('the end: everything works again');
    for (const attempt of [...this.#world.attempts]) await this.#wake(attempt);
    for (const host of hosts) {
      if (!host.hypervisor.libvirtdRuns) host.hypervisor.startLibvirtd();
      await this.#world.endSave(host);
    }
    let violations = await this.#check();
    for (const journey of this.#journeys.filter(({ end }) => end === null)) {
      if (this.#schedule.finish === 'back' && journey.returnable) journey.back();
      for (let step = 0; step < 30 && journey.end === null && violations.length === 0; step++) {
        await this.#advance(journey, {});
        this.#world.tick(this.#instanceId);
        violations = await this.#check();
      }
    }
    if (violations.length === 0) violations = await this.#recover();
    if (violations.length === 0) violations = await this.#clearUp();
    return violations;
  }

  /** What an operator does who looks at the hosts' records, for as long as the instance does not run. */
  async #recover(): Promise<string[]> {
    for (let turn = 0; turn < 6; turn++) {
      const violations = await this.#check();
      if (violations.length > 0) return violations;
      const runs = this.#world.tick(this.#instanceId);
      if (runs && !this.#half()) return this.#check();
      await this.#recoverOnce();
    }
    return [`${this.#instanceId} does not run again, whatever its operator tries`];
  }

  /** Has a save of its owner's generation begun, of which no journey knows any more? No other could begin. */
  #half(): boolean {
    return this.#world.hosts.some((host) => {
      const { owns } = readBook(host, this.#instanceId);
      return owns !== null && saveRecord(host, this.#instanceId, owns) !== null;
    });
  }

  async #recoverOnce(): Promise<void> {
    const { hosts } = this.#world;
    const instanceId = this.#instanceId;
    const owner = hosts.find((host) => readBook(host, instanceId).owns !== null);
    if (owner) {
      const started = await this.#call({ host: owner, activity: 'startInstance', input: { instanceId } }, {});
      const { move } = started?.kind === 'answered' ? (started.value as Started) : { move: null };
      if (move === null) return;
      const settle = { ...move, role: 'source', outcome: 'returned' };
      await this.#call({ host: owner, activity: 'settleMove', input: settle }, {});
      return;
    }
    for (const source of hosts) {
      const found = await this.#call({ host: source, activity: 'findRelease', input: { instanceId } }, {});
      if (found?.kind !== 'answered') continue;
      const { to, generation, packageId, release } = found.value as FoundRelease;
      const moveId = this.#known.refs.findLast((ref) => ref.packageId === packageId)?.moveId ?? packageId;
      const input = { instanceId, generation, packageId, moveId, release, source: source.signedRecord };
      await this.#call({ host: this.#world.host(to), activity: 'resumeInstance', input }, {});
    }
  }

  /** Every host gives up what it need not have: then nothing is left but packages and records. */
  async #clearUp(): Promise<string[]> {
    const { hosts } = this.#world;
    const refs = this.#known.refs.filter(({ instanceId }) => instanceId === this.#instanceId);
    for (const host of hosts) {
      for (const ref of refs) {
        if (readBook(host, this.#instanceId).owns === null) {
          await this.#call({ host, activity: 'discardCopy', input: ref }, {});
        }
        const settle = { ...ref, role: 'source', outcome: 'returned' };
        await this.#call({ host, activity: 'settleMove', input: settle }, {});
      }
    }
    const wrong = await this.#check();
    if (!this.#world.tick(this.#instanceId)) wrong.push(`${this.#instanceId} does not run any more after clearing up`);
    wrong.push(...(await this.#check()));
    for (const host of hosts) {
      const { layout } = host.context;
      if (readBook(host, this.#instanceId).owns !== null) {
        const domain = await host.hypervisor.find(this.#instanceId);
        if (domain?.persistent !== true) wrong.push(`libvirt on ${host.name} will forget ${this.#instanceId}`);
        const { ip } = this.#world.address(5);
        if (host.network.entry(this.#instanceId)?.ip !== ip)
          wrong.push(`${this.#instanceId} has no address on ${host.name}`);
      } else {
        const left = host.hypervisor.processes().filter(({ instanceId }) => instanceId === this.#instanceId);
        if (left.length > 0) wrong.push(`${host.name} keeps a copy of ${this.#instanceId}`);
      }
      for (const ref of refs) {
        for (const path of [layout.move(ref.moveId), layout.stage(ref.moveId)]) {
          if (existsSync(path)) wrong.push(`${path} is left on ${host.name}`);
        }
      }
    }
    return wrong;
  }
}

/** Which of its calls a course means. */
function courseOf(activity: ActivityName, { die, loss, hold }: CourseSpec): Course {
  return {
    ...(die !== undefined && { die: typeof die === 'number' ? 1 + (die % (USUAL_CALLS[activity] ?? 10)) : die }),
    ...(loss !== undefined && { loss }),
    ...(hold !== undefined && { hold }),
  };
}

interface SaveRecord {
  moveId: string;
  packageId: string;
  saved: unknown;
}

function saveRecord({ context: { layout } }: SimHost, instanceId: InstanceId, generation: number): SaveRecord | null {
  const path = join(layout.instance(instanceId), `save-${generation}.json`);
  return findRecord<SaveRecord>(path);
}

/** The package in which an instance waits that was saved and not moved. */
function savedPackage(host: SimHost, instanceId: InstanceId, generation: number): string | null {
  const record = saveRecord(host, instanceId, generation);
  if (!record?.saved || !existsSync(host.context.layout.package(record.packageId))) return null;
  return record.packageId;
}

const stackOf = (error: unknown): string => (error instanceof Error ? (error.stack ?? error.message) : String(error));
