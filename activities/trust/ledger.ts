/**
 * A host's own memory of who may run an instance: durable, local, obeyed by every step, believed over any catalog. Its
 * files, `owned-<g>` and the others, are described in ledger-book.ts.
 *
 * The rules:
 *
 * 1. A host owns generation g if `owned-<g>` is its highest, nothing is decided about g, no fence above g is known to it,
 *    and the chain in `owned-<g>` goes through every other fence that it knows.
 * 2. Of a generation one thing becomes, once. A release needs the receipt for the very package that was sealed; a return
 *    makes this host owner of g + 1; an end makes nobody owner.
 * 3. A package is accepted for one generation: its own, or a later one that a fence gives to this host. It is refused once
 *    a higher generation, or another package for the same, is known here, and if its chain leaves out a fence that is.
 * 4. A host takes over an accepted generation g for which it gave a receipt, by the release of the owner of g - 1, or by
 *    the fence for g; by the release only while no fence for g or above is known to it.
 * 5. A fence for g is the pool key's word: the owner of g - 1 died for good. It names the statement that made g - 1 and the
 *    package from which g goes on. Asked first (not `final`), a host takes note of it only if it decided nothing else about
 *    g - 1, and owns nothing now but the g - 1 that the fence names. Told that another may have taken over (`final`), it
 *    takes note in any case. Either way what it owned, or was released, that does not go through the fence is over.
 *
 * Every change is the creation of one file that did not exist, so a crash leaves it done or not done, and of two that
 * race one wins and the other is told. A decision is on the disk before anything acts on it. `takeBack` and `obeyFence`
 * need two files; the decision alone counts, the other is written again by whoever finds it missing.
 */
import { isDeepStrictEqual } from 'node:util';
import { z } from 'zod';
import type { HostId, InstanceId, MoveId, PackageId, SignedText } from '../../workflows/contract.ts';
import { VmferryError } from '../../workflows/failures.ts';
import type { CameBy } from '../../workflows/findings.ts';
import type { Layout } from '../records/layout.ts';
import { verifyClaim, verifyFence, type Chain, type ChainClaim, type ChainEnd } from './chain.ts';
import type { HostKeys } from './keys.ts';
import { continued, LedgerBook, madeBy, type Decision, type Owned, type Seen } from './ledger-book.ts';
import type { PoolTrust } from './pool.ts';
import { digestOf, readUnverified, signText, verifyText, type Verified } from './signed-text.ts';
import { Fence, Link, Receipt, Release, type End, type Return, type Spawn } from './statements.ts';

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
    const owned = await book.ownedAt(newest);
    if (await book.fenceAround(owned)) return null;
    if (!book.decided.has(newest)) return owned;
    const decision = await book.decisionAt(newest);
    // A crash between the two files of takeBack.
    if (decision?.kind !== 'return') return null;
    return book.becomeOwner(continued(owned, decision.statement), 'was taken back');
  }

  /**
   * The highest generation that this host ever owned, whatever became of it, and whether it was given it by another host or
   * a fence, or had it from itself, and by which package; null if it owned none.
   */
  async lastOwned(
    instanceId: InstanceId,
  ): Promise<{ generation: number; given: boolean; packageId: PackageId | null } | null> {
    const book = await this.#open(instanceId);
    const generation = book.owned.at(-1);
    if (generation === undefined) return null;
    const { chain } = await book.ownedAt(generation);
    const link = await readUnverified(chain.statements.at(-1) ?? '', Link);
    return {
      generation,
      given: link.type === 'release' || link.type === 'fence',
      packageId: 'packageId' in link ? link.packageId : null,
    };
  }

  /** What became of a generation, by this host's own decision or by a fence; null if nothing that it knows of. */
  async decision(instanceId: InstanceId, generation: number): Promise<Decision | null> {
    return (await this.#open(instanceId)).decisionAt(generation);
  }

  /** All of it in short, for whoever compares it with the world; null if this host never heard of the instance. Writes nothing. */
  async view(instanceId: InstanceId): Promise<LedgerView | null> {
    const book = await this.#open(instanceId);
    if (book.highest === 0) return null;
    const newest = book.owned.at(-1) ?? 0;
    const last = Math.max(0, ...book.decided);
    const decision = await book.decisionAt(last);
    const takeBackUnfinished = decision?.kind === 'return' && newest === last;
    const owns = takeBackUnfinished ? newest + 1 : book.decided.has(newest) ? 0 : newest;
    const owned = owns === 0 ? null : await book.ownedAt(owns);
    const statement = owned && !(await book.fenceAround(owned)) ? owned.chain.statements.at(-1) : undefined;
    return {
      owned: statement === undefined ? null : { generation: owns, by: cameBy(await readUnverified(statement, Link)) },
      decided: decision && {
        generation: last,
        kind: decision.kind,
        to:
          decision.kind === 'release' || decision.kind === 'fence'
            ? (await readUnverified(decision.statement, z.union([Release, Fence]))).to
            : null,
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
    if (book.owned.length > 0) return book.ownedAt(1);
    const statement: Spawn = { type: 'spawn', version: 1, instanceId, generation: 1, ...this.#signer(), time: now() };
    const chain = { statements: [await this.#sign(statement)], hosts: [await this.#selfRecord()] };
    return book.becomeOwner({ generation: 1, chain, originDigest: null }, 'was spawned here');
  }

  /**
   * Accepts a package for a generation, before it is opened; durable, and outlives the instance's other files.
   *
   * @param continuation statements that follow the package's chain, the last of them a fence that goes back to this
   *   package. Each makes a generation; the fence's is the one that is accepted. Empty: the package's own.
   * @throws StaleGeneration if this host has heard of a higher generation, or of another package for the same one
   * @throws ChainBroken if the chain does not prove that the package's source owned the generation before, or
   *   contradicts what this host itself decided
   * @throws FenceInvalid, FenceConflict, OwnershipDecided from `obeyFence`; FenceConflict also if the chain leaves out a
   *   fence that this host knows
   */
  async accept(origin: ChainClaim, continuation: readonly SignedText[] = []): Promise<void> {
    const { instanceId, packageId } = origin;
    const later = continuation.slice(0, -1);
    const fence = continuation.at(-1);
    const generation = origin.generation + later.length;
    const chain = { ...origin.chain, statements: [...origin.chain.statements, ...later] };
    const before = await LedgerBook.seen(this.#layout.ledger(instanceId), generation);
    // Said yes before, to exactly this: a long chain takes a millisecond for each of its statements.
    if (!fence && before?.packageId === packageId && before.ownerFingerprint === origin.sourceFingerprint) {
      if (isDeepStrictEqual(before.chain, chain)) {
        // Opened after that was read: its name is durable now.
        const book = await this.#open(instanceId);
        await this.#compareWithFences(book, generation, chain);
        return this.#refuseStale(book, generation, packageId);
      }
    }
    const end = await verifyClaim(origin, this.#pool, later);
    if (fence) await this.#checkFence(fence, { instanceId, packageId, generation, previous: end.tip });
    let book = await this.#open(instanceId, 'make');
    await this.#compareWithOwnDecisions(book, end);
    await this.#refuseStale(book, generation, packageId);
    if (fence) {
      await this.obeyFence(fence, { final: false });
      book = await this.#open(instanceId);
    }
    await this.#compareWithFences(book, generation, chain, fence);
    const record = { packageId, chain, ownerFingerprint: end.ownerFingerprint, tip: end.tip };
    const what = `accepted package ${packageId} of ${end.owner} for generation ${generation} of instance ${instanceId}`;
    const seen = await book.keepSeen(generation, record, what);
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
    let record = await book.receiptFor(generation, moveId);
    if (!record) {
      const seen = await book.seenAt(generation);
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
      record = await book.keepReceipt(generation, moveId, { packageId, originDigest, receipt }, what);
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
    await book.stillOwnedAt(generation - 1);
    await book.keepSealed(generation, packageId, originDigest);
  }

  /**
   * Gives the instance away, for ever: `generation` is the destination's. The same release when repeated.
   *
   * @throws ReceiptMissing, ReceiptInvalid, HostNotCertified
   * @throws NotOwner if this host never owned the generation before
   * @throws OwnershipDecided if it took the instance back, ended it, or released it otherwise, or was fenced
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
    const owned = await book.stillOwnedAt(generation - 1);
    let decision = await book.decisionAt(generation - 1);
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
      decision = await book.decide(
        generation - 1,
        { kind: 'release', statement: await this.#sign(statement), packageId },
        what,
      );
    }
    const released = decision.kind === 'release' && (await readUnverified(decision.statement, Release));
    if (!released || released.packageId !== packageId || released.toFingerprint !== to.fingerprint) {
      throw decidedAlready(instanceId, generation - 1, decision);
    }
    return decision.statement;
  }

  /**
   * Takes the instance back without asking anyone: this host goes on as `generation`, the package can never be
   * released. The same when repeated.
   *
   * @throws NotOwner, OwnershipDecided if it was released, ended, fenced, or taken back from another package
   */
  async takeBack(input: { instanceId: InstanceId; generation: number; packageId: PackageId }): Promise<Owned> {
    const { instanceId, generation, packageId } = input;
    const book = await this.#open(instanceId);
    const owned = await book.stillOwnedAt(generation - 1);
    let decision = await book.decisionAt(generation - 1);
    if (!decision) {
      const statement: Return = {
        ...{ type: 'return', version: 1, instanceId, packageId, generation, previous: await tip(owned) },
        ...this.#signer(),
        time: now(),
      };
      const what = `took the instance back, and goes on as generation ${generation}; package ${packageId} will never be released`;
      decision = await book.decide(
        generation - 1,
        { kind: 'return', statement: await this.#sign(statement), packageId },
        what,
      );
    }
    if (decision.kind !== 'return' || decision.packageId !== packageId) {
      throw decidedAlready(instanceId, generation - 1, decision);
    }
    const next = await book.becomeOwner(continued(owned, decision.statement), 'was taken back');
    await this.#refuseGoneOn(instanceId, generation);
    return next;
  }

  /**
   * Becomes owner of an accepted generation by its release. The same when repeated.
   *
   * @throws ReleaseMissing, ReleaseInvalid, HostNotCertified
   * @throws StaleGeneration, OwnershipDecided if the instance has gone on since
   * @throws FenceConflict if a fence has given the generation to a host
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
    const seen = await book.seenAt(generation);
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
    const receipt = await book.receiptWhich(generation, async (record) => {
      return (await digestOf(record.receipt)) === payload.receiptDigest;
    });
    if (receipt?.packageId !== packageId) throw refuse('it answers no receipt of this host');
    return this.#goOn({
      instanceId,
      generation,
      packageId,
      seen,
      by: input.release,
      how: `was released by ${source.record.name}`,
      originDigest: receipt.originDigest,
    });
  }

  /**
   * Becomes owner of an accepted generation by the operator's fence. The same when repeated.
   *
   * @throws FenceInvalid, FenceConflict, ReceiptMissing if this host has not restored the instance
   * @throws StaleGeneration, OwnershipDecided if the instance has gone on since
   */
  async takeOverByFence(input: {
    instanceId: InstanceId;
    generation: number;
    packageId: PackageId;
    fence: SignedText;
  }): Promise<Owned> {
    const { instanceId, generation, packageId, fence } = input;
    const book = await this.#open(instanceId);
    const seen = await book.seenAt(generation);
    if (seen?.packageId !== packageId) {
      throw new VmferryError(
        'FenceInvalid',
        `host ${this.#keys.name} has not accepted package ${packageId} for generation ${generation}`,
      );
    }
    const { payload } = await this.#checkFence(fence, { instanceId, packageId, generation, previous: seen.tip });
    const receipt = await book.receiptWhich(generation, (record) => record.packageId === packageId);
    if (!receipt) {
      throw new VmferryError(
        'ReceiptMissing',
        `host ${this.#keys.name} has not restored package ${payload.packageId} of instance ${instanceId}`,
      );
    }
    const how = 'was given to it by a fence';
    return this.#goOn({ instanceId, generation, packageId, seen, by: fence, how, originDigest: receipt.originDigest });
  }

  /**
   * Takes note of a fence, for ever. Afterwards this host owns nothing of the instance that does not go through it, and no
   * release of a lower generation, or of the same, makes it owner. What runs or lies here is the caller's to give up.
   *
   * @param options.final another host may have taken over by it: what was decided or owned here counts no more
   * @returns what the fence says
   * @throws FenceInvalid
   * @throws FenceConflict if another fence for that generation is known here, or it follows another statement than the one
   *   that made this host owner
   * @throws OwnershipDecided unless final: this host decided otherwise, or owns the instance by another history
   */
  async obeyFence(fence: SignedText, options: { final: boolean }): Promise<Fence> {
    const { payload, digest } = await verifyFence(fence, this.#pool);
    const { instanceId, generation, packageId, to } = payload;
    const book = await this.#open(instanceId, 'make');
    let known = await book.fenceAt(generation);
    if (!known) {
      if (!options.final) await this.#refuseOwner(payload);
      const what = `was told of a fence: generation ${generation} of instance ${instanceId} belongs to ${to}`;
      const decision = await book.decide(generation - 1, { kind: 'fence', statement: fence, packageId }, what);
      if (decision.kind !== 'fence' && !options.final) throw decidedAlready(instanceId, generation - 1, decision);
      const first = decision.kind === 'fence' ? decision.statement : fence;
      known = await book.keepFence(generation, first, what);
    }
    if ((await digestOf(known)) === digest) return payload;
    const { to: other } = await readUnverified(known, Fence);
    throw new VmferryError(
      'FenceConflict',
      `host ${this.#keys.name} knows another fence for generation ${generation} of instance ${instanceId}: ` +
        `to ${other}, not to ${to}`,
    );
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
    let decision = await book.decisionAt(generation);
    if (!owned && decision?.kind !== 'end') throw book.notOwner(generation);
    if (owned && !decision) {
      const statement: End = {
        ...{ type: 'end', version: 1, instanceId, generation, previous: await tip(owned) },
        ...this.#signer(),
        time: now(),
      };
      const ended: Decision = { kind: 'end', statement: await this.#sign(statement), packageId: null };
      decision = await book.decide(generation, ended, 'ended the instance for ever');
    }
    if (decision?.kind !== 'end') throw decidedAlready(instanceId, generation, decision);
  }

  #open(instanceId: InstanceId, absent: 'make' | 'ignore' = 'ignore'): Promise<LedgerBook> {
    return LedgerBook.open(this.#layout.ledger(instanceId), this.#keys.name, instanceId, absent);
  }

  /** The last step of taking over: everything but the generation's own newness has been checked. */
  async #goOn(input: {
    instanceId: InstanceId;
    generation: number;
    packageId: PackageId;
    seen: Seen;
    /** The release or fence that makes the generation. */
    by: SignedText;
    how: string;
    originDigest: string;
  }): Promise<Owned> {
    const { instanceId, generation, packageId, seen, by, how, originDigest } = input;
    const book = await this.#open(instanceId);
    await this.#refuseStale(book, generation, packageId);
    const chain = { statements: [...seen.chain.statements, by], hosts: await this.#withSelf(seen.chain.hosts) };
    await this.#compareWithFences(book, generation, chain);
    const owned = await book.becomeOwner({ generation, chain, originDigest }, how);
    await this.#refuseGoneOn(instanceId, generation);
    return owned;
  }

  /** A call that was thought dead and wakes after the instance went on must not be told that it may run it. */
  async #refuseGoneOn(instanceId: InstanceId, generation: number): Promise<void> {
    const book = await this.#open(instanceId);
    const later = await book.decisionAt(generation);
    if (later) throw decidedAlready(instanceId, generation, later);
    await book.stillOwnedAt(generation);
  }

  /** @throws StaleGeneration unless the package is the newest that this host has heard of */
  async #refuseStale(book: LedgerBook, generation: number, packageId: PackageId): Promise<void> {
    if (generation > book.highest) return;
    if (generation < book.highest)
      throw stale(packageId, generation, `this host has heard of generation ${book.highest}`);
    const before = await book.decisionAt(generation - 1);
    if (before?.kind === 'return') throw stale(packageId, generation, 'this host took the instance back');
    const seen = await book.seenAt(generation);
    const known = seen?.packageId ?? before?.packageId ?? null;
    if (known !== packageId) throw stale(packageId, generation, `this host knows package ${known ?? 'none'} for it`);
  }

  /**
   * A chain that says that this host gave a generation away, when it did not, was signed with a stolen key. Only by a fence
   * that this host was told of may the instance have gone another way than it did here; what was owned from there on is over.
   */
  async #compareWithOwnDecisions(book: LedgerBook, end: ChainEnd): Promise<void> {
    const parted = async (generation: number): Promise<boolean> =>
      book.fenced.includes(generation) && (await book.fenceDigest(generation)) === end.madeBy.get(generation);
    for (const generation of book.owned) {
      if (generation > end.generation) continue;
      const made = end.madeBy.get(generation);
      const { chain } = await book.ownedAt(generation);
      const last = chain.statements.at(-1);
      if (made !== undefined && last !== undefined && (await digestOf(last)) !== made) {
        if (await parted(generation)) return;
        throw new VmferryError(
          'ChainBroken',
          `generation ${generation} of ${end.instanceId} came about otherwise than its chain says`,
        );
      }
      if (generation === end.generation) continue;
      const decision = await book.decisionAt(generation);
      if (!decision || (await digestOf(decision.statement)) !== end.madeBy.get(generation + 1)) {
        if (await parted(generation + 1)) return;
        throw new VmferryError(
          'ChainBroken',
          `host ${this.#keys.name} never decided about generation ${generation} as the chain says`,
        );
      }
    }
  }

  /**
   * The chain of a generation goes through every fence that is known here, up to the one that makes the generation itself.
   *
   * @param fence the one by which the generation is to be taken over, where its chain does not end with it yet
   */
  async #compareWithFences(book: LedgerBook, generation: number, chain: Chain, fence?: SignedText): Promise<void> {
    if (book.fenced.length === 0) return;
    const made = await madeBy(chain);
    for (const fenced of book.fenced) {
      if (fenced > generation) continue; // `#refuseStale` speaks of it
      const through = fenced === generation && fence ? await digestOf(fence) : made.get(fenced);
      if ((await book.fenceDigest(fenced)) === through) continue;
      throw new VmferryError(
        'FenceConflict',
        `host ${this.#keys.name} knows a fence for generation ${fenced} that generation ${generation} does not go through`,
      );
    }
  }

  /** @throws FenceInvalid unless it is the pool key's word that this host goes on with this generation */
  async #checkFence(
    fence: SignedText,
    expected: { instanceId: InstanceId; packageId: PackageId; generation: number; previous: string },
  ): Promise<Verified<Fence>> {
    const verified = await verifyFence(fence, this.#pool);
    const { payload } = verified;
    const refuse = (why: string): VmferryError =>
      new VmferryError('FenceInvalid', `the fence for instance ${expected.instanceId} is refused: ${why}`);
    if (payload.instanceId !== expected.instanceId) throw refuse(`it is for instance ${payload.instanceId}`);
    if (payload.packageId !== expected.packageId) throw refuse(`it is for package ${payload.packageId}`);
    if (payload.generation !== expected.generation) throw refuse(`it is for generation ${payload.generation}`);
    if (payload.to !== this.#keys.name || payload.toFingerprint !== this.#keys.fingerprint)
      throw refuse(`it is for ${payload.to}, this is ${this.#keys.name}`);
    if (payload.previous !== expected.previous) throw refuse('it does not continue the chain of the package');
    return verified;
  }

  /** A fence that is not final has no say over a host that owns the instance, but for the generation that it ends. */
  async #refuseOwner({ instanceId, generation, previous }: Fence): Promise<void> {
    const owned = await this.owned(instanceId);
    if (!owned) return;
    if (owned.generation !== generation - 1) {
      throw new VmferryError(
        'OwnershipDecided',
        `host ${this.#keys.name} owns generation ${owned.generation} of instance ${instanceId}; ` +
          `a fence for generation ${generation} has no say here`,
      );
    }
    if ((await tip(owned)) === previous) return;
    throw new VmferryError(
      'FenceConflict',
      `the fence for generation ${generation} of instance ${instanceId} does not follow the statement by which ` +
        `host ${this.#keys.name} owns generation ${owned.generation}`,
    );
  }

  async #checkReceipt(
    book: LedgerBook,
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
    const sealed = await book.sealedAt(expected.generation, expected.packageId);
    if (sealed !== payload.originDigest) throw refuse('it is for another origin record than this host signed');
    return receipt;
  }

  async #withSelf(hosts: readonly SignedText[]): Promise<SignedText[]> {
    for (const record of hosts) {
      if ((await this.#pool.onceCertifiedHost(record)).record.fingerprint === this.#keys.fingerprint) return [...hosts];
    }
    return [...hosts, await this.#selfRecord()];
  }

  #signer(): { signer: string; signerFingerprint: string } {
    return { signer: this.#keys.name, signerFingerprint: this.#keys.fingerprint };
  }

  #sign(statement: object): Promise<SignedText> {
    return signText(statement, this.#keys.privateKey);
  }
}

function cameBy({ type }: Link): CameBy {
  if (type === 'end') throw new VmferryError('Internal', 'an ownership record ends with the end of its instance');
  return type;
}

const now = (): string => new Date().toISOString();

async function tip(owned: Owned): Promise<string> {
  const last = owned.chain.statements.at(-1);
  if (last === undefined) throw new VmferryError('Internal', 'an ownership record has an empty chain');
  return digestOf(last);
}

const stale = (packageId: PackageId, generation: number, why: string): VmferryError =>
  new VmferryError('StaleGeneration', `package ${packageId} is for generation ${generation}: ${why}`);

const decidedAlready = (instanceId: InstanceId, generation: number, decision: Decision | null): VmferryError =>
  new VmferryError(
    'OwnershipDecided',
    `generation ${generation} of instance ${instanceId} has a decision already: ${decision?.kind ?? 'none'}`,
  );
