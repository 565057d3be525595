/**
 * A host's own memory of who may run an instance: durable, local, obeyed by every step, believed over any catalog.
 *
 *   owned-<g>.json               this host owns (or owned) generation g, and the chain that proves it
 *   decision-<g>.json            what it decided about its generation g: release, return or end. Never two.
 *   seen-<g>.json                the package that it accepted for generation g
 *   receipt-<g>-<move>.json      the receipt that it gave
 *   sealed-<g>-<package>.json    the origin record that it signed when it sealed a package for generation g
 *
 * Each is JSON that begins with a sentence for people (records/durable.ts); what decides is the signed text in it.
 *
 * Every change is the creation of one file that did not exist, so a crash leaves it done or not done, and of two that
 * race one wins and the other is told. A decision is on the disk before anything acts on it. `takeBack` needs two
 * files; the decision alone counts, the other is written again by whoever finds it missing.
 */
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import { z } from 'zod';
import type { HostId, InstanceId, MoveId, PackageId, SignedText } from '../../workflows/contract.ts';
import { VmferryError } from '../../workflows/failures.ts';
import type { CameBy } from '../../workflows/findings.ts';
import { createRecord, exists, makeDirectory, readJson, syncDirectory, writeRecord } from '../records/durable.ts';
import type { Layout } from '../records/layout.ts';
import { verifyClaim, type Chain, type ChainClaim, type ChainEnd } from './chain.ts';
import type { HostKeys } from './keys.ts';
import type { PoolTrust } from './pool.ts';
import { digestOf, readUnverified, signText, verifyText, type Verified } from './signed-text.ts';
import {
  fingerprint,
  hex,
  Link,
  Receipt,
  Release,
  uuid,
  type End,
  type Return,
  type Spawn,
} from './statements.ts';

export interface Owned {
  generation: number;
  chain: Chain;
  /** Digest of the origin record of the package by which the instance came here; null if it was spawned here. */
  originDigest: string | null;
}

export interface Decision {
  kind: 'release' | 'return' | 'end';
  statement: SignedText;
  /** Null for `end`. */
  packageId: PackageId | null;
}

/** What a ledger says of an instance, in short. */
export interface LedgerView {
  /** As `Ledger.owned`. */
  owned: { generation: number; by: CameBy } | null;
  /** The newest decision. */
  decided: { generation: number; kind: Decision['kind']; to: HostId | null } | null;
  /** The newest generation of which a package was accepted; 0 if none was. */
  accepted: number;
  /** A crash between the two files of takeBack: the second is still to be written. */
  takeBackUnfinished: boolean;
}

export interface LedgerOptions {
  layout: Layout;
  keys: HostKeys;
  pool: PoolTrust;
  /** This host's record as the pool certified it; goes into every chain that it continues. */
  selfRecord: () => Promise<SignedText>;
}

const signed = z.string();
const OwnedRecord = z.strictObject({
  generation: z.int().min(1),
  chain: z.strictObject({ statements: z.array(signed), hosts: z.array(signed) }),
  originDigest: hex(32).nullable(),
});
const DecisionRecord = z.strictObject({
  kind: z.enum(['release', 'return', 'end']),
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

/** One instance in the ledger: file names, and what is known of each generation. */
interface Book {
  folder: string;
  /** Generations with an `owned-` file, ascending. */
  owned: number[];
  decided: Set<number>;
  /** The highest generation with a `seen-` file; 0 if none. */
  accepted: number;
  /** The highest generation that this host has heard of, by whatever file; 0 if none. */
  highest: number;
}

export class Ledger {
  readonly #layout: Layout;
  readonly #keys: HostKeys;
  readonly #pool: PoolTrust;
  readonly #selfRecord: () => Promise<SignedText>;

  constructor({ layout, keys, pool, selfRecord }: LedgerOptions) {
    this.#layout = layout;
    this.#keys = keys;
    this.#pool = pool;
    this.#selfRecord = selfRecord;
  }

  /** This host's own record, as the pool certified it. */
  selfRecord(): Promise<SignedText> {
    return this.#selfRecord();
  }

  /** The generation that this host owns and has not decided about; null if it does not own the instance. */
  async owned(instanceId: InstanceId): Promise<Owned | null> {
    const book = await this.#open(instanceId);
    const newest = book.owned.at(-1);
    if (newest === undefined) return null;
    const owned = await this.#ownedAt(book, newest);
    if (!book.decided.has(newest)) return owned;
    const decision = await this.#decisionAt(book, newest);
    // A crash between the two files of takeBack.
    if (decision?.kind !== 'return') return null;
    return this.#becomeOwner(book, continued(owned, decision.statement), 'was taken back');
  }

  /** What this host decided about the generation that it owned; null if it owned no such one or has not decided. */
  async decision(instanceId: InstanceId, generation: number): Promise<Decision | null> {
    return this.#decisionAt(await this.#open(instanceId), generation);
  }

  /** All of it in short, for whoever compares it with the world; null if this host never heard of the instance. Writes nothing. */
  async view(instanceId: InstanceId): Promise<LedgerView | null> {
    const book = await this.#open(instanceId);
    if (book.highest === 0) return null;
    const newest = book.owned.at(-1) ?? 0;
    const last = Math.max(0, ...book.decided);
    const decision = await this.#decisionAt(book, last);
    const takeBackUnfinished = decision?.kind === 'return' && newest === last;
    const owns = takeBackUnfinished ? newest + 1 : book.decided.has(newest) ? 0 : newest;
    const statement = owns === 0 ? undefined : (await this.#ownedAt(book, owns)).chain.statements.at(-1);
    return {
      owned: statement === undefined ? null : { generation: owns, by: cameBy(await readUnverified(statement, Link)) },
      decided: decision && {
        generation: last,
        kind: decision.kind,
        to: decision.kind === 'release' ? (await readUnverified(decision.statement, Release)).to : null,
      },
      accepted: book.accepted,
      takeBackUnfinished,
    };
  }

  /**
   * The first statement of a new instance. Repeated, it answers the same.
   *
   * @throws OwnershipDecided if the instance has a history on this host already
   */
  async spawn(instanceId: InstanceId): Promise<Owned> {
    const book = await this.#open(instanceId, 'make');
    if (book.highest > 1 || book.decided.size > 0) {
      throw new VmferryError(
        'OwnershipDecided',
        `instance ${instanceId} was spawned before; its id cannot be used again`,
      );
    }
    if (book.owned.length > 0) return this.#ownedAt(book, 1);
    const statement: Spawn = { type: 'spawn', version: 1, instanceId, generation: 1, ...this.#signer(), time: now() };
    const chain = { statements: [await this.#sign(statement)], hosts: [await this.#selfRecord()] };
    return this.#becomeOwner(book, { generation: 1, chain, originDigest: null }, 'was spawned here');
  }

  /**
   * Accepts a package for a generation, before it is opened; durable, and outlives the instance's other files.
   *
   * @throws StaleGeneration if this host has heard of a higher generation, or of another package for the same one
   * @throws ChainBroken if the chain does not prove that the package's source owned the generation before, or
   *   contradicts what this host itself decided
   */
  async accept(origin: ChainClaim): Promise<void> {
    const { instanceId, generation, packageId, chain } = origin;
    const path = join(this.#layout.ledger(instanceId), `seen-${generation}.json`);
    const before = await readJson(path, SeenRecord);
    // Said yes before, to exactly this: a long chain takes a millisecond for each of its statements.
    if (before?.packageId === packageId && before.ownerFingerprint === origin.sourceFingerprint) {
      if (isDeepStrictEqual(before.chain, chain)) {
        return this.#refuseStale(await this.#open(instanceId), generation, packageId);
      }
    }
    const end = await verifyClaim(origin, this.#pool);
    const book = await this.#open(instanceId, 'make');
    await this.#compareWithOwnDecisions(book, end);
    await this.#refuseStale(book, generation, packageId);
    const record = { packageId, chain, ownerFingerprint: end.ownerFingerprint, tip: end.tip };
    const what = `accepted package ${packageId} of ${end.owner} for generation ${generation} of instance ${instanceId}`;
    const seen = await this.#createOnce(path, SeenRecord, record, what);
    if (seen.packageId !== packageId)
      throw stale(packageId, generation, `this host accepted package ${seen.packageId} for it`);
    // Another step may have accepted a later package since we looked.
    await this.#refuseStale(await this.#open(instanceId), generation, packageId);
  }

  /**
   * Says to the source: package verified, instance restored, vCPUs stopped. The same text when repeated.
   *
   * @throws ReceiptInvalid if this host never accepted that package, StaleGeneration if it was overtaken
   */
  async giveReceipt(input: {
    instanceId: InstanceId;
    generation: number;
    packageId: PackageId;
    moveId: MoveId;
    originDigest: string;
  }): Promise<SignedText> {
    const { instanceId, generation, packageId, moveId, originDigest } = input;
    const book = await this.#open(instanceId);
    const path = join(book.folder, `receipt-${generation}-${moveId}.json`);
    let record = await readJson(path, ReceiptRecord);
    if (!record) {
      const seen = await readJson(join(book.folder, `seen-${generation}.json`), SeenRecord);
      if (seen?.packageId !== packageId) {
        throw new VmferryError('ReceiptInvalid', `host ${this.#keys.name} has not accepted package ${packageId}`);
      }
      await this.#refuseStale(book, generation, packageId);
      const statement: Receipt = {
        ...{ type: 'receipt', version: 1, instanceId, packageId, moveId, generation, originDigest },
        ...this.#signer(),
        time: now(),
      };
      const receipt = await this.#sign(Receipt.parse(statement));
      const what = `gave its receipt for package ${packageId}: generation ${generation} of instance ${instanceId} is restored, paused`;
      record = await this.#createOnce(path, ReceiptRecord, { packageId, originDigest, receipt }, what);
    }
    if (record.packageId !== packageId || record.originDigest !== originDigest) {
      throw new VmferryError('ReceiptInvalid', `move ${moveId} already has a receipt, for package ${record.packageId}`);
    }
    return record.receipt;
  }

  /**
   * Remembers what was sealed for the next generation, before the package can leave this host; a release is then given
   * only for exactly that. Sealing again after a crash replaces it.
   *
   * @throws NotOwner
   */
  async recordSealed(input: {
    instanceId: InstanceId;
    generation: number;
    packageId: PackageId;
    originDigest: string;
  }): Promise<void> {
    const { instanceId, generation, packageId, originDigest } = input;
    const book = await this.#open(instanceId);
    if (!book.owned.includes(generation - 1)) throw this.#notOwner(instanceId, generation - 1);
    const about = this.#about(`sealed package ${packageId} for generation ${generation} of instance ${instanceId}`);
    await writeRecord(join(book.folder, `sealed-${generation}-${packageId}.json`), about, { originDigest });
  }

  /**
   * Gives the instance away, for ever: `generation` is the destination's. The same release when repeated.
   *
   * @throws ReceiptMissing, ReceiptInvalid, HostNotCertified
   * @throws NotOwner if this host never owned the generation before
   * @throws OwnershipDecided if it took the instance back, ended it, or released it otherwise
   */
  async release(input: {
    instanceId: InstanceId;
    generation: number;
    packageId: PackageId;
    receipt: SignedText | undefined;
    destination: SignedText;
  }): Promise<SignedText> {
    const { instanceId, generation, packageId } = input;
    const book = await this.#open(instanceId);
    const owned = await this.#ownedAt(book, generation - 1, instanceId);
    let decision = await this.#decisionAt(book, generation - 1);
    // What was released stays released, were the destination revoked since: it may be running the instance.
    const { record: to, key } = decision
      ? await this.#pool.onceCertifiedHost(input.destination)
      : await this.#pool.certifiedHost(input.destination);
    if (!decision) {
      if (input.receipt === undefined) {
        throw new VmferryError(
          'ReceiptMissing',
          `instance ${instanceId} is not released to ${to.name} without its receipt`,
        );
      }
      const receipt = await this.#checkReceipt(
        book,
        input.receipt,
        { ...input, to: to.name, toFingerprint: to.fingerprint },
        key,
      );
      const statement: Release = {
        ...{ type: 'release', version: 1, instanceId, packageId, generation },
        ...{ to: to.name, toFingerprint: to.fingerprint, receiptDigest: receipt.digest, previous: await tip(owned) },
        ...this.#signer(),
        time: now(),
      };
      const what = `released the instance to ${to.name}, which goes on as generation ${generation} from package ${packageId}`;
      decision = await this.#decide(book, generation - 1, 'release', statement, packageId, what);
    }
    const released = decision.kind === 'release' && (await readUnverified(decision.statement, Release));
    if (!released || released.packageId !== packageId || released.toFingerprint !== to.fingerprint) {
      throw decided(instanceId, generation - 1, decision);
    }
    return decision.statement;
  }

  /**
   * Takes the instance back without asking anyone: this host goes on as `generation`, the package can never be
   * released. The same when repeated.
   *
   * @throws NotOwner, OwnershipDecided if it was released, ended, or taken back from another package
   */
  async takeBack(input: { instanceId: InstanceId; generation: number; packageId: PackageId }): Promise<Owned> {
    const { instanceId, generation, packageId } = input;
    const book = await this.#open(instanceId);
    const owned = await this.#ownedAt(book, generation - 1, instanceId);
    let decision = await this.#decisionAt(book, generation - 1);
    if (!decision) {
      const statement: Return = {
        ...{ type: 'return', version: 1, instanceId, packageId, generation, previous: await tip(owned) },
        ...this.#signer(),
        time: now(),
      };
      const what = `took the instance back, and goes on as generation ${generation}; package ${packageId} will never be released`;
      decision = await this.#decide(book, generation - 1, 'return', statement, packageId, what);
    }
    if (decision.kind !== 'return' || decision.packageId !== packageId) {
      throw decided(instanceId, generation - 1, decision);
    }
    const next = await this.#becomeOwner(book, continued(owned, decision.statement), 'was taken back');
    // A call that was thought dead and wakes after the instance went on must not be told that it may run it.
    const later = await this.#decisionAt(book, generation);
    if (later) throw decided(instanceId, generation, later);
    return next;
  }

  /**
   * Becomes owner of an accepted generation by its release. The same when repeated.
   *
   * @throws ReleaseMissing, ReleaseInvalid, HostNotCertified
   * @throws StaleGeneration, OwnershipDecided if the instance has gone on since
   */
  async takeOver(input: {
    instanceId: InstanceId;
    generation: number;
    packageId: PackageId;
    release: SignedText | undefined;
    source: SignedText;
  }): Promise<Owned> {
    const { instanceId, generation, packageId } = input;
    if (input.release === undefined) {
      throw new VmferryError(
        'ReleaseMissing',
        `generation ${generation} of instance ${instanceId} is not released to ${this.#keys.name}`,
      );
    }
    const book = await this.#open(instanceId);
    const refuse = (why: string, cause?: unknown): VmferryError =>
      new VmferryError(
        'ReleaseInvalid',
        `the release of instance ${instanceId} to ${this.#keys.name} is refused: ${why}`,
        { cause },
      );
    const seen = await readJson(join(book.folder, `seen-${generation}.json`), SeenRecord);
    if (seen?.packageId !== packageId)
      throw refuse(`package ${packageId} was not accepted for generation ${generation}`);

    const source = await this.#pool.certifiedHost(input.source);
    if (source.record.fingerprint !== seen.ownerFingerprint)
      throw refuse(`${source.record.name} does not own the instance`);
    let release: Verified<Release>;
    try {
      release = await verifyText(input.release, source.key, Release);
    } catch (cause) {
      throw refuse(`${source.record.name} did not sign it`, cause);
    }
    const { payload } = release;
    if (payload.instanceId !== instanceId) throw refuse(`it is for instance ${payload.instanceId}`);
    if (payload.packageId !== packageId) throw refuse(`it is for package ${payload.packageId}`);
    if (payload.generation !== generation) throw refuse(`it is for generation ${payload.generation}`);
    if (payload.to !== this.#keys.name || payload.toFingerprint !== this.#keys.fingerprint)
      throw refuse(`it is for ${payload.to}`);
    if (payload.signerFingerprint !== seen.ownerFingerprint || payload.previous !== seen.tip) {
      throw refuse('it does not continue the chain that came with the package');
    }
    const receipt = await this.#receiptByDigest(book, generation, payload.receiptDigest);
    if (receipt?.packageId !== packageId) throw refuse('it answers no receipt of this host');

    await this.#refuseStale(book, generation, packageId);
    const chain = {
      statements: [...seen.chain.statements, input.release],
      hosts: await this.#withSelf(seen.chain.hosts),
    };
    const became = { generation, chain, originDigest: receipt.originDigest };
    const owned = await this.#becomeOwner(book, became, `was released by ${source.record.name}`);
    const later = await this.#decisionAt(book, generation);
    if (later) throw decided(instanceId, generation, later);
    return owned;
  }

  /**
   * Ends the instance for ever. No error when it was ended before.
   *
   * @throws NotOwner
   */
  async end(instanceId: InstanceId): Promise<void> {
    const owned = await this.owned(instanceId);
    const book = await this.#open(instanceId);
    const generation = owned?.generation ?? book.owned.at(-1) ?? 0;
    let decision = await this.#decisionAt(book, generation);
    if (!owned && decision?.kind !== 'end') throw this.#notOwner(instanceId, generation);
    if (owned && !decision) {
      const statement: End = {
        ...{ type: 'end', version: 1, instanceId, generation, previous: await tip(owned) },
        ...this.#signer(),
        time: now(),
      };
      decision = await this.#decide(book, generation, 'end', statement, null, 'ended the instance for ever');
    }
    if (decision?.kind !== 'end') throw decided(instanceId, generation, decision);
  }

  async #open(instanceId: InstanceId, absent: 'make' | 'ignore' = 'ignore'): Promise<Book> {
    const folder = this.#layout.ledger(instanceId);
    const book: Book = { folder, owned: [], decided: new Set(), accepted: 0, highest: 0 };
    if (absent === 'make') await makeDirectory(folder);
    else if (!(await exists(folder))) return book;
    // Whoever wrote what we are about to read may have died before its name was durable; we act on it, so it has to be.
    await syncDirectory(folder);
    for (const name of await readdir(folder)) {
      const [, kind, digits] = /^(owned|decision|seen)-([0-9]+)\.json$/.exec(name) ?? [];
      if (kind === undefined) continue;
      const generation = Number(digits);
      if (kind === 'owned') book.owned.push(generation);
      if (kind === 'decision') book.decided.add(generation);
      if (kind === 'seen') book.accepted = Math.max(book.accepted, generation);
      book.highest = Math.max(book.highest, generation);
    }
    book.owned.sort((a, b) => a - b);
    // A release or return about g makes g + 1 known, even where no other file speaks of it.
    const last = Math.max(0, ...book.decided);
    const decision = await this.#decisionAt(book, last);
    if (decision && decision.kind !== 'end') book.highest = Math.max(book.highest, last + 1);
    return book;
  }

  async #ownedAt(book: Book, generation: number, instanceId?: InstanceId): Promise<Owned> {
    const owned = await readJson(join(book.folder, `owned-${generation}.json`), OwnedRecord);
    if (owned) return owned;
    // A crash between the two files of takeBack.
    const before = generation > 1 ? await this.#decisionAt(book, generation - 1) : null;
    if (before?.kind === 'return')
      return continued(await this.#ownedAt(book, generation - 1, instanceId), before.statement);
    throw this.#notOwner(instanceId ?? book.folder, generation);
  }

  async #decisionAt(book: Book, generation: number): Promise<Decision | null> {
    return readJson(join(book.folder, `decision-${generation}.json`), DecisionRecord);
  }

  /** The one decision about a generation: ours, or the one that was there. */
  async #decide(
    book: Book,
    generation: number,
    kind: Decision['kind'],
    statement: Link,
    packageId: PackageId | null,
    what: string,
  ): Promise<Decision> {
    const record = { kind, statement: await this.#sign(statement), packageId };
    return this.#createOnce(join(book.folder, `decision-${generation}.json`), DecisionRecord, record, what);
  }

  /** @param how it came here, after “generation g” */
  async #becomeOwner(book: Book, owned: Owned, how: string): Promise<Owned> {
    const what = `owns the instance: generation ${owned.generation} ${how}`;
    return this.#createOnce(join(book.folder, `owned-${owned.generation}.json`), OwnedRecord, owned, what);
  }

  /** Writes a record unless there is one, and answers the one that is there afterwards. `what`: this host did, for people. */
  async #createOnce<T>(path: string, schema: z.ZodType<T>, record: object, what: string): Promise<T> {
    await createRecord(path, this.#about(what), record);
    const kept = await readJson(path, schema);
    if (kept === null) throw new VmferryError('Internal', `the record ${path} disappeared`);
    return kept;
  }

  /** @throws StaleGeneration unless the package is the newest that this host has heard of */
  async #refuseStale(book: Book, generation: number, packageId: PackageId): Promise<void> {
    if (generation > book.highest) return;
    if (generation < book.highest)
      throw stale(packageId, generation, `this host has heard of generation ${book.highest}`);
    const before = await this.#decisionAt(book, generation - 1);
    if (before?.kind === 'return') throw stale(packageId, generation, 'this host took the instance back');
    const seen = await readJson(join(book.folder, `seen-${generation}.json`), SeenRecord);
    const known = seen?.packageId ?? before?.packageId ?? null;
    if (known !== packageId) throw stale(packageId, generation, `this host knows package ${known ?? 'none'} for it`);
  }

  /** A chain that says that this host gave a generation away, when it did not, was signed with a stolen key. */
  async #compareWithOwnDecisions(book: Book, end: ChainEnd): Promise<void> {
    for (const generation of book.owned) {
      if (generation > end.generation) continue;
      const made = end.madeBy.get(generation);
      const { chain } = await this.#ownedAt(book, generation);
      const last = chain.statements.at(-1);
      if (made !== undefined && last !== undefined && (await digestOf(last)) !== made) {
        throw new VmferryError(
          'ChainBroken',
          `generation ${generation} of ${end.instanceId} came about otherwise than its chain says`,
        );
      }
      if (generation === end.generation) continue;
      const decision = await this.#decisionAt(book, generation);
      if (!decision || (await digestOf(decision.statement)) !== end.madeBy.get(generation + 1)) {
        throw new VmferryError(
          'ChainBroken',
          `host ${this.#keys.name} never decided about generation ${generation} as the chain says`,
        );
      }
    }
  }

  async #checkReceipt(
    book: Book,
    text: SignedText,
    expected: { instanceId: InstanceId; generation: number; packageId: PackageId; to: string; toFingerprint: string },
    key: Parameters<typeof verifyText>[1],
  ): Promise<Verified<Receipt>> {
    const refuse = (why: string, cause?: unknown): VmferryError =>
      new VmferryError(
        'ReceiptInvalid',
        `the receipt of ${expected.to} for instance ${expected.instanceId} is refused: ${why}`,
        { cause },
      );
    let receipt: Verified<Receipt>;
    try {
      receipt = await verifyText(text, key, Receipt);
    } catch (cause) {
      throw refuse(`${expected.to} did not sign it`, cause);
    }
    const { payload } = receipt;
    if (payload.instanceId !== expected.instanceId) throw refuse(`it is for instance ${payload.instanceId}`);
    if (payload.packageId !== expected.packageId) throw refuse(`it is for package ${payload.packageId}`);
    if (payload.generation !== expected.generation) throw refuse(`it is for generation ${payload.generation}`);
    if (payload.signer !== expected.to || payload.signerFingerprint !== expected.toFingerprint)
      throw refuse(`it names ${payload.signer}`);
    const sealed = await readJson(
      join(book.folder, `sealed-${expected.generation}-${expected.packageId}.json`),
      SealedRecord,
    );
    if (sealed?.originDigest !== payload.originDigest)
      throw refuse('it is for another origin record than this host signed');
    return receipt;
  }

  async #receiptByDigest(
    book: Book,
    generation: number,
    digest: string,
  ): Promise<z.infer<typeof ReceiptRecord> | null> {
    for (const name of await readdir(book.folder)) {
      if (!name.startsWith(`receipt-${generation}-`)) continue;
      const record = await readJson(join(book.folder, name), ReceiptRecord);
      if (record && (await digestOf(record.receipt)) === digest) return record;
    }
    return null;
  }

  async #withSelf(hosts: readonly SignedText[]): Promise<SignedText[]> {
    for (const record of hosts) {
      if ((await this.#pool.onceCertifiedHost(record)).record.fingerprint === this.#keys.fingerprint) return [...hosts];
    }
    return [...hosts, await this.#selfRecord()];
  }

  #about(what: string): string {
    return `${now()}: ${this.#keys.name} ${what}`;
  }

  #signer(): { signer: string; signerFingerprint: string } {
    return { signer: this.#keys.name, signerFingerprint: this.#keys.fingerprint };
  }

  #sign(statement: object): Promise<SignedText> {
    return signText(statement, this.#keys.privateKey);
  }

  #notOwner(instance: string, generation: number): VmferryError {
    return new VmferryError(
      'NotOwner',
      `host ${this.#keys.name} does not own generation ${generation} of instance ${instance}`,
    );
  }
}

function cameBy({ type }: Link): CameBy {
  if (type === 'end') throw new VmferryError('Internal', 'an ownership record ends with the end of its instance');
  return type;
}

const now = (): string => new Date().toISOString();

const continued = (owned: Owned, statement: SignedText): Owned => ({
  generation: owned.generation + 1,
  chain: { statements: [...owned.chain.statements, statement], hosts: owned.chain.hosts },
  originDigest: owned.originDigest,
});

async function tip(owned: Owned): Promise<string> {
  const last = owned.chain.statements.at(-1);
  if (last === undefined) throw new VmferryError('Internal', 'an ownership record has an empty chain');
  return digestOf(last);
}

const stale = (packageId: PackageId, generation: number, why: string): VmferryError =>
  new VmferryError('StaleGeneration', `package ${packageId} is for generation ${generation}: ${why}`);

const decided = (instanceId: InstanceId, generation: number, decision: Decision | null): VmferryError =>
  new VmferryError(
    'OwnershipDecided',
    `generation ${generation} of instance ${instanceId} has a decision: ${decision?.kind ?? 'none'}`,
  );
