/**
 * Made-up histories, as the observers would have written them: one instance that is spawned, runs, moves, is taken back,
 * loses its host and boots again. A tale by itself is a good history; tests make it bad.
 */
import type { Between, History, LedgerEntry, QemuLife, Run, Thing, Time } from './history.ts';

/** Milliseconds: how exactly an observer that looks from time to time knows an instant. */
const LOOK = 20;
const TICK = 100;

export const INSTANCE = '11111111-1111-4111-8111-111111111111';
export const IP = '10.77.0.2';

/**
 * How a move ends: where it was going, also there with its RAM lost to a power loss just before it ran; or back at its source
 * with its process or restored from its save file.
 */
export type Outcome = 'moved' | 'lost' | 'resumed' | 'restored';

const about = (at: Time): Between => ({ after: at - LOOK, by: at });

export class Tale {
  readonly history: History;
  at: Time = 1_000_000;
  host: string;
  generation = 1;
  /** Counts that the guest has told in this boot. */
  count = 0;
  #boot = 1;
  #lines = 0;
  #boots = 1;
  #moves = 0;
  #life: QemuLife;
  #run: Run | null = null;
  /** The folder in which QEMU works. */
  #folder = 1;

  constructor(hosts: string[] = ['alpha', 'beta', 'gamma']) {
    const [host = ''] = hosts;
    this.host = host;
    this.history = {
      version: 1,
      from: this.at,
      to: this.at,
      hosts,
      instances: [],
      ...{
        disturbances: [],
        outages: [],
        qemus: [],
        events: [],
        consoles: [],
        ledger: [],
        records: [],
        things: [],
        packages: [],
      },
      ...{ checkpoints: [], diskChecks: [], final: [] },
      bystanders: hosts.map((name) => ({
        host: name,
        what: 'a file of mine',
        path: 'packages/NOTES',
        before: 'a',
        after: 'a',
      })),
      looks: { count: 1, longestPause: LOOK, cpuMillis: 0 },
    };
    this.#ledger(host, 'owned', 1);
    this.#appears(host, `instances/${INSTANCE}/g1`);
    this.#appears(host, `instances/${INSTANCE}/g1/vda.qcow2`);
    this.#record(host, `network/${INSTANCE}.json`, {});
    this.at += 100;
    this.#life = this.#begins();
    this.#resume();
    this.at += 3_000;
    this.history.instances.push({ id: INSTANCE, name: 'guest', ip: IP, from: this.at, expected: 'running' });
  }

  /** The guest runs for so many counts. */
  run(counts = 30): this {
    const log = this.history.consoles.at(-1);
    const [from, firstAt] = [this.count + 1, this.at];
    this.at += counts * TICK;
    this.count += counts;
    this.#lines += counts;
    log?.spans.push({ from, to: this.count, firstAt, lastAt: this.at - TICK });
    if (this.#run) Object.assign(this.#run, { last: this.at - LOOK, by: this.at });
    return this;
  }

  /** It says over HTTP what it has told before. */
  checkpoint(): this {
    const { at, host, count } = this;
    const synced = Math.floor(count / 10) * 10;
    this.history.checkpoints.push({
      ...{
        instance: INSTANCE,
        host,
        asked: at,
        answered: at + 10,
        token: `token ${this.#boot}`,
        counter: count,
        synced,
      },
    });
    return this;
  }

  move(to: string, outcome: Outcome = 'moved'): this {
    const source = this.host;
    const next = this.generation + 1;
    const number = String(++this.#moves).padStart(12, '0');
    const [moveId, packageId] = [`move-${number}`, `22222222-2222-4222-8222-${number}`];
    this.#record(to, `instances/${INSTANCE}/reserved.json`, { moveId, generation: next });
    this.#record(to, `network/${INSTANCE}.json`, {});
    this.run(2);

    const move = this.#appears(source, `moves/${moveId}`);
    const saved = { moveId, packageId };
    this.#record(source, `instances/${INSTANCE}/save-${this.generation}.json`, { ...saved, saved: null });
    this.#suspend();
    if (outcome === 'resumed') {
      this.at += 400;
      this.#decides(source, 'return', packageId);
      this.#ledger(source, 'owned', next);
      this.#resume();
      this.run(5);
      this.#gone(move);
      this.#forgets(to);
      this.generation = next;
      return this;
    }

    const snapshot = this.#appears(source, `moves/${moveId}/snapshot`);
    this.at += 400;
    snapshot.complete = about(this.at);
    this.at += 10;
    this.#ends();
    this.at += 100;
    this.#record(source, `instances/${INSTANCE}/save-${this.generation}.json`, { ...saved, saved: {} });
    this.at += 500;
    this.#ledger(source, 'sealed', next, { packageId });
    this.#seals(source, packageId);
    this.at += 500;
    this.#ledger(to, 'seen', next, { packageId });
    this.#seals(to, packageId);
    const stage = this.#appears(to, `staging/${moveId}`);
    this.at += 500;

    const arrives = outcome !== 'restored';
    const destination = arrives ? to : source;
    if (!arrives) {
      this.#gone(stage);
      this.#forgets(to);
      this.#decides(source, 'return', packageId);
      this.#ledger(source, 'owned', next);
    }
    const oldCopy = this.#copies(source, this.#folder);
    this.#folder = next;
    this.#appears(destination, `instances/${INSTANCE}/g${next}`);
    this.#appears(destination, `instances/${INSTANCE}/g${next}/vda.qcow2`);
    this.host = destination;
    this.#life = this.#begins();
    this.at += 800;
    if (arrives) {
      this.#ledger(to, 'receipt', next, { packageId });
      this.at += 50;
      this.#decides(source, 'release', packageId, to);
      this.at += 100;
      this.#ledger(to, 'owned', next);
    }
    this.generation = next;
    this.at += 30;
    this.#record(destination, `instances/${INSTANCE}/resumed-${next}.json`, {});
    if (outcome === 'lost') this.powerLoss();
    else {
      this.at += 60;
      this.#resume();
      this.run(5);
    }
    if (arrives) {
      this.#forgets(source);
      this.#gone(stage);
    }
    for (const thing of [...oldCopy, snapshot, move]) this.#gone(thing);
    return this;
  }

  /** The host goes off, and comes back; somebody boots the guest there. */
  powerLoss(): this {
    this.history.disturbances.push({ kind: 'power-loss', at: this.at, host: this.host, ids: null, note: null });
    this.history.outages.push({ host: this.host, from: this.at + 30, to: this.at + 3_000 });
    return this.#reboots();
  }

  /** Its host died for good, and the operator lets it go on elsewhere from the package by which it had come. */
  fence(to: string): this {
    const { host: dead, history } = this;
    const next = this.generation + 1;
    const sealed = history.packages.at(-1);
    if (!sealed) throw new Error('there is no package to go on from');
    const said = history.consoles.at(-1)?.spans[0];
    history.disturbances.push({ kind: 'power-loss', at: this.at, host: dead, ids: null, note: null });
    history.outages.push({ host: dead, from: this.at + 30, to: null });
    this.at += 40;
    this.#ends();
    this.#run = null;
    this.at += 1_000;
    history.disturbances.push({ kind: 'fenced', at: this.at, host: dead, ids: [INSTANCE], note: null });
    this.at += 100;
    this.#ledger(to, 'fence', next, { packageId: sealed.id, to });
    this.#ledger(to, 'seen', next, { packageId: sealed.id });
    this.#seals(to, sealed.id);
    this.#appears(to, `instances/${INSTANCE}/g${next}`);
    this.#appears(to, `instances/${INSTANCE}/g${next}/vda.qcow2`);
    this.#record(to, `network/${INSTANCE}.json`, {});
    [this.host, this.generation, this.#folder] = [to, next, next];
    this.#life = this.#begins();
    this.at += 500;
    this.#ledger(to, 'owned', next);
    this.#record(to, `instances/${INSTANCE}/resumed-${next}.json`, {});
    this.at += 60;
    const lost = this.count - ((said?.from ?? 1) - 1);
    this.count -= lost;
    this.#lines -= lost;
    this.#resume();
    return this.run(5);
  }

  killed(): this {
    this.history.disturbances.push({ kind: 'qemu-killed', at: this.at, host: this.host, ids: [INSTANCE], note: null });
    return this.#reboots();
  }

  /** A copy that is fit to be spoilt. */
  end(): History {
    const { history, host } = this;
    this.checkpoint();
    const [asked, answered] = [this.at - 80, this.at - 20];
    const check = { lines: this.#lines, first: 1, last: this.count, gaps: 0, torn: 0, boots: this.#boots };
    history.diskChecks.push({ instance: INSTANCE, host, asked, answered, ...check });
    this.run(10);
    history.to = this.at;
    history.final = history.hosts.map((name) => ({
      host: name,
      at: this.at,
      domains: name === host ? [{ uuid: INSTANCE, name: 'guest', running: true, active: true, persistent: true }] : [],
      dhcp: name === host ? [{ mac: '52:54:00:4d:00:02', ip: IP }] : [],
      rules: name === host ? [INSTANCE] : [],
      files: this.#isOff(name) ? [] : [...this.#files(name), 'packages/NOTES'].sort(),
    }));
    return structuredClone(history);
  }

  #reboots(): this {
    this.at += 40;
    this.#ends();
    this.#run = null;
    this.at += 5_000;
    this.#life = this.#begins();
    this.#boot += 1;
    this.#boots += 1;
    this.count = 0;
    this.at += 200;
    this.#resume();
    this.at += 3_000;
    return this.run(20);
  }

  #begins(): QemuLife {
    const { host, at, history } = this;
    const pid = 1000 + history.qemus.length;
    const life: QemuLife = {
      ...{ host, instance: INSTANCE, pid, startTime: at / 10, generation: this.#folder },
      ...{ began: about(at), ended: null, runs: [] },
    };
    history.qemus.push(life);
    history.consoles.push({ host, instance: INSTANCE, generation: this.#folder, head: '', tail: '', spans: [] });
    return life;
  }

  #ends(): void {
    this.#life.ended = about(this.at);
  }

  #resume(): void {
    const { after, by } = about(this.at);
    this.#run = { after, first: by, last: after, by };
    this.#life.runs.push(this.#run);
  }

  #suspend(): void {
    if (this.#run) Object.assign(this.#run, { last: this.at - LOOK, by: this.at });
    this.#run = null;
    this.at += 50;
  }

  #ledger(host: string, kind: LedgerEntry['kind'], generation: number, more: Partial<LedgerEntry> = {}): void {
    const written = { after: this.at - 10, by: this.at };
    const nothing = { gone: null, packageId: null, decision: null, to: null };
    this.history.ledger.push({ host, instance: INSTANCE, kind, generation, written, ...nothing, ...more });
    this.at += 20;
  }

  #decides(host: string, decision: 'release' | 'return', packageId: string, to: string | null = null): void {
    this.#ledger(host, 'decision', this.generation, { decision, packageId, to });
  }

  #record(host: string, path: string, content: unknown): void {
    this.history.records.push({ host, path, at: about(this.at), content });
  }

  #forgets(host: string): void {
    this.#record(host, `network/${INSTANCE}.json`, null);
  }

  #appears(host: string, path: string): Thing {
    const thing: Thing = { host, path, appeared: about(this.at), gone: null, complete: null };
    this.history.things.push(thing);
    return thing;
  }

  #gone(thing: Thing): void {
    thing.gone ??= about(this.at);
  }

  #copies(host: string, generation: number): Thing[] {
    const folder = `instances/${INSTANCE}/g${generation}`;
    return this.history.things.filter((thing) => thing.host === host && thing.path.startsWith(folder) && !thing.gone);
  }

  #seals(host: string, id: string): void {
    const files = { 'config/000000.seg': 'c', 'disk-vda/000000.seg': 'd', 'snapshot/000000.seg': 'e' };
    this.history.packages.push({ host, id, appeared: about(this.at), gone: null, files, changes: [] });
    this.#appears(host, `packages/${id}`);
  }

  #isOff(host: string): boolean {
    return this.history.outages.some((outage) => outage.host === host && outage.to === null);
  }

  #files(host: string): string[] {
    const things = this.history.things.filter((thing) => thing.host === host && !thing.gone);
    const newest = new Map(
      this.history.records.filter((one) => one.host === host).map(({ path, content }) => [path, content]),
    );
    const records = [...newest].filter(([, content]) => content !== null).map(([path]) => path);
    return [...things.map(({ path }) => (path.endsWith('.qcow2') ? path : `${path}/`)), ...records];
  }
}
