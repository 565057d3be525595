/**
 * Hosts of one pool in one process: real records, real activities, real packages over real HTTPS, and in place of libvirt
 * a fake with its traps. What can happen to a host happens here: an activity that dies at any call, or is held amid one;
 * libvirtd that dies; power that fails and takes with it what was not synced; a person at the keyboard.
 */
import { AsyncLocalStorage } from 'node:async_hooks';
import { createHash, randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { link, mkdir, rm, writeFile } from 'node:fs/promises';
import type { Server } from 'node:https';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { MockActivityEnvironment } from '@temporalio/testing';
import { DefaultLogger } from '@temporalio/worker';
import { createHostActivities } from '../../../activities/host.ts';
import type { HostContext } from '../../../activities/host-context.ts';
import type { Hypervisor } from '../../../activities/hypervisor/hypervisor.ts';
import { withMarks, type Mark } from '../../../activities/marks.ts';
import type { GuestNetwork } from '../../../activities/network/guest-network.ts';
import { Layout } from '../../../activities/records/layout.ts';
import { createPackageServer } from '../../../activities/transfer/package-server.ts';
import { ensureHostKeys, type HostKeys } from '../../../activities/trust/keys.ts';
import { Ledger } from '../../../activities/trust/ledger.ts';
import { createPoolKey, type PoolKey } from '../../../activities/trust/pool-key.ts';
import { PoolTrust } from '../../../activities/trust/pool.ts';
import type { Address, HostActivities, Image, InstanceId, SignedText } from '../../../workflows/contract.ts';
import { VmferryError } from '../../../workflows/failures.ts';
import { FakeGuestNetwork } from '../../fakes/guest-network.ts';
import { FakeHypervisor, type EndedQemu } from '../../fakes/hypervisor.ts';
import { Died, live, mortalCall, newLife, type Life } from '../../support/crash-points.ts';
import { recordOf } from '../../support/pool-hosts.ts';
import { PowerLoss, type Loss } from '../../support/power-loss.ts';
import { Witness } from './guest.ts';
import { findRecord, readRecord } from './records.ts';

export type ActivityName = keyof HostActivities;

/** What is dear to make and the same for every schedule: keys, certified records, package servers, an image. */
export interface Rig {
  directory: string;
  poolKey: PoolKey;
  trust: PoolTrust;
  seats: Seat[];
  image: Image;
}

interface Seat {
  name: string;
  keys: HostKeys;
  signedRecord: SignedText;
  server: Server;
  /** Of the world that sits here now. */
  layout: Layout;
}

const IMAGE_BYTES = 1024 * 1024;

export async function makeRig(directory: string, names: readonly string[]): Promise<Rig> {
  const poolKey = await createPoolKey(join(directory, 'pool'));
  const trust = await PoolTrust.load(join(directory, 'pool'));
  if (!trust) throw new Error('the pool key was not written');
  const seats: Seat[] = [];
  for (const name of names) {
    const keys = await ensureHostKeys(join(directory, 'keys', name), name);
    const seat = { layout: new Layout(join(directory, 'nobody')) };
    const server = createPackageServer({
      keys,
      pool: trust,
      onError: () => undefined, // the caller is told, and that is looked at
      get layout() {
        return seat.layout;
      },
    });
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    const addresses = [`127.0.0.1:${(server.address() as AddressInfo).port}`];
    const signedRecord = await poolKey.certifyHost({ ...recordOf(keys), addresses });
    seats.push(Object.assign(seat, { name, keys, server, signedRecord }));
  }
  const content = Buffer.alloc(IMAGE_BYTES);
  await writeFile(join(directory, 'disk.img'), content);
  const image: Image = {
    id: createHash('sha256').update(content).digest('hex'),
    name: 'image',
    format: 'raw',
    bytes: IMAGE_BYTES,
    virtualBytes: IMAGE_BYTES,
    boot: {},
  };
  await writeFile(join(directory, 'image.json'), JSON.stringify(image));
  return { directory, poolKey, trust, seats, image };
}

export async function closeRig({ seats }: Rig): Promise<void> {
  for (const { server } of seats) {
    server.closeAllConnections();
    server.close();
    await once(server, 'close');
  }
}

export interface SimHost {
  readonly name: string;
  readonly signedRecord: SignedText;
  readonly context: HostContext;
  readonly hypervisor: FakeHypervisor;
  readonly network: FakeGuestNetwork;
  readonly disk: PowerLoss;
  /** Saves wait here before libvirt ends QEMU, while it is set. */
  slow: PromiseWithResolvers<void> | null;
  /** What befalls the next save. */
  nextSave: SaveFault | null;
  /** What it fetches next arrives damaged. */
  damaged: boolean;
}

export type SaveFault = 'libvirtd dies as it writes' | 'libvirtd dies as it ends QEMU' | 'QEMU ends late';

/** An instant within an activity: a mark that it passes, or the first time that it is about to make this call. */
export type Instant = Mark | keyof Hypervisor | keyof GuestNetwork;

/** How an attempt is to go. */
export interface Course {
  /** Dies at this call that changes something, counted from 1, or at this instant. */
  die?: number | Instant;
  /** Dying takes the host's power with it. */
  loss?: Loss;
  /** Is held before this call of the hypervisor or the network, counted from 1, or at this instant, until it is woken. */
  hold?: number | Instant;
}

export type Outcome =
  | { kind: 'answered'; value: unknown }
  | { kind: 'refused'; type: string; message: string }
  | { kind: 'died' }
  | { kind: 'failed'; error: unknown };

/** An activity that was begun. */
export interface Attempt {
  readonly host: SimHost;
  readonly activity: ActivityName;
  readonly input: unknown;
  readonly life: Life;
  readonly done: Promise<Outcome>;
  /** Resolves when it is held. */
  readonly held: Promise<void>;
  wake(): void;
}

interface Running {
  calls: number;
  course: Course;
  life: Life;
  held: PromiseWithResolvers<void>;
  woken: PromiseWithResolvers<void>;
}

const running = new AsyncLocalStorage<Running>();

/** An activity comes to an instant: it may be held there, or die. */
async function comeTo(instant: Instant, call?: number): Promise<void> {
  const mine = running.getStore();
  if (!mine) return;
  const { hold, die } = mine.course;
  if (hold !== undefined && (hold === instant || hold === call)) {
    delete mine.course.hold;
    mine.held.resolve();
    await mine.woken.promise;
  }
  if (die === instant) mine.life.dead = true;
}

/** Before every call that an activity makes to what is outside of its process. */
async function portCall(name: keyof Hypervisor | keyof GuestNetwork): Promise<void> {
  const mine = running.getStore();
  if (mine) await comeTo(name, ++mine.calls);
  mortalCall('port');
}

/** A port as an activity reaches it: it may die, or be held, before any call. */
function reached<P extends object>(port: P): P {
  return new Proxy(port, {
    get(target, name) {
      const value: unknown = Reflect.get(target, name);
      if (typeof value !== 'function') return value;
      const call = value.bind(target) as (...args: unknown[]) => unknown;
      const instant = name as keyof Hypervisor;
      if (name === 'tapName') return call;
      if (name !== 'save') return (...args: unknown[]) => portCall(instant).then(() => call(...args));
      return (...args: unknown[]) => {
        const finished = portCall(instant).then(() => (call(...args) as ReturnType<Hypervisor['save']>).finished);
        finished.catch(() => {});
        return { finished };
      };
    },
  });
}

export class World {
  readonly rig: Rig;
  readonly hosts: readonly SimHost[];
  readonly witness: Witness;
  /** Begun and not yet ended. */
  readonly attempts = new Set<Attempt>();
  readonly #folder: string;

  private constructor(rig: Rig, folder: string) {
    this.rig = rig;
    this.#folder = folder;
    this.witness = new Witness({
      flush: (fd) => {
        for (const { disk } of this.hosts) if (disk.sync(fd)) return;
      },
      ramIsSafe: (host, instanceId, was, touched) =>
        ramIsSafe(this.host(host).context.layout, instanceId, was, touched),
    });
    this.hosts = rig.seats.map((seat) => this.#seat(seat));
  }

  static async make(rig: Rig): Promise<World> {
    const folder = join(rig.directory, randomUUID());
    await mkdir(folder);
    const world = new World(rig, folder);
    for (const { context } of world.hosts) {
      const { layout } = context;
      for (const path of [layout.image(rig.image.id), layout.instances, layout.moves, layout.packages, layout.staging])
        await mkdir(path, { recursive: true });
      await link(join(rig.directory, 'disk.img'), layout.imageDisk(rig.image.id));
      await link(join(rig.directory, 'image.json'), join(layout.image(rig.image.id), 'image.json'));
    }
    for (const { disk } of world.hosts) disk.settle();
    return world;
  }

  #seat(seat: Seat): SimHost {
    const { name, keys, signedRecord } = seat;
    const layout = new Layout(join(this.#folder, name));
    seat.layout = layout;
    const disk = new PowerLoss(layout.root);
    const hypervisor = new FakeHypervisor({
      guest: this.witness.guestOf(name),
      savePace: (about) => this.#pace(host, about),
    });
    const network = new FakeGuestNetwork();
    const pool = this.rig.trust;
    const ledger = new Ledger({ layout, keys, pool, selfRecord: () => Promise.resolve(signedRecord) });
    const context: HostContext = {
      ...{ name, layout, keys, pool, ledger },
      hypervisor: reached(hypervisor),
      network: reached(network),
    };
    const host: SimHost = {
      name,
      signedRecord,
      context,
      hypervisor,
      network,
      disk,
      slow: null,
      nextSave: null,
      damaged: false,
    };
    return host;
  }

  async #pace(host: SimHost, about: 'to write the file' | 'to end QEMU'): Promise<void> {
    const fault = host.nextSave;
    if (fault === 'libvirtd dies as it writes' && about === 'to write the file') {
      host.nextSave = null;
      host.hypervisor.killLibvirtd();
    }
    if (about === 'to end QEMU' && fault !== null) {
      host.nextSave = null;
      if (fault === 'libvirtd dies as it ends QEMU') host.hypervisor.killLibvirtd();
      host.slow = Promise.withResolvers();
      await host.slow.promise;
    }
  }

  async close(): Promise<void> {
    for (const attempt of this.attempts) {
      attempt.life.dead = true;
      attempt.wake();
      await attempt.done;
    }
    for (const { disk, hypervisor } of this.hosts) {
      for (const { instanceId } of hypervisor.processes()) hypervisor.killQemu(instanceId);
      disk.close();
    }
    await rm(this.#folder, { recursive: true });
  }

  host(name: string): SimHost {
    const host = this.hosts.find((one) => one.name === name);
    if (!host) throw new Error(`there is no host ${name}`);
    return host;
  }

  address(last: number): Address {
    return { ip: `10.77.0.${last}`, mac: `52:54:00:77:00:${last.toString(16).padStart(2, '0')}` };
  }

  // ---- Activities ----

  /** Begins an activity as a worker does. */
  begin(host: SimHost, activity: ActivityName, input: unknown, course: Course = {}): Attempt {
    const life = newLife(typeof course.die === 'number' ? course.die : Infinity);
    const mine: Running = {
      ...{ calls: 0, course: { ...course }, life },
      held: Promise.withResolvers(),
      woken: Promise.withResolvers(),
    };
    const onMark = async (mark: Mark): Promise<void> => {
      await comeTo(mark);
      if (life.dead) throw new Died(`at ${mark}`);
    };
    const activities = createHostActivities(host.context, { addresses: [], location: 'test', vmferryVersion: '0' });
    const run = (about: unknown): Promise<unknown> =>
      (activities as Record<ActivityName, (input: unknown) => Promise<unknown>>)[activity](about);
    const environment = new MockActivityEnvironment({}, { logger: new DefaultLogger('ERROR') });
    const attend = (): Promise<unknown> =>
      live(life, () => withMarks(onMark, () => environment.run(run, structuredClone(input))));
    const fetches = activity === 'transferPackage' || activity === 'pullPackage';
    const done = running
      .run(mine, () => (fetches ? this.#served(host, input, attend) : attend()))
      .then(
        (value): Outcome => (life.dead ? { kind: 'died' } : { kind: 'answered', value: structuredClone(value) }),
        (error: unknown): Outcome => outcomeOf(error, life),
      )
      .then((outcome) => {
        this.attempts.delete(attempt);
        if (outcome.kind === 'died' && course.loss !== undefined) this.losePower(host, course.loss);
        return outcome;
      });
    const attempt: Attempt = {
      ...{ host, activity, input, life, done },
      held: mine.held.promise,
      wake: () => mine.woken.resolve(),
    };
    this.attempts.add(attempt);
    return attempt;
  }

  run(host: SimHost, activity: ActivityName, input: unknown, course?: Course): Promise<Outcome> {
    return this.begin(host, activity, input, course).done;
  }

  // ---- What befalls hosts ----

  /** The worker of a host is killed: all that it did at the moment ends. */
  async killWorker(host: SimHost): Promise<void> {
    for (const attempt of [...this.attempts].filter((one) => one.host === host)) {
      attempt.life.dead = true;
      attempt.wake();
      await attempt.done;
    }
  }

  losePower(host: SimHost, loss: Loss): void {
    this.#as('power', () => host.hypervisor.powerLoss(() => host.disk.lose(loss)));
    host.slow = null;
    host.nextSave = null;
    // A save file that nobody has synced may be lost, and then the QEMU that it was made from is gone as well.
    const { layout } = host.context;
    const left = new Set(host.hypervisor.processes().map(({ instanceId }) => instanceId));
    for (const instanceId of readdirSync(layout.instances)) {
      const save = join(layout.instance(instanceId), `save-${newestOwned(layout, instanceId)}.json`);
      if (left.has(instanceId) || !existsSync(save)) continue;
      const { saved } = readRecord<{ saved: unknown }>(save);
      if (saved === null) this.witness.seen(instanceId).ramLost = true;
    }
  }

  /** libvirt ends the QEMU whose save is complete. */
  async endSave(host: SimHost): Promise<void> {
    host.slow?.resolve();
    host.slow = null;
    await new Promise((resolve) => setImmediate(resolve));
  }

  killLibvirtd(host: SimHost): void {
    host.hypervisor.killLibvirtd();
    host.slow = null;
  }

  killQemu(host: SimHost, instanceId: InstanceId): void {
    this.#as('power', () => host.hypervisor.killQemu(instanceId));
  }

  /** A byte of what a host fetches next is another when it arrives. */
  damage(host: SimHost): void {
    host.damaged = true;
  }

  rot(host: SimHost): void {
    const { staging } = host.context.layout;
    for (const name of readdirSync(staging, { recursive: true, encoding: 'utf8' })) {
      if (!/\/disk-[a-z]+\.qcow2$/.test(name)) continue;
      const content = readFileSync(join(staging, name));
      content[content.length - 1]! ^= 1;
      writeFileSync(join(staging, name), content);
    }
  }

  /** Serves a package with one byte changed while somebody fetches it. */
  async #served<T>(host: SimHost, input: unknown, fetch: () => Promise<T>): Promise<T> {
    const { packageId } = input as { packageId: string };
    const others = this.hosts.filter((one) => one !== host).map(({ context }) => context.layout.package(packageId));
    const path = others.map((folder) => join(folder, 'snapshot', '000000.seg')).find((file) => existsSync(file));
    if (!host.damaged || path === undefined) return fetch();
    host.damaged = false;
    const content = readFileSync(path);
    const altered = Buffer.from(content);
    altered[altered.length >> 1]! ^= 1;
    writeFileSync(path, altered);
    try {
      return await fetch();
    } finally {
      writeFileSync(path, content);
    }
  }

  /** What a person does with virsh; whether it worked is between them. */
  async person(host: SimHost, instanceId: InstanceId, act: 'start' | 'resume' | 'suspend'): Promise<void> {
    // Whoever sets a copy running that waits for its release breaks what vmferry cannot keep.
    const copy = host.hypervisor.processes().find((process) => process.instanceId === instanceId);
    if (copy && !copy.ran) return;
    // The fake acts in the turn after the call.
    this.witness.fate = 'person';
    try {
      await host.hypervisor[act](instanceId);
    } catch (error) {
      if (!(error instanceof VmferryError)) throw error;
    } finally {
      this.witness.fate = null;
    }
  }

  #as<T>(fate: 'power', act: () => T): T {
    this.witness.fate = fate;
    try {
      return act();
    } finally {
      this.witness.fate = null;
    }
  }

  /**
   * The guest's own time, wherever it runs; but for a copy that a person started where it had been given away, which is
   * nobody's and may be ended.
   */
  tick(instanceId: InstanceId): boolean {
    const ran = this.hosts.map(({ hypervisor, context }) => {
      const given = newestDecision(context.layout, instanceId) === 'release';
      if (given && this.witness.seen(instanceId).touched) return false;
      return hypervisor.act(instanceId, (ram, disks) => this.witness.count(instanceId, ram, disks));
    });
    return ran.includes(true);
  }
}

function outcomeOf(error: unknown, life: Life): Outcome {
  if (life.dead || error instanceof Died) return { kind: 'died' };
  if (error instanceof VmferryError) return { kind: 'refused', type: error.type, message: error.message };
  return { kind: 'failed', error };
}

/** Could what is in a QEMU's RAM be had again from the files of its host? */
function ramIsSafe(
  layout: Layout,
  instanceId: InstanceId,
  { running, ran, disk }: EndedQemu,
  touched: boolean,
): boolean {
  // Given away: what a person started here since is nobody's.
  if (newestDecision(layout, instanceId) === 'release') return true;
  if (running) return false;
  const path = (name: string): string => join(layout.instance(instanceId), name);
  // A restored copy is as good as its members, until vmferry says that it may have run.
  if (!ran) return !existsSync(path(`resumed-${/\/g(\d+)\//.exec(disk)?.[1]}.json`));
  if (touched) return false;
  const save = path(`save-${newestOwned(layout, instanceId)}.json`);
  return (findRecord<{ saved: unknown }>(save)?.saved ?? null) !== null;
}

/** What a host decided about the newest generation that it owned. */
function newestDecision(layout: Layout, instanceId: InstanceId): string | null {
  const path = join(layout.ledger(instanceId), `decision-${newestOwned(layout, instanceId)}.json`);
  return findRecord<{ kind: string }>(path)?.kind ?? null;
}

function newestOwned(layout: Layout, instanceId: InstanceId): number {
  if (!existsSync(layout.ledger(instanceId))) return 0;
  const owned = readdirSync(layout.ledger(instanceId)).map((name) =>
    Number(/^owned-(\d+)\.json$/.exec(name)?.[1] ?? 0),
  );
  return Math.max(0, ...owned);
}
