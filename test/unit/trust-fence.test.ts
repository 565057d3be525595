/** What fences do to the ledgers of those who are fenced, who go on, and who only hold the package. */
import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import test from 'node:test';
import type { SignedText } from '../../workflows/contract.ts';
import { VmferryError, type FailureType } from '../../workflows/failures.ts';
import type { ChainClaim } from '../../activities/trust/chain.ts';
import { Fences } from '../../activities/trust/fences.ts';
import { Ledger } from '../../activities/trust/ledger.ts';
import { digestOf, signText, verifyText } from '../../activities/trust/signed-text.ts';
import { Fence } from '../../activities/trust/statements.ts';
import { dieAt, type CrashPoint } from '../support/crash-points.ts';
import { moved, restored, sealed, world, type Move, type World } from '../support/ledger-moves.ts';
import { testPool, type TestHost } from '../support/pool-hosts.ts';
import { refused } from '../support/refusals.ts';

const POINTS: CrashPoint[] = ['open', 'writeFile', 'sync', 'link', 'rename', 'rm', 'mkdir'];

/** A worker started again: nothing remembered but what is on the disk. */
const restarted = ({ layout, keys, pool, signedRecord }: TestHost): Ledger =>
  new Ledger({ layout, keys, pool, selfRecord: () => Promise.resolve(signedRecord) });

interface Released extends World {
  instanceId: string;
  move: Move;
  /** What alpha's package says of itself. */
  claim: ChainClaim;
  release: SignedText;
}

/** alpha has released generation 2 to beta, which restored it and then died. */
async function released(w: World): Promise<Released> {
  const { alpha, beta } = w;
  const instanceId = randomUUID();
  const { chain } = await alpha.ledger.spawn(instanceId);
  const move = await sealed(alpha, instanceId);
  const receipt = await restored(move, alpha, beta);
  const release = await alpha.ledger.release({ ...move, receipt, destination: beta.signedRecord });
  const claim = { ...move, sourceFingerprint: alpha.keys.fingerprint, chain };
  return { ...w, instanceId, move, claim, release };
}

/** Signed as the CLI does it, but without its memory, so that tests may sign what it would not. */
async function fenceAfter(
  { pool }: World,
  last: SignedText,
  { instanceId, packageId }: Move,
  generation: number,
  to: TestHost,
  changes: object = {},
): Promise<SignedText> {
  return pool.poolKey.signFence({
    ...{ instanceId, packageId, generation, to: to.name, toFingerprint: to.keys.fingerprint },
    previous: await digestOf(last),
    ...changes,
  });
}

/** What transfer, restore and resume do at the host that goes on. */
async function goOn(
  host: TestHost,
  claim: ChainClaim,
  move: Move,
  continuation: SignedText[],
): Promise<ReturnType<Ledger['takeOverByFence']>> {
  const generation = claim.generation + continuation.length - 1;
  await host.ledger.accept(claim, continuation);
  await host.ledger.giveReceipt({ ...move, generation });
  const fence = continuation.at(-1) ?? '';
  return host.ledger.takeOverByFence({ ...move, generation, fence });
}

await test('a destination that died after the release is replaced, and can never take over when it comes back', async (t) => {
  const r = await released(await world(t));
  const { alpha, beta, gamma, instanceId, move, claim, release } = r;
  const fence = await fenceAfter(r, release, move, 3, gamma);
  const owned = await goOn(gamma, claim, move, [release, fence]);
  assert.equal(owned.generation, 3);
  assert.deepEqual(await gamma.ledger.owned(instanceId), owned);
  assert.deepEqual(await goOn(gamma, claim, move, [release, fence]), owned, 'the same when repeated');

  await beta.ledger.obeyFence(fence, { final: true });
  await beta.ledger.obeyFence(fence, { final: true });
  await beta.ledger.obeyFence(fence, { final: false });
  assert.equal(await beta.ledger.owned(instanceId), null);
  const late = { ...move, release, source: alpha.signedRecord };
  await refused('StaleGeneration', beta.ledger.takeOver(late));
  await refused('StaleGeneration', restarted(beta).takeOver(late));
  await refused('StaleGeneration', beta.ledger.accept(claim));

  // The instance goes on as ever, and may come back to both.
  assert.equal((await moved(instanceId, gamma, beta)).owned.generation, 4);
  assert.equal((await moved(instanceId, beta, alpha)).owned.generation, 5);
  assert.equal((await moved(instanceId, alpha, gamma)).owned.chain.statements.length, 6);
});

await test('the source itself can go on with what it released', async (t) => {
  const r = await released(await world(t));
  const { alpha, beta, instanceId, move, claim, release } = r;
  const fence = await fenceAfter(r, release, move, 3, alpha);
  assert.equal(await alpha.ledger.owned(instanceId), null);
  const owned = await goOn(alpha, claim, move, [release, fence]);
  assert.equal(owned.generation, 3);
  assert.deepEqual(await restarted(alpha).owned(instanceId), owned);
  assert.equal((await alpha.ledger.decision(instanceId, 1))?.kind, 'release');
  const again = { ...move, receipt: undefined, destination: beta.signedRecord };
  await refused('OwnershipDecided', alpha.ledger.release(again));
  await beta.ledger.obeyFence(fence, { final: true });
  await refused('StaleGeneration', beta.ledger.takeOver({ ...move, release, source: alpha.signedRecord }));
  assert.equal((await moved(instanceId, alpha, beta)).owned.generation, 4);
});

await test('a replacement that dies too is replaced by the next fence', async (t) => {
  const r = await released(await world(t));
  const { alpha, beta, gamma, instanceId, move, claim, release } = r;
  const first = await fenceAfter(r, release, move, 3, gamma);
  await gamma.ledger.accept(claim, [release, first]);
  await beta.ledger.obeyFence(first, { final: true });
  const second = await fenceAfter(r, first, move, 4, beta);
  assert.equal((await goOn(beta, claim, move, [release, first, second])).generation, 4);
  await gamma.ledger.obeyFence(second, { final: true });
  await refused('FenceInvalid', gamma.ledger.takeOverByFence({ ...move, generation: 4, fence: second }));
  await refused('ReceiptMissing', gamma.ledger.takeOverByFence({ ...move, generation: 3, fence: first }));
  await refused('StaleGeneration', gamma.ledger.accept(claim, [release, first]));
  assert.equal(await gamma.ledger.owned(instanceId), null);
  assert.equal((await moved(instanceId, beta, alpha)).owned.generation, 5);
});

await test('a replacement that has taken over and died is replaced as well', async (t) => {
  const r = await released(await world(t));
  const { beta, gamma, instanceId, move, claim, release } = r;
  const first = await fenceAfter(r, release, move, 3, gamma);
  await goOn(gamma, claim, move, [release, first]);
  await beta.ledger.obeyFence(first, { final: true });
  const second = await fenceAfter(r, first, move, 4, beta);
  await goOn(beta, claim, move, [release, first, second]);
  await gamma.ledger.obeyFence(second, { final: true });
  assert.equal(await gamma.ledger.owned(instanceId), null);
  await refused('StaleGeneration', gamma.ledger.takeOverByFence({ ...move, generation: 3, fence: first }));
});

await test('a source that died before the release is replaced by whoever has its package', async (t) => {
  const w = await world(t);
  for (const decision of ['none', 'release', 'return'] as const) {
    await t.test(`having decided: ${decision}`, async () => {
      const { alpha, beta } = w;
      const instanceId = randomUUID();
      const { chain } = await alpha.ledger.spawn(instanceId);
      const move = await sealed(alpha, instanceId);
      const receipt = await restored(move, alpha, beta);
      const claim = { ...move, sourceFingerprint: alpha.keys.fingerprint, chain };
      // What it did last nobody has heard.
      const release =
        decision === 'release'
          ? await alpha.ledger.release({ ...move, receipt, destination: beta.signedRecord })
          : undefined;
      if (decision === 'return') await alpha.ledger.takeBack(move);

      const fence = await fenceAfter(w, chain.statements[0] ?? '', move, 2, beta);
      const owned = await goOn(beta, claim, move, [fence]);
      assert.equal(owned.generation, 2);
      const late = beta.ledger.takeOver({ ...move, release, source: alpha.signedRecord });
      await refused(decision === 'release' ? 'FenceConflict' : 'ReleaseMissing', late);

      if (decision !== 'none') await refused('OwnershipDecided', alpha.ledger.obeyFence(fence, { final: false }));
      await alpha.ledger.obeyFence(fence, { final: true });
      assert.equal(await alpha.ledger.owned(instanceId), null);
      assert.equal(await restarted(alpha).owned(instanceId), null);
      await refused('OwnershipDecided', alpha.ledger.takeBack(move));
      await refused('OwnershipDecided', alpha.ledger.release({ ...move, receipt, destination: beta.signedRecord }));
      await refused('NotOwner', alpha.ledger.end(instanceId));
      await refused('OwnershipDecided', alpha.ledger.recordSealed(move));
      assert.equal((await moved(instanceId, beta, alpha)).owned.generation, 3);
      assert.equal((await alpha.ledger.owned(instanceId))?.generation, 3);
    });
  }
});

await test('a fence for anything else, or by any other key, is no fence', async (t) => {
  const r = await released(await world(t));
  const { alpha, beta, gamma, instanceId, move, claim, release } = r;
  const right = await fenceAfter(r, release, move, 3, gamma);
  const { payload } = await verifyText(right, r.pool.trust.publicKey, Fence);
  const stranger = await testPool(t);
  const wrong: Record<string, Promise<SignedText>> = {
    'another instance': fenceAfter(r, release, move, 3, gamma, { instanceId: randomUUID() }),
    'another package': fenceAfter(r, release, move, 3, gamma, { packageId: randomUUID() }),
    'a lower generation': fenceAfter(r, release, move, 2, gamma),
    'a higher generation': fenceAfter(r, release, move, 4, gamma),
    'another host': fenceAfter(r, release, move, 3, alpha),
    'another host of the same name': fenceAfter(r, release, move, 3, gamma, { toFingerprint: alpha.keys.fingerprint }),
    'another history': fenceAfter(r, claim.chain.statements[0] ?? '', move, 3, gamma),
    'signed by a host': signText(payload, alpha.keys.privateKey),
    'signed by the host that it names': signText(payload, gamma.keys.privateKey),
    'signed by another pool': stranger.poolKey.signFence(payload),
    'a release': Promise.resolve(release),
    nonsense: Promise.resolve('nonsense'),
  };
  for (const [name, text] of Object.entries(wrong)) {
    await t.test(name, async () => {
      const fence = await text;
      await refused('FenceInvalid', gamma.ledger.accept(claim, [release, fence]));
      await refused('FenceInvalid', gamma.ledger.takeOverByFence({ ...move, generation: 3, fence }));
      assert.deepEqual(await readdir(join(gamma.layout.instances)).catch(() => []), []);
    });
  }
  await refused('FenceInvalid', gamma.ledger.accept(claim, [right]));
  await refused('ChainBroken', gamma.ledger.accept(claim, [right, right]));
  await refused('FenceInvalid', beta.ledger.accept(claim, [release, right]));
  await gamma.ledger.accept(claim, [release, right]);
  for (const [name, text] of Object.entries(wrong)) {
    await t.test(`${name}, once the right one was accepted`, async () => {
      await gamma.ledger.giveReceipt({ ...move, generation: 3 });
      await refused('FenceInvalid', gamma.ledger.takeOverByFence({ ...move, generation: 3, fence: await text }));
      assert.equal(await gamma.ledger.owned(instanceId), null);
    });
  }
  await gamma.ledger.takeOverByFence({ ...move, generation: 3, fence: right });
});

await test('a fence lets nobody go on who has not accepted and restored the package', async (t) => {
  const r = await released(await world(t));
  const { gamma, instanceId, move, claim, release } = r;
  const fence = await fenceAfter(r, release, move, 3, gamma);
  const takeOver = { ...move, generation: 3, fence };
  await refused('FenceInvalid', gamma.ledger.takeOverByFence(takeOver));
  await gamma.ledger.accept(claim, [release, fence]);
  await refused('ReceiptMissing', gamma.ledger.takeOverByFence(takeOver));
  assert.equal(await gamma.ledger.owned(instanceId), null);
});

await test('the owner that a fence would end says no while it owns more than the fence knows', async (t) => {
  const r = await released(await world(t));
  const { alpha, beta, gamma, instanceId, move, release } = r;
  await beta.ledger.takeOver({ ...move, release, source: alpha.signedRecord });
  const fence = await fenceAfter(r, release, move, 3, gamma);

  const elsewhere = await fenceAfter(r, fence, move, 3, gamma);
  await refused('FenceConflict', beta.ledger.obeyFence(elsewhere, { final: false }));
  await refused(
    'OwnershipDecided',
    beta.ledger.obeyFence(await fenceAfter(r, fence, move, 4, gamma), { final: false }),
  );
  assert.equal((await beta.ledger.owned(instanceId))?.generation, 2);

  // beta has gone on: what the operator believes is not so.
  const next = await sealed(beta, instanceId);
  await beta.ledger.takeBack(next);
  await refused('OwnershipDecided', beta.ledger.obeyFence(fence, { final: false }));
  assert.equal((await beta.ledger.owned(instanceId))?.generation, 3);

  // gamma may have taken over: then it counts no more.
  await beta.ledger.obeyFence(fence, { final: true });
  assert.equal(await beta.ledger.owned(instanceId), null);
  await refused('OwnershipDecided', beta.ledger.takeBack(next));
  await refused('OwnershipDecided', beta.ledger.takeBack({ ...next, generation: 4 }));
});

await test('an owner that never ran it gives its generation up for a fence', async (t) => {
  const r = await released(await world(t));
  const { alpha, beta, gamma, instanceId, move, claim, release } = r;
  const takeOver = { ...move, release, source: alpha.signedRecord };
  await beta.ledger.takeOver(takeOver);
  const fence = await fenceAfter(r, release, move, 3, gamma);
  await beta.ledger.obeyFence(fence, { final: false });
  assert.equal(await beta.ledger.owned(instanceId), null);
  assert.equal((await beta.ledger.decision(instanceId, 2))?.kind, 'fence');
  await refused('StaleGeneration', beta.ledger.takeOver(takeOver));
  await goOn(gamma, claim, move, [release, fence]);
  assert.equal((await moved(instanceId, gamma, beta)).owned.generation, 4);
});

await test('of two fences for one generation every host that took part in the first refuses the second', async (t) => {
  const r = await released(await world(t));
  const { alpha, beta, gamma, move, claim, release } = r;
  const delta = await r.pool.host('delta');
  const first = await fenceAfter(r, release, move, 3, gamma);
  const second = await fenceAfter(r, release, move, 3, delta);
  await alpha.ledger.obeyFence(first, { final: false }); // holds the package
  await beta.ledger.obeyFence(first, { final: false }); // is fenced
  await gamma.ledger.accept(claim, [release, first]); // goes on
  for (const { ledger } of [alpha, beta, gamma]) {
    for (const final of [false, true]) await refused('FenceConflict', ledger.obeyFence(second, { final }));
  }
  // Not even delta can be made to believe both.
  await delta.ledger.obeyFence(first, { final: false });
  await refused('FenceConflict', delta.ledger.accept(claim, [release, second]));
});

await test('who knows a fence takes no chain that leaves it out', async (t) => {
  const r = await released(await world(t));
  const { alpha, beta, gamma, instanceId, move, claim, release } = r;
  const delta = await r.pool.host('delta');
  const fence = await fenceAfter(r, release, move, 3, gamma);
  await delta.ledger.obeyFence(fence, { final: false });
  // The operator was wrong: beta lived, and moved it on.
  await beta.ledger.takeOver({ ...move, release, source: alpha.signedRecord });
  const next = await sealed(beta, instanceId);
  const owned = await beta.ledger.owned(instanceId);
  assert.ok(owned);
  const past = { ...next, sourceFingerprint: beta.keys.fingerprint, chain: owned.chain };
  await refused('StaleGeneration', delta.ledger.accept(past));
  // A host that has accepted it before hears of the fence only then.
  await alpha.ledger.accept(past);
  await alpha.ledger.obeyFence(fence, { final: true });
  await refused('FenceConflict', alpha.ledger.accept(past));
  const receipt = await alpha.ledger.giveReceipt(next);
  const destination = alpha.signedRecord;
  const on = await beta.ledger.release({ ...next, receipt, destination });
  await refused('FenceConflict', alpha.ledger.takeOver({ ...next, release: on, source: beta.signedRecord }));
  assert.equal(await alpha.ledger.owned(instanceId), null);
  await goOn(gamma, claim, move, [release, fence]);
});

await test('who knows a fence takes no chain that leaves it out, however far it went on', async (t) => {
  const r = await released(await world(t));
  const { alpha, beta, gamma, instanceId, move, release } = r;
  const delta = await r.pool.host('delta');
  await delta.ledger.obeyFence(await fenceAfter(r, release, move, 3, gamma), { final: false });
  await beta.ledger.takeOver({ ...move, release, source: alpha.signedRecord });
  await beta.ledger.takeBack(await sealed(beta, instanceId));
  const next = await sealed(beta, instanceId);
  const owned = await beta.ledger.owned(instanceId);
  assert.ok(owned);
  const claim = { ...next, sourceFingerprint: beta.keys.fingerprint, chain: owned.chain };
  assert.equal(claim.generation, 4);
  await refused('FenceConflict', delta.ledger.accept(claim));
});

await test('a host that was not told of the fence does not take a chain that goes through it', async (t) => {
  const r = await released(await world(t));
  const { alpha, beta, gamma, instanceId, move, claim, release } = r;
  await beta.ledger.takeOver({ ...move, release, source: alpha.signedRecord });
  const fence = await fenceAfter(r, release, move, 3, gamma);
  await goOn(gamma, claim, move, [release, fence]);
  const back = await sealed(gamma, instanceId);
  const owned = await gamma.ledger.owned(instanceId);
  assert.ok(owned);
  const returning = { ...back, sourceFingerprint: gamma.keys.fingerprint, chain: owned.chain };
  // It would throw away what it owns: first it must be told.
  await refused('ChainBroken', beta.ledger.accept(returning));
  await beta.ledger.obeyFence(fence, { final: true });
  await beta.ledger.accept(returning);
});

await test('of a fence and what its owner decides at the same instant exactly one counts', async (t) => {
  const w = await world(t);
  const { alpha, beta, gamma } = w;
  const outcomes = new Set<string>();
  const types: FailureType[] = ['OwnershipDecided'];
  for (let round = 0; round < 16; round++) {
    const instanceId = randomUUID();
    const { chain } = await alpha.ledger.spawn(instanceId);
    const move = await sealed(alpha, instanceId);
    const receipt = await restored(move, alpha, beta);
    const fence = await fenceAfter(w, chain.statements[0] ?? '', move, 2, gamma);
    const own = round % 2 === 0 ? 'return' : 'release';
    const results = await Promise.allSettled([
      own === 'return'
        ? alpha.ledger.takeBack(move)
        : alpha.ledger.release({ ...move, receipt, destination: beta.signedRecord }),
      alpha.ledger.obeyFence(fence, { final: false }),
    ]);
    const lost = results.filter((result) => result.status === 'rejected');
    assert.equal(lost.length, 1);
    assert.ok(lost[0]?.reason instanceof VmferryError);
    assert.ok(types.includes(lost[0].reason.type), lost[0].reason.message);
    const kind = (await alpha.ledger.decision(instanceId, 1))?.kind ?? 'none';
    assert.equal(kind, results[0].status === 'fulfilled' ? own : 'fence');
    assert.equal((await alpha.ledger.owned(instanceId))?.generation ?? null, kind === 'return' ? 2 : null);
    outcomes.add(kind);
  }
  assert.ok(outcomes.size >= 1);
});

await test('whenever a host dies while it takes note of a fence, it either goes on as before or never owns again', async (t) => {
  const w = await world(t);
  const { alpha, beta, gamma } = w;
  for (const final of [false, true]) {
    const seen = new Set<string>();
    for (let count = 1, died = true; died; count++) {
      const { instanceId, move, release } = await released(w);
      const takeOver = { ...move, release, source: alpha.signedRecord };
      await beta.ledger.takeOver(takeOver);
      const fence = await fenceAfter(w, release, move, 3, gamma);
      died = await dieAt(count, POINTS, () => restarted(beta).obeyFence(fence, { final }));
      const owned = await restarted(beta).owned(instanceId);
      seen.add(owned === null ? 'over' : 'owner');
      if (owned === null) {
        await refused(
          'OwnershipDecided',
          restarted(beta).takeBack({ ...move, generation: 3, packageId: randomUUID() }),
        );
      } else {
        assert.equal(owned.generation, 2);
      }
      await restarted(beta).obeyFence(fence, { final });
      assert.equal(await restarted(beta).owned(instanceId), null);
      await refused('StaleGeneration', restarted(beta).takeOver(takeOver));
      assert.ok(count < 200, 'it never gets through');
    }
    assert.deepEqual([...seen].sort(), ['over', 'owner']);
  }
});

await test('whenever the host that goes on dies on the way, it can go on', async (t) => {
  const w = await world(t);
  const { gamma } = w;
  for (let count = 1, died = true; died; count++) {
    const { instanceId, move, claim, release } = await released(w);
    const fence = await fenceAfter(w, release, move, 3, gamma);
    const again = async (): Promise<unknown> =>
      goOn({ ...gamma, ledger: restarted(gamma) }, claim, move, [release, fence]);
    died = await dieAt(count, POINTS, again);
    await again();
    assert.equal((await restarted(gamma).owned(instanceId))?.generation, 3);
    assert.ok(count < 200, 'it never gets through');
  }
});

await test('the operator signs one fence for a generation, whatever is asked for', async (t) => {
  const r = await released(await world(t));
  const { pool, alpha, beta, gamma, move, claim, release, instanceId } = r;
  const folder = join(pool.directory, 'pool');
  const fences = await Fences.open(folder);
  const records = [beta.signedRecord, alpha.signedRecord];
  const last = await fences.readLast(release, records);
  assert.equal(last.instanceId, instanceId);
  assert.equal(last.generation, 2);
  assert.equal(last.owner, 'beta');
  await refused('SameHost', fences.sign(last, move.packageId, beta.signedRecord));
  const fence = await fences.sign(last, move.packageId, gamma.signedRecord);
  assert.equal(await (await Fences.open(folder)).sign(last, move.packageId, gamma.signedRecord), fence);
  await refused('FenceConflict', fences.sign(last, move.packageId, alpha.signedRecord));
  await refused('FenceConflict', fences.sign(last, randomUUID(), gamma.signedRecord));
  await goOn(gamma, claim, move, [release, fence]);

  // Of what a fence follows only the signed text is believed.
  const forged = await signText({ type: 'release' }, beta.keys.privateKey);
  await refused('SignatureInvalid', fences.readLast(forged, records));
  await refused('HostNotCertified', fences.readLast(release, [beta.signedRecord]));
  const next = await fences.readLast(fence, []);
  assert.equal(next.owner, 'gamma');
  assert.equal(next.generation, 3);
  const spawned = await fences.readLast(claim.chain.statements[0] ?? '', records);
  assert.equal(spawned.owner, 'alpha');

  // A fence that was refused and not used makes room.
  const other = await released(r);
  const ended = await fences.readLast(other.release, records);
  const unused = await fences.sign(ended, other.move.packageId, gamma.signedRecord);
  await fences.setAside(ended);
  await fences.setAside(ended);
  assert.notEqual(await fences.sign(ended, other.move.packageId, alpha.signedRecord), unused);
  await refused('PoolKeyMissing', Fences.open(join(folder, 'nowhere')));
});
