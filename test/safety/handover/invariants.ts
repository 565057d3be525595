/**
 * What must hold after whatever happened, read from the hosts' own files and from what the witness heard. Nothing here
 * asks vmferry, but for the check of a chain: its signatures are what makes a chain one.
 */
import { createHash } from 'node:crypto';
import { existsSync, lstatSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Layout } from '../../../activities/records/layout.ts';
import { verifyChain, type Chain } from '../../../activities/trust/chain.ts';
import type { InstanceId, MoveRef, PackageId } from '../../../workflows/contract.ts';
import type { Run } from './guest.ts';
import { findRecord, readRecord } from './records.ts';
import type { SimHost, World } from './world.ts';

interface Decision {
  kind: 'release' | 'return' | 'end';
  packageId: PackageId | null;
}

/** One instance as a host's ledger has it. */
export interface Book {
  /** Ascending. */
  owned: number[];
  decisions: Map<number, Decision>;
  /** The generation that the host may run; null if it may run none. */
  owns: number | null;
}

export function readBook({ context: { layout } }: SimHost, instanceId: InstanceId): Book {
  const folder = layout.ledger(instanceId);
  const book: Book = { owned: [], decisions: new Map(), owns: null };
  for (const name of existsSync(folder) ? readdirSync(folder) : []) {
    const [, kind, digits] = /^(owned|decision)-(\d+)\.json$/.exec(name) ?? [];
    const generation = Number(digits);
    if (kind === 'owned') book.owned.push(generation);
    if (kind === 'decision') {
      book.decisions.set(generation, readRecord<Decision>(join(folder, name)));
    }
  }
  book.owned.sort((a, b) => a - b);
  const newest = book.owned.at(-1);
  if (newest === undefined) return book;
  const decision = book.decisions.get(newest);
  // A decision to take it back is all that ownership needs.
  book.owns = decision === undefined ? newest : decision.kind === 'return' ? newest + 1 : null;
  return book;
}

interface Sealed {
  instanceId: InstanceId;
  /** Of every segment, by its path in the package. */
  digests: Map<string, string>;
  /** What the guest had reported when its RAM was saved; null if nobody saw it sealed. */
  value: number | null;
}

export class Invariants {
  readonly #world: World;
  readonly #sealed = new Map<PackageId, Sealed>();
  /** What was found to be right, as long as nobody wrote to it. */
  readonly #known = new Map<string, string>();
  readonly #bystanders = new Map<InstanceId, { ref: MoveRef; before: string }>();
  #runsSeen = 0;

  constructor(world: World) {
    this.#world = world;
  }

  /** @returns what is wrong */
  async check(instanceId: InstanceId, refs: readonly MoveRef[]): Promise<string[]> {
    const { witness } = this.#world;
    const wrong = [...witness.violations];
    this.#packages(refs, wrong);
    this.#ownership(instanceId, wrong);
    this.#untouched(wrong);
    for (const run of witness.runs.slice(this.#runsSeen)) await this.#run(run, wrong);
    this.#runsSeen = witness.runs.length;
    const none = this.#nowhere(instanceId, refs);
    if (none !== null) wrong.push(none);
    return wrong;
  }

  // ---- Who may run it ----

  #ownership(instanceId: InstanceId, wrong: string[]): void {
    const owners = this.#world.hosts.filter((host) => readBook(host, instanceId).owns !== null);
    if (owners.length > 1) wrong.push(`${instanceId} is owned by ${owners.map(({ name }) => name).join(' and ')}`);
  }

  async #run({ host: name, instanceId, cause, byHand }: Run, wrong: string[]): Promise<void> {
    // What a person does who does not look at the records is judged by what else runs then.
    if (byHand) return;
    const host = this.#world.host(name);
    const book = readBook(host, instanceId);
    const newest = book.owned.at(-1);
    const what = `${instanceId} runs on ${name} (${cause})`;
    if (newest === undefined) return void wrong.push(`${what}, which never owned it`);
    for (const other of this.#world.hosts) {
      const elsewhere = readBook(other, instanceId).owned.at(-1) ?? 0;
      if (other !== host && elsewhere > newest) {
        wrong.push(`${what} as generation ${newest}, while ${other.name} owns ${elsewhere}`);
      }
    }
    const { chain } = readRecord<{ chain: Chain }>(
      join(host.context.layout.ledger(instanceId), `owned-${newest}.json`),
    );
    const end = await verifyChain(chain, host.context.pool);
    if (end.ended || end.owner !== name || end.generation !== newest || end.instanceId !== instanceId) {
      wrong.push(`${what} by a chain that makes ${end.owner} owner of generation ${end.generation}`);
    }
  }

  // ---- What is sealed stays as it is ----

  #packages(refs: readonly MoveRef[], wrong: string[]): void {
    for (const host of this.#world.hosts) {
      const { layout } = host.context;
      for (const id of readdirSync(layout.packages).filter((name) => /^[0-9a-f-]{36}$/.test(name))) {
        const files = filesIn(layout.package(id)).filter((path) => path.endsWith('.seg'));
        const stamp = files.map((path) => stampOf(join(layout.package(id), path))).join();
        const key = `${host.name}/${id}`;
        if (this.#known.get(key) === stamp) continue;
        const digests = new Map(files.map((path) => [path, digestOf(join(layout.package(id), path))]));
        const sealed = this.#sealed.get(id);
        if (!sealed) {
          const ref = refs.find(({ packageId }) => packageId === id);
          const value = ref ? ramValue(join(layout.move(ref.moveId), 'snapshot')) : null;
          this.#sealed.set(id, { instanceId: ref?.instanceId ?? '', digests, value });
        } else if (!sameMap(sealed.digests, digests)) {
          wrong.push(`package ${id} on ${host.name} is not what was sealed`);
        }
        this.#known.set(key, stamp);
      }
    }
  }

  // ---- What is none of this move's business ----

  /** From now on nothing of this instance and its move may change, but for what befalls the whole host. */
  watch(ref: MoveRef): void {
    this.#bystanders.set(ref.instanceId, { ref, before: this.#stateOf(ref) });
  }

  /** A host lost its power, or libvirtd died: what the bystanders lost by it is no fault of a move. */
  lookAgain(): void {
    for (const seen of this.#bystanders.values()) seen.before = this.#stateOf(seen.ref);
  }

  #untouched(wrong: string[]): void {
    for (const { ref, before } of this.#bystanders.values()) {
      const after = this.#stateOf(ref);
      if (after === before) continue;
      const [was, is] = [before.split('\n'), after.split('\n')];
      const lost = was.filter((line) => !is.includes(line)).slice(0, 3);
      const found = is.filter((line) => !was.includes(line)).slice(0, 3);
      wrong.push(`bystander ${ref.instanceId} was touched: ${lost.join(', ')} became ${found.join(', ') || 'nothing'}`);
    }
  }

  #stateOf({ instanceId, moveId, packageId }: MoveRef): string {
    const lines: string[] = [];
    for (const { name, context, hypervisor, network } of this.#world.hosts) {
      const { layout } = context;
      const folders = [layout.instance(instanceId), layout.move(moveId), layout.stage(moveId)];
      const sealed = layout.package(packageId);
      for (const folder of [...folders, sealed, `${sealed}.partial`, layout.incoming(packageId)]) {
        if (whoseFolder(folder) !== null && whoseFolder(folder) !== instanceId) continue;
        for (const path of filesIn(folder)) lines.push(`${stampOf(join(folder, path))} ${join(folder, path)}`);
      }
      const qemu = hypervisor.processes().find((process) => process.instanceId === instanceId);
      lines.push(`${name} ${qemu ? (qemu.running ? 'running' : 'paused') : 'down'}`);
      lines.push(`${name} ${network.entry(instanceId)?.ip ?? 'not admitted'}`);
    }
    return lines.join('\n');
  }

  // ---- It can be run from somewhere ----

  /** Why the instance cannot be run any more, from anything that lies on the host that may run it; null if it can. */
  #nowhere(instanceId: InstanceId, refs: readonly MoveRef[]): string | null {
    const { hosts, witness } = this.#world;
    const { newest, ramLost } = witness.seen(instanceId);
    const holds = (host: SimHost, id: PackageId | null): boolean =>
      id !== null && this.#sealed.get(id)?.value === newest && existsSync(host.context.layout.package(id));
    for (const host of hosts) {
      const book = readBook(host, instanceId);
      if (book.owned.length === 0 && book.owns === null) continue;
      const { layout } = host.context;
      const last = Math.max(0, ...book.decisions.keys());
      const decision = book.decisions.get(last);
      if (book.owns === null && decision?.kind === 'end') return null;
      if (book.owns === null) continue;
      const process = host.hypervisor.processes().find((one) => one.instanceId === instanceId);
      if (process && (JSON.parse(process.ram) as { value: number }).value === newest) return null;
      if (ramLost && disksOf(layout, instanceId).some((value) => value === newest)) return null;
      for (const { moveId } of refs) {
        if (ramValue(join(layout.move(moveId), 'snapshot')) === newest) return null;
      }
      for (const id of this.#sealed.keys()) if (holds(host, id)) return null;
      return `${instanceId} cannot be run on its owner ${host.name} from anything there`;
    }
    // Released, and not yet taken over: the destination has the package.
    if (hosts.some((host) => [...this.#sealed.keys()].some((id) => holds(host, id)))) return null;
    return `${instanceId} has no owner and no package from which it could be run`;
  }
}

/** What the guest had reported when this file was written; null if it is not there whole. */
function ramValue(path: string): number | null {
  if (!existsSync(path)) return null;
  const content = readFileSync(path);
  const stream = content.indexOf('QEVM\0');
  if (content.toString('latin1', 0, 16) !== 'LibvirtQemudSave' || stream < 0) return null;
  const text = content.toString('utf8', stream + 8);
  return text === '' ? null : (JSON.parse(text) as { value: number }).value;
}

/** The last number on each disk of the instance. */
function disksOf(layout: Layout, instanceId: InstanceId): number[] {
  const folder = layout.instance(instanceId);
  return filesIn(folder)
    .filter((path) => /^g\d+\/[a-z]+\.qcow2$/.test(path))
    .map((path) => /#(\d+)\n(?:#r\n)*$/.exec(readFileSync(join(folder, path), 'latin1'))?.[1])
    .map((digits) => Number(digits ?? 0));
}

/** What a folder of a move says of itself. */
function whoseFolder(folder: string): InstanceId | null {
  return findRecord<{ instanceId: InstanceId }>(join(folder, 'whose.json'))?.instanceId ?? null;
}

function filesIn(folder: string): string[] {
  if (!existsSync(folder)) return [];
  return readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name).slice(folder.length + 1))
    .sort();
}

function stampOf(path: string): string {
  const { ino, size, mtimeNs } = lstatSync(path, { bigint: true });
  return `${ino}:${size}:${mtimeNs}`;
}

const digestOf = (path: string): string => createHash('sha256').update(readFileSync(path)).digest('hex');

const sameMap = (one: ReadonlyMap<string, string>, other: ReadonlyMap<string, string>): boolean =>
  one.size === other.size && [...one].every(([key, value]) => other.get(key) === value);
