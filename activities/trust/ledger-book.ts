/**
 * The files in which a host remembers one instance, for ever. What they mean together is the ledger's (ledger.ts).
 *
 *   owned-<g>.json               this host owns (or owned) generation g, and the chain that proves it
 *   decision-<g>.json            what became of generation g: release, return, end, or fence. Never two.
 *   fence-<g>.json               the fence that gives generation g to a host, this one or another. Never two.
 *   seen-<g>.json                the package that it accepted for generation g
 *   receipt-<g>-<move>.json      the receipt that it gave
 *   sealed-<g>-<package>.json    the origin record that it signed when it sealed a package for generation g
 *
 * Each is JSON that begins with a sentence for people (records/durable.ts); what decides is the signed text in it. Each
 * but `sealed` is created once and never changed: of two writers one wins, and the other is answered what the first wrote.
 */
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import type { HostId, InstanceId, MoveId, PackageId, SignedText } from '../../workflows/contract.ts';
import { VmferryError } from '../../workflows/failures.ts';
import { createRecord, exists, makeDirectory, readJson, syncDirectory, writeRecord } from '../records/durable.ts';
import type { Chain } from './chain.ts';
import { digestOf } from './signed-text.ts';
import { fingerprint, hex, uuid } from './statements.ts';

export interface Owned {
  generation: number;
  chain: Chain;
  /** Digest of the origin record of the package by which the instance came here; null if it was spawned here. */
  originDigest: string | null;
}

export interface Decision {
  /** `fence`: not this host's own, but the operator's, whether it owned the generation or not. */
  kind: 'release' | 'return' | 'end' | 'fence';
  statement: SignedText;
  /** Null for `end`. */
  packageId: PackageId | null;
}

const signed = z.string();
const OwnedRecord = z.strictObject({
  generation: z.int().min(1),
  chain: z.strictObject({ statements: z.array(signed), hosts: z.array(signed) }),
  originDigest: hex(32).nullable(),
});
const DecisionRecord = z.strictObject({
  kind: z.enum(['release', 'return', 'end', 'fence']),
  statement: signed,
  packageId: uuid.nullable(),
});
const SeenRecord = z.strictObject({
  packageId: uuid,
  /** Verified when it was accepted, with where it ends. */
  chain: OwnedRecord.shape.chain,
  ownerFingerprint: fingerprint,
  tip: hex(32),
});
const ReceiptRecord = z.strictObject({ packageId: uuid, originDigest: hex(32), receipt: signed });
const SealedRecord = z.strictObject({ originDigest: hex(32) });
const FenceRecord = z.strictObject({ fence: signed });

/** An accepted package. */
export interface Seen {
  packageId: PackageId;
  chain: Chain;
  ownerFingerprint: string;
  tip: string;
}

export interface GivenReceipt {
  packageId: PackageId;
  originDigest: string;
  receipt: SignedText;
}

/** Which generations there are files of, when the book was opened. */
interface Index {
  /** Ascending. */
  owned: number[];
  decided: Set<number>;
  /** Ascending. */
  fenced: number[];
  accepted: number;
  highest: number;
}

export class LedgerBook {
  readonly #folder: string;
  readonly #host: HostId;
  readonly #instanceId: InstanceId;
  /** Generations with an `owned-` file, ascending. */
  readonly owned: readonly number[];
  readonly decided: ReadonlySet<number>;
  /** The highest generation with a `seen-` file; 0 if none. */
  readonly accepted: number;
  /** Generations with a `fence-` file, ascending. */
  readonly fenced: readonly number[];
  /** The highest generation that this host has heard of, by whatever file; 0 if none. */
  readonly highest: number;

  private constructor(folder: string, host: HostId, instanceId: InstanceId, index: Index) {
    this.#folder = folder;
    this.#host = host;
    this.#instanceId = instanceId;
    this.owned = index.owned;
    this.decided = index.decided;
    this.accepted = index.accepted;
    this.fenced = index.fenced;
    this.highest = index.highest;
  }

  static async open(
    folder: string,
    host: HostId,
    instanceId: InstanceId,
    absent: 'make' | 'ignore' = 'ignore',
  ): Promise<LedgerBook> {
    const index: Index = { owned: [], decided: new Set(), fenced: [], accepted: 0, highest: 0 };
    if (absent === 'make') await makeDirectory(folder);
    else if (!(await exists(folder))) return new LedgerBook(folder, host, instanceId, index);
    // Whoever wrote what we are about to read may have died before its name was durable; we act on it, so it has to be.
    await syncDirectory(folder);
    for (const name of await readdir(folder)) {
      const [, kind, digits] = /^(owned|decision|fence|seen)-([0-9]+)\.json$/.exec(name) ?? [];
      if (kind === undefined) continue;
      const generation = Number(digits);
      if (kind === 'owned') index.owned.push(generation);
      if (kind === 'decision') index.decided.add(generation);
      if (kind === 'seen') index.accepted = Math.max(index.accepted, generation);
      if (kind === 'fence') index.fenced.push(generation);
      index.highest = Math.max(index.highest, generation);
    }
    index.owned.sort((a, b) => a - b);
    index.fenced.sort((a, b) => a - b);
    // A release, return or fence about g makes g + 1 known, even where no other file speaks of it.
    const last = Math.max(0, ...index.decided);
    const decision = await readJson(join(folder, `decision-${last}.json`), DecisionRecord);
    if (decision && decision.kind !== 'end') index.highest = Math.max(index.highest, last + 1);
    return new LedgerBook(folder, host, instanceId, index);
  }

  /** @throws NotOwner if this host never owned that generation */
  async ownedAt(generation: number): Promise<Owned> {
    const owned = await readJson(this.#path(`owned-${generation}`), OwnedRecord);
    if (owned) return owned;
    // A crash between the two files of takeBack.
    const before = generation > 1 ? await this.decisionAt(generation - 1) : null;
    if (before?.kind === 'return') return continued(await this.ownedAt(generation - 1), before.statement);
    throw this.notOwner(generation);
  }

  notOwner(generation: number): VmferryError {
    return new VmferryError(
      'NotOwner',
      `host ${this.#host} does not own generation ${generation} of instance ${this.#instanceId}`,
    );
  }

  /**
   * As `ownedAt`, unless a fence is around it.
   *
   * @throws NotOwner, OwnershipDecided
   */
  async stillOwnedAt(generation: number): Promise<Owned> {
    const owned = await this.ownedAt(generation);
    const fenced = await this.fenceAround(owned);
    if (fenced === null) return owned;
    throw new VmferryError(
      'OwnershipDecided',
      `generation ${generation} of instance ${this.#instanceId} on host ${this.#host} is over: ` +
        `a fence gave generation ${fenced} to another history`,
    );
  }

  /** Generation of a fence that ends this ownership: a higher one, or one that its chain does not go through. Else null. */
  async fenceAround({ generation, chain }: Owned): Promise<number | null> {
    if (this.fenced.length === 0) return null;
    const made = await madeBy(chain);
    for (const fenced of this.fenced) {
      if (fenced > generation || (await this.fenceDigest(fenced)) !== made.get(fenced)) return fenced;
    }
    return null;
  }

  /** The fence that is known here. */
  async fenceAt(generation: number): Promise<SignedText | null> {
    return (await readJson(this.#path(`fence-${generation}`), FenceRecord))?.fence ?? null;
  }

  async fenceDigest(generation: number): Promise<string | null> {
    const fence = await this.fenceAt(generation);
    return fence === null ? null : digestOf(fence);
  }

  /** The package that was accepted for a generation, without opening the book: its name may not be durable yet. */
  static seen(folder: string, generation: number): Promise<Seen | null> {
    return readJson(join(folder, `seen-${generation}.json`), SeenRecord);
  }

  seenAt(generation: number): Promise<Seen | null> {
    return LedgerBook.seen(this.#folder, generation);
  }

  decisionAt(generation: number): Promise<Decision | null> {
    return readJson(this.#path(`decision-${generation}`), DecisionRecord);
  }

  /** The receipt that this host gave to a move. */
  receiptFor(generation: number, moveId: MoveId): Promise<GivenReceipt | null> {
    return readJson(this.#path(`receipt-${generation}-${moveId}`), ReceiptRecord);
  }

  /** A receipt that this host gave for a generation. */
  async receiptWhich(
    generation: number,
    is: (given: GivenReceipt) => boolean | Promise<boolean>,
  ): Promise<GivenReceipt | null> {
    for (const name of await readdir(this.#folder)) {
      if (!name.startsWith(`receipt-${generation}-`)) continue;
      const given = await readJson(join(this.#folder, name), ReceiptRecord);
      if (given && (await is(given))) return given;
    }
    return null;
  }

  /** Digest of the origin record that this host signed for a package. */
  async sealedAt(generation: number, packageId: PackageId): Promise<string | null> {
    return (await readJson(this.#path(`sealed-${generation}-${packageId}`), SealedRecord))?.originDigest ?? null;
  }

  // What is written, each with a sentence for people: this host did so.

  /** @param how it came here, after “generation g” */
  becomeOwner(owned: Owned, how: string): Promise<Owned> {
    const what = `owns the instance: generation ${owned.generation} ${how}`;
    return this.#createOnce(`owned-${owned.generation}`, OwnedRecord, owned, what);
  }

  /** The one decision about a generation: this one, or the one that was there. */
  decide(generation: number, decision: Decision, what: string): Promise<Decision> {
    return this.#createOnce(`decision-${generation}`, DecisionRecord, decision, what);
  }

  async keepFence(generation: number, fence: SignedText, what: string): Promise<SignedText> {
    return (await this.#createOnce(`fence-${generation}`, FenceRecord, { fence }, what)).fence;
  }

  keepSeen(generation: number, seen: Seen, what: string): Promise<Seen> {
    return this.#createOnce(`seen-${generation}`, SeenRecord, seen, what);
  }

  keepReceipt(generation: number, moveId: MoveId, given: GivenReceipt, what: string): Promise<GivenReceipt> {
    return this.#createOnce(`receipt-${generation}-${moveId}`, ReceiptRecord, given, what);
  }

  /** Replaces what an attempt before has sealed for the same package. */
  async keepSealed(generation: number, packageId: PackageId, originDigest: string): Promise<void> {
    const what = `sealed package ${packageId} for generation ${generation} of instance ${this.#instanceId}`;
    await writeRecord(this.#path(`sealed-${generation}-${packageId}`), this.#about(what), { originDigest });
  }

  /** Writes a record unless there is one, and answers the one that is there afterwards. */
  async #createOnce<T>(name: string, schema: z.ZodType<T>, record: object, what: string): Promise<T> {
    const path = this.#path(name);
    await createRecord(path, this.#about(what), record);
    const kept = await readJson(path, schema);
    if (kept === null) throw new VmferryError('Internal', `the record ${path} disappeared`);
    return kept;
  }

  #path(name: string): string {
    return join(this.#folder, `${name}.json`);
  }

  #about(what: string): string {
    return `${new Date().toISOString()}: ${this.#host} ${what}`;
  }
}

/** The ownership that follows, by the owner’s return. */
export const continued = (owned: Owned, statement: SignedText): Owned => ({
  generation: owned.generation + 1,
  chain: { statements: [...owned.chain.statements, statement], hosts: owned.chain.hosts },
  originDigest: owned.originDigest,
});

/** Digest of the statement that made each generation, of a chain that was verified before. */
export async function madeBy({ statements }: Chain): Promise<Map<number, string>> {
  const made = new Map<number, string>();
  // Every statement makes one generation; `end`, which makes none, is never in the chain of an owner.
  for (const [index, statement] of statements.entries()) made.set(index + 1, await digestOf(statement));
  return made;
}
