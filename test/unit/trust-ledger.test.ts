import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import test from 'node:test';
import type { SignedText } from '../../workflows/contract.ts';
import { VmferryError } from '../../workflows/failures.ts';
import { Ledger } from '../../activities/trust/ledger.ts';
import { PoolTrust } from '../../activities/trust/pool.ts';
import { digestOf, signText, verifyText } from '../../activities/trust/signed-text.ts';
import { Release } from '../../activities/trust/statements.ts';
import { moved, ORIGIN, restored, sealed, world } from '../support/ledger-moves.ts';
import { testPool, type TestHost } from '../support/pool-hosts.ts';
import { refused } from '../support/refusals.ts';

await test('an instance goes round three hosts and each knows whether it owns it', async (t) => {
  const { alpha, beta, gamma } = await world(t);
  const instanceId = randomUUID();
  assert.equal(await alpha.ledger.owned(instanceId), null);
  assert.equal((await alpha.ledger.spawn(instanceId)).generation, 1);
  const first = await moved(instanceId, alpha, beta);
  assert.equal(first.owned.generation, 2);
  assert.equal(first.owned.originDigest, ORIGIN);
  assert.equal(await alpha.ledger.owned(instanceId), null);
  assert.equal((await alpha.ledger.decision(instanceId, 1))?.kind, 'release');
  await moved(instanceId, beta, gamma);
  const last = await moved(instanceId, gamma, alpha);
  assert.equal(last.owned.generation, 4);
  assert.equal(last.owned.chain.statements.length, 4);
  assert.equal(last.owned.chain.hosts.length, 3);
  assert.deepEqual(await alpha.ledger.owned(instanceId), last.owned);
  assert.equal(await gamma.ledger.owned(instanceId), null);
});

await test('spawning is repeated with the same statement, and refused once the instance has a history', async (t) => {
  const { alpha, beta } = await world(t);
  const instanceId = randomUUID();
  const [one, two] = await Promise.all([alpha.ledger.spawn(instanceId), alpha.ledger.spawn(instanceId)]);
  assert.deepEqual(one, two);
  await moved(instanceId, alpha, beta);
  await refused('OwnershipDecided', alpha.ledger.spawn(instanceId));
  await refused('OwnershipDecided', beta.ledger.spawn(instanceId));
});

await test('receipt and release are the same text when they are asked for again, by another process too', async (t) => {
  const { alpha, beta } = await world(t);
  const { instanceId } = { instanceId: randomUUID() };
  await alpha.ledger.spawn(instanceId);
  const move = await sealed(alpha, instanceId);
  const receipt = await restored(move, alpha, beta);
  const again = (host: TestHost): Ledger =>
    new Ledger({
      layout: host.layout,
      keys: host.keys,
      pool: host.pool,
      selfRecord: () => Promise.resolve(host.signedRecord),
    });
  assert.equal(await again(beta).giveReceipt(move), receipt);
  const input = { ...move, receipt, destination: beta.signedRecord };
  const release = await alpha.ledger.release(input);
  assert.equal(await again(alpha).release(input), release);
  // The receipt is needed once only.
  assert.equal(await again(alpha).release({ ...input, receipt: undefined }), release);
  const takeOver = { ...move, release, source: alpha.signedRecord };
  assert.deepEqual(await again(beta).takeOver(takeOver), await beta.ledger.takeOver(takeOver));
});

await test('without a receipt there is no release', async (t) => {
  const { alpha, beta } = await world(t);
  const instanceId = randomUUID();
  await alpha.ledger.spawn(instanceId);
  const move = await sealed(alpha, instanceId);
  await refused(
    'ReceiptMissing',
    alpha.ledger.release({ ...move, receipt: undefined, destination: beta.signedRecord }),
  );
  assert.equal((await alpha.ledger.owned(instanceId))?.generation, 1);
});

await test('a receipt for anything else, or by anybody else, is no receipt', async (t) => {
  const { alpha, beta, gamma } = await world(t);
  const instanceId = randomUUID();
  await alpha.ledger.spawn(instanceId);
  const move = await sealed(alpha, instanceId);
  const right = {
    type: 'receipt',
    version: 1,
    ...move,
    signer: 'beta',
    signerFingerprint: beta.keys.fingerprint,
    time: new Date().toISOString(),
  };
  const wrong: Record<string, Promise<SignedText>> = {
    'another instance': signText({ ...right, instanceId: randomUUID() }, beta.keys.privateKey),
    'another package': signText({ ...right, packageId: randomUUID() }, beta.keys.privateKey),
    'a lower generation': signText({ ...right, generation: 1 }, beta.keys.privateKey),
    'a higher generation': signText({ ...right, generation: 3 }, beta.keys.privateKey),
    'another origin record': signText({ ...right, originDigest: 'b2'.repeat(32) }, beta.keys.privateKey),
    'signed by another host': signText(right, gamma.keys.privateKey),
    'naming another signer': signText(
      { ...right, signer: 'gamma', signerFingerprint: gamma.keys.fingerprint },
      beta.keys.privateKey,
    ),
    'not a receipt': signText({ ...right, type: 'release' }, beta.keys.privateKey),
    nonsense: Promise.resolve('nonsense'),
  };
  for (const [name, receipt] of Object.entries(wrong)) {
    await t.test(name, async () => {
      await refused(
        'ReceiptInvalid',
        alpha.ledger.release({ ...move, receipt: await receipt, destination: beta.signedRecord }),
      );
      assert.equal(await alpha.ledger.decision(instanceId, 1), null);
    });
  }
  const receipt = await signText(right, beta.keys.privateKey);
  await refused('ReceiptInvalid', alpha.ledger.release({ ...move, receipt, destination: gamma.signedRecord }));
  await alpha.ledger.release({ ...move, receipt, destination: beta.signedRecord });
});

await test('a package that this host never sealed is never released', async (t) => {
  const { alpha, beta } = await world(t);
  const instanceId = randomUUID();
  const { chain } = await alpha.ledger.spawn(instanceId);
  const move = { instanceId, generation: 2, packageId: randomUUID(), moveId: randomUUID(), originDigest: ORIGIN };
  await beta.ledger.accept({ ...move, sourceFingerprint: alpha.keys.fingerprint, chain });
  const receipt = await beta.ledger.giveReceipt(move);
  await refused('ReceiptInvalid', alpha.ledger.release({ ...move, receipt, destination: beta.signedRecord }));
});

await test('nothing is released to a host that the pool does not certify, or has revoked', async (t) => {
  const { pool, alpha, beta } = await world(t);
  const stranger = await (await testPool(t)).host('beta');
  const instanceId = randomUUID();
  await alpha.ledger.spawn(instanceId);
  const move = await sealed(alpha, instanceId);
  const receipt = await restored(move, alpha, beta);
  await refused('HostNotCertified', alpha.ledger.release({ ...move, receipt, destination: stranger.signedRecord }));
  const revoking = new Ledger({
    layout: alpha.layout,
    keys: alpha.keys,
    pool: new PoolTrust(pool.trust.publicKey, [beta.keys.fingerprint]),
    selfRecord: () => Promise.resolve(alpha.signedRecord),
  });
  await refused('HostNotCertified', revoking.release({ ...move, receipt, destination: beta.signedRecord }));
  const release = await alpha.ledger.release({ ...move, receipt, destination: beta.signedRecord });
  // Already released: the revocation cannot undo it, and beta may be running the instance.
  assert.equal(await revoking.release({ ...move, receipt, destination: beta.signedRecord }), release);
});

await test('only the owner releases, takes back or ends', async (t) => {
  const { alpha, beta, gamma } = await world(t);
  const instanceId = randomUUID();
  await alpha.ledger.spawn(instanceId);
  const move = await sealed(alpha, instanceId);
  const receipt = await restored(move, alpha, beta);
  await refused('NotOwner', beta.ledger.release({ ...move, receipt, destination: gamma.signedRecord }));
  await refused('NotOwner', beta.ledger.takeBack(move));
  await refused('NotOwner', beta.ledger.end(instanceId));
  await refused('NotOwner', beta.ledger.recordSealed(move));
  await refused('NotOwner', alpha.ledger.takeBack({ ...move, generation: 3 }));
  await refused('NotOwner', alpha.ledger.release({ ...move, generation: 3, receipt, destination: beta.signedRecord }));
  await refused('NotOwner', alpha.ledger.end(randomUUID()));
});

await test('f4: what was taken back can never be released, and what was released never taken back', async (t) => {
  const { alpha, beta, gamma } = await world(t);
  for (const first of ['takeBack', 'release'] as const) {
    const instanceId = randomUUID();
    await alpha.ledger.spawn(instanceId);
    const move = await sealed(alpha, instanceId);
    const input = { ...move, receipt: await restored(move, alpha, beta), destination: beta.signedRecord };
    if (first === 'takeBack') {
      assert.equal((await alpha.ledger.takeBack(move)).generation, 2);
      await refused('OwnershipDecided', alpha.ledger.release(input));
      assert.equal((await alpha.ledger.owned(instanceId))?.generation, 2);
      assert.equal((await alpha.ledger.takeBack(move)).generation, 2);
    } else {
      await alpha.ledger.release(input);
      await refused('OwnershipDecided', alpha.ledger.takeBack(move));
      await refused('OwnershipDecided', alpha.ledger.release({ ...input, destination: gamma.signedRecord }));
      await refused('OwnershipDecided', alpha.ledger.release({ ...input, packageId: randomUUID() }));
      await refused('NotOwner', alpha.ledger.end(instanceId));
      assert.equal(await alpha.ledger.owned(instanceId), null);
    }
  }
});

await test('f1: f38: of a release and a return at the same instant exactly one is made', async (t) => {
  const { alpha, beta } = await world(t);
  const winners = new Set<string>();
  for (let round = 0; round < 20; round++) {
    const instanceId = randomUUID();
    await alpha.ledger.spawn(instanceId);
    const move = await sealed(alpha, instanceId);
    const input = { ...move, receipt: await restored(move, alpha, beta), destination: beta.signedRecord };
    const [released, returned] = await Promise.allSettled([alpha.ledger.release(input), alpha.ledger.takeBack(move)]);
    assert.notEqual(released.status, returned.status);
    const loser = released.status === 'rejected' ? released : returned;
    assert.ok(loser.status === 'rejected' && loser.reason instanceof VmferryError);
    assert.equal(loser.reason.type, 'OwnershipDecided');
    const decision = await alpha.ledger.decision(instanceId, 1);
    assert.equal(decision?.kind, released.status === 'fulfilled' ? 'release' : 'return');
    if (released.status === 'fulfilled') assert.equal(decision.statement, released.value);
    winners.add(decision.kind);
  }
  assert.ok(winners.size >= 1);
});

await test('releases at the same instant are all the same text', async (t) => {
  const { alpha, beta } = await world(t);
  const instanceId = randomUUID();
  await alpha.ledger.spawn(instanceId);
  const move = await sealed(alpha, instanceId);
  const input = { ...move, receipt: await restored(move, alpha, beta), destination: beta.signedRecord };
  const releases = await Promise.all(Array.from({ length: 5 }, () => alpha.ledger.release(input)));
  assert.equal(new Set(releases).size, 1);
});

await test('f6: without a release a destination never owns', async (t) => {
  const { alpha, beta } = await world(t);
  const instanceId = randomUUID();
  await alpha.ledger.spawn(instanceId);
  const move = await sealed(alpha, instanceId);
  await restored(move, alpha, beta);
  await refused('ReleaseMissing', beta.ledger.takeOver({ ...move, release: undefined, source: alpha.signedRecord }));
  assert.equal(await beta.ledger.owned(instanceId), null);
});

await test('a release for anything else, or by anybody else, is no release', async (t) => {
  const { pool, alpha, beta, gamma } = await world(t);
  const instanceId = randomUUID();
  await alpha.ledger.spawn(instanceId);
  const move = await sealed(alpha, instanceId);
  const receipt = await restored(move, alpha, beta);
  const text = await alpha.ledger.release({ ...move, receipt, destination: beta.signedRecord });
  const { payload: right } = await verifyText(text, alpha.keys.publicKey, Release);
  const altered = (changes: object, key = alpha.keys.privateKey): Promise<SignedText> =>
    signText({ ...right, ...changes }, key);
  const wrong: Record<string, Promise<SignedText>> = {
    'another instance': altered({ instanceId: randomUUID() }),
    'another package': altered({ packageId: randomUUID() }),
    'a lower generation': altered({ generation: 1 }),
    'a higher generation': altered({ generation: 3 }),
    'another host': altered({ to: 'gamma', toFingerprint: gamma.keys.fingerprint }),
    'another host of the same name': altered({ toFingerprint: gamma.keys.fingerprint }),
    'another chain': altered({ previous: 'c3'.repeat(32) }),
    'another receipt': altered({ receiptDigest: 'c3'.repeat(32) }),
    'signed by another host': altered({}, gamma.keys.privateKey),
    'signed by the destination itself': altered({}, beta.keys.privateKey),
    'naming another signer': altered({ signerFingerprint: gamma.keys.fingerprint }),
    'not a release': altered({ type: 'return' }),
    nonsense: Promise.resolve('nonsense'),
  };
  for (const [name, release] of Object.entries(wrong)) {
    await t.test(name, async () => {
      await refused(
        'ReleaseInvalid',
        beta.ledger.takeOver({ ...move, release: await release, source: alpha.signedRecord }),
      );
      assert.equal(await beta.ledger.owned(instanceId), null);
    });
  }
  const stranger = await (await testPool(t)).host('alpha');
  const takeOver = { ...move, release: text, source: alpha.signedRecord };
  await refused('ReleaseInvalid', beta.ledger.takeOver({ ...takeOver, source: gamma.signedRecord }));
  await refused('HostNotCertified', beta.ledger.takeOver({ ...takeOver, source: stranger.signedRecord }));
  await refused('ReleaseInvalid', gamma.ledger.takeOver(takeOver));
  await refused('ReleaseInvalid', beta.ledger.takeOver({ ...takeOver, packageId: randomUUID() }));
  const revoking = new Ledger({
    ...beta,
    pool: new PoolTrust(pool.trust.publicKey, [alpha.keys.fingerprint]),
    selfRecord: () => Promise.resolve(beta.signedRecord),
  });
  await refused('HostNotCertified', revoking.takeOver(takeOver));
  assert.equal((await beta.ledger.takeOver(takeOver)).generation, 2);
});

await test('a package of an older generation, or another one for the same, is refused', async (t) => {
  const { alpha, beta } = await world(t);
  const instanceId = randomUUID();
  const spawned = await alpha.ledger.spawn(instanceId);
  const old = await sealed(alpha, instanceId);
  const claim = { ...old, sourceFingerprint: alpha.keys.fingerprint, chain: spawned.chain };
  await beta.ledger.accept(claim);
  await beta.ledger.accept(claim);
  await refused('StaleGeneration', beta.ledger.accept({ ...claim, packageId: randomUUID() }));

  const { chain } = await alpha.ledger.takeBack(old);
  const next = await sealed(alpha, instanceId);
  await beta.ledger.accept({ ...next, sourceFingerprint: alpha.keys.fingerprint, chain });
  await refused('StaleGeneration', beta.ledger.accept(claim));
  await refused('StaleGeneration', beta.ledger.giveReceipt(old));
  // What alpha took back it refuses itself.
  await refused('StaleGeneration', alpha.ledger.accept(claim));
});

await test('packages accepted at the same instant leave only the newest acceptable', async (t) => {
  const { alpha, beta } = await world(t);
  const instanceId = randomUUID();
  const { chain } = await alpha.ledger.spawn(instanceId);
  const [one, two] = [randomUUID(), randomUUID()];
  const claim = { instanceId, generation: 2, sourceFingerprint: alpha.keys.fingerprint, chain };
  const results = await Promise.allSettled([one, two].map((packageId) => beta.ledger.accept({ ...claim, packageId })));
  assert.deepEqual(results.map(({ status }) => status).sort(), ['fulfilled', 'rejected']);
});

await test('f4: a host that moved on refuses to be told again that it may run the instance', async (t) => {
  const { alpha, beta, gamma } = await world(t);
  const instanceId = randomUUID();
  const { chain } = await alpha.ledger.spawn(instanceId);
  const first = await moved(instanceId, alpha, beta);
  await moved(instanceId, beta, gamma);
  await refused('StaleGeneration', beta.ledger.takeOver({ ...first, source: alpha.signedRecord }));
  await refused('StaleGeneration', beta.ledger.accept({ ...first, sourceFingerprint: alpha.keys.fingerprint, chain }));
  const back = await sealed(gamma, instanceId);
  await gamma.ledger.takeBack(back);
  await gamma.ledger.takeBack(await sealed(gamma, instanceId));
  await refused('OwnershipDecided', gamma.ledger.takeBack(back));
});

await test('a chain that contradicts what a host itself decided was signed with a stolen key', async (t) => {
  const { alpha, gamma } = await world(t);
  const instanceId = randomUUID();
  const { chain } = await alpha.ledger.spawn(instanceId);
  const { statements } = chain;
  const hosts = [alpha.signedRecord, gamma.signedRecord];
  const base = {
    version: 1,
    instanceId,
    signer: 'alpha',
    signerFingerprint: alpha.keys.fingerprint,
    time: new Date().toISOString(),
  };

  const otherSpawn = await signText({ ...base, type: 'spawn', generation: 1 }, alpha.keys.privateKey);
  const claim = { instanceId, packageId: randomUUID(), generation: 2, sourceFingerprint: alpha.keys.fingerprint };
  await refused('ChainBroken', alpha.ledger.accept({ ...claim, chain: { statements: [otherSpawn], hosts } }));

  const release = {
    ...base,
    type: 'release',
    generation: 2,
    packageId: randomUUID(),
    to: 'gamma',
    toFingerprint: gamma.keys.fingerprint,
  };
  const links = { receiptDigest: ORIGIN, previous: await digestOf(statements[0] ?? '') };
  const forged = await signText({ ...release, ...links }, alpha.keys.privateKey);
  const fromGamma = { ...claim, generation: 3, sourceFingerprint: gamma.keys.fingerprint };
  await refused(
    'ChainBroken',
    alpha.ledger.accept({ ...fromGamma, chain: { statements: [...statements, forged], hosts } }),
  );
  assert.equal((await alpha.ledger.owned(instanceId))?.generation, 1);
});

await test('an ended instance stays ended', async (t) => {
  const { alpha, beta } = await world(t);
  const instanceId = randomUUID();
  await alpha.ledger.spawn(instanceId);
  const move = await sealed(alpha, instanceId);
  const receipt = await restored(move, alpha, beta);
  await alpha.ledger.end(instanceId);
  await alpha.ledger.end(instanceId);
  assert.equal(await alpha.ledger.owned(instanceId), null);
  await refused('OwnershipDecided', alpha.ledger.release({ ...move, receipt, destination: beta.signedRecord }));
  await refused('OwnershipDecided', alpha.ledger.takeBack(move));
  await refused('OwnershipDecided', alpha.ledger.spawn(instanceId));
});

await test('a host gives no receipt for what it has not accepted', async (t) => {
  const { alpha, beta } = await world(t);
  const instanceId = randomUUID();
  await alpha.ledger.spawn(instanceId);
  await refused('ReceiptInvalid', beta.ledger.giveReceipt(await sealed(alpha, instanceId)));
});

await test('a package that is addressed anew can be released to its new destination', async (t) => {
  const { alpha, beta, gamma } = await world(t);
  const instanceId = randomUUID();
  await alpha.ledger.spawn(instanceId);
  const move = await sealed(alpha, instanceId);
  await restored(move, alpha, beta);
  const receipt = await restored(move, alpha, gamma);
  const release = await alpha.ledger.release({ ...move, receipt, destination: gamma.signedRecord });
  assert.equal((await gamma.ledger.takeOver({ ...move, release, source: alpha.signedRecord })).generation, 2);
  await refused('ReleaseInvalid', beta.ledger.takeOver({ ...move, release, source: alpha.signedRecord }));
  assert.equal((await moved(instanceId, gamma, beta)).owned.generation, 3);
});

await test('an owner can release its saved instance to itself', async (t) => {
  const { alpha } = await world(t);
  const instanceId = randomUUID();
  await alpha.ledger.spawn(instanceId);
  assert.equal((await moved(instanceId, alpha, alpha)).owned.generation, 2);
  assert.equal((await alpha.ledger.owned(instanceId))?.generation, 2);
});
