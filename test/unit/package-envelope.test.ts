import assert from 'node:assert/strict';
import { copyFile, mkdir, readFile, rename, rm, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import test, { type TestContext } from 'node:test';
import fc from 'fast-check';
import { config, createMessage, encrypt, readMessage, sign, type PrivateKey } from 'openpgp';
import { addressPackage, readEnvelope, type OpenedEnvelope } from '../../activities/package/envelope.ts';
import { envelopeName } from '../../activities/package/format.ts';
import { verifyFolder } from '../../activities/package/verify-file.ts';
import { PROFILE } from '../../activities/trust/openpgp-profile.ts';
import { PoolTrust } from '../../activities/trust/pool.ts';
import { VmferryError } from '../../workflows/failures.ts';
import { temporary, testPool, type TestHost, type TestPool } from '../support/pool-hosts.ts';
import { refused } from '../support/refusals.ts';
import { handOver, reissue, samplePackage, unwatched, type SamplePackage } from '../support/sample-package.ts';

interface World {
  pool: TestPool;
  alpha: TestHost;
  beta: TestHost;
  gamma: TestHost;
  sample: SamplePackage;
  /** beta's envelope. */
  path: string;
  read: (changes?: Partial<Parameters<typeof readEnvelope>[0]>) => Promise<OpenedEnvelope>;
}

async function world(t: TestContext): Promise<World> {
  const pool = await testPool(t);
  const [alpha, beta, gamma] = await Promise.all([pool.host('alpha'), pool.host('beta'), pool.host('gamma')]);
  const sample = await samplePackage(alpha, [beta]);
  const { folder } = sample;
  const path = join(folder, envelopeName(beta.keys.fingerprint));
  const read: World['read'] = (changes) => readEnvelope({ folder, keys: beta.keys, pool: beta.pool, ...changes });
  return { pool, alpha, beta, gamma, sample, path, read };
}

/** The signed text inside an envelope, as its reader gets it. */
async function contentOf(path: string, reader: TestHost): Promise<Record<string, unknown>> {
  const message = await readMessage({ binaryMessage: await readFile(path) });
  const opened = await message.decrypt([reader.keys.privateKey], undefined, undefined, undefined, {
    ...config,
    ...PROFILE,
  });
  return JSON.parse(Buffer.from(opened.getLiteralData() as unknown as Uint8Array).toString()) as Record<
    string,
    unknown
  >;
}

/** Writes an envelope with any content, signed by anybody or nobody. */
async function forge(
  path: string,
  content: object | string,
  to: TestHost,
  signingKeys: PrivateKey | PrivateKey[] | null,
): Promise<void> {
  const text = typeof content === 'string' ? content : JSON.stringify(content);
  const message = await createMessage({ binary: new TextEncoder().encode(text) });
  const options = { message, encryptionKeys: to.keys.publicKey, format: 'binary', config: PROFILE } as const;
  const sealed: unknown = await encrypt(signingKeys ? { ...options, signingKeys } : options);
  await writeFile(path, sealed as Uint8Array);
}

await test('a reader opens its envelope and learns who made the package, who sent it, and its key', async (t) => {
  const { alpha, sample, read } = await world(t);
  const opened = await read({ source: alpha.signedRecord });
  assert.deepEqual(opened.origin, sample.origin);
  assert.equal(opened.originDigest, sample.originDigest);
  assert.deepEqual(opened.sessionKey, sample.sessionKey);
  assert.equal(opened.sender.name, 'alpha');
});

await test('an envelope for another host is refused, wherever it lies', async (t) => {
  const { alpha, beta, gamma, sample, path, read } = await world(t);
  await refused('WrongDestination', read({ keys: gamma.keys }));
  // Under gamma's name, but encrypted to beta.
  await copyFile(path, join(sample.folder, envelopeName(gamma.keys.fingerprint)));
  await refused('WrongDestination', read({ keys: gamma.keys }));
  // beta passes on what alpha signed for beta, encrypted anew, as if alpha had sent it to gamma.
  await forge(
    join(sample.folder, envelopeName(gamma.keys.fingerprint)),
    await contentOf(path, beta),
    gamma,
    alpha.keys.privateKey,
  );
  await refused('WrongDestination', read({ keys: gamma.keys, source: alpha.signedRecord }));
});

await test('an envelope that is not signed, signed by another, or signed twice is refused', async (t) => {
  const { alpha, beta, gamma, path, read } = await world(t);
  const content = await contentOf(path, beta);
  await forge(path, content, beta, alpha.keys.privateKey);
  await read();
  await forge(path, content, beta, null);
  await refused('SignatureInvalid', read());
  await forge(path, content, beta, gamma.keys.privateKey);
  await refused('SignatureInvalid', read());
  await forge(path, content, beta, beta.keys.privateKey);
  await refused('SignatureInvalid', read());
  await forge(path, content, beta, [gamma.keys.privateKey, alpha.keys.privateKey]);
  await refused('SignatureInvalid', read());
  // Signed as it should be, but naming another sender.
  await forge(path, { ...content, sender: 'gamma' }, beta, alpha.keys.privateKey);
  await refused('SignatureInvalid', read());
});

await test('an envelope by a host that is not certified, or revoked, is refused', async (t) => {
  const { pool, alpha, beta, path, read } = await world(t);
  const stranger = await (await testPool(t)).host('alpha');
  const content = await contentOf(path, beta);
  const { signedRecord, keys } = stranger;
  await forge(
    path,
    { ...content, senderRecord: signedRecord, senderFingerprint: keys.fingerprint },
    beta,
    keys.privateKey,
  );
  await refused('HostNotCertified', read());
  await forge(path, content, beta, alpha.keys.privateKey);
  await refused('HostNotCertified', read({ pool: new PoolTrust(pool.trust.publicKey, [alpha.keys.fingerprint]) }));
  await refused('HostNotCertified', read({ source: beta.signedRecord }));
});

await test('an origin record by an uncertified host, or altered on the way, is refused', async (t) => {
  const { alpha, beta, gamma, sample, path, read } = await world(t);
  const stranger = await (await testPool(t)).host('alpha');
  const content = await contentOf(path, beta);
  const key = alpha.keys.privateKey;
  const resigned = async (by: TestHost, changes: object): Promise<string> => {
    const binary = new TextEncoder().encode(JSON.stringify({ ...sample.origin, ...changes }));
    return (await sign({
      message: await createMessage({ binary }),
      signingKeys: by.keys.privateKey,
      config: PROFILE,
    })) as string;
  };
  // Its own record is put beside it, certified by its own pool.
  const chain = { ...sample.origin.chain, hosts: [stranger.signedRecord] };
  const origin = await resigned(stranger, { sourceFingerprint: stranger.keys.fingerprint, chain });
  await forge(path, { ...content, origin }, beta, key);
  await refused('HostNotCertified', read());
  // Signed by a host of the pool that is not the source.
  await forge(path, { ...content, origin: await resigned(gamma, {}) }, beta, key);
  await refused('SignatureInvalid', read());
  await forge(
    path,
    { ...content, origin: await resigned(gamma, { sourceFingerprint: gamma.keys.fingerprint }) },
    beta,
    key,
  );
  await refused('HostNotCertified', read());
  await forge(
    path,
    { ...content, origin: sample.originText.replace(/[A-Z]/, (letter) => letter.toLowerCase()) },
    beta,
    key,
  );
  await assert.rejects(read());
});

await test('records that do not fit together, or not this version, are refused', async (t) => {
  const { alpha, beta, sample, path, read } = await world(t);
  const content = await contentOf(path, beta);
  const wrong: Record<string, object | string> = {
    'another version': { ...content, version: 2 },
    'an unknown field': { ...content, more: 1 },
    'a missing field': { ...content, session: undefined },
    'another package': { ...content, packageId: '11111111-1111-4111-8111-111111111111' },
    'a short session key': {
      ...content,
      session: { algorithm: 'aes256', aead: 'gcm', key: Buffer.alloc(16).toString('base64') },
    },
    'another cipher': { ...content, session: { ...(content['session'] as object), algorithm: 'aes128' } },
    'no JSON': 'hello',
    'no object': '[]',
  };
  for (const [name, forged] of Object.entries(wrong)) {
    await t.test(name, async () => {
      await forge(path, forged, beta, alpha.keys.privateKey);
      await refused('PackageMalformed', read());
    });
  }
  await reissue(sample, alpha, [beta], { version: 2 });
  await refused('PackageMalformed', read());
  await reissue(sample, alpha, [beta], { more: 1 });
  await refused('PackageMalformed', read());
  await reissue(sample, alpha, [beta], { source: 'gamma' });
  await refused('PackageMalformed', read());
  await reissue(sample, alpha, [beta], {});
  await read();
});

await test('whatever byte of an envelope changes, it is refused or says the same; cut or extended it is refused', async (t) => {
  const { path, read, sample } = await world(t);
  const right = await readFile(path);
  const outcomes = ['PackageMalformed', 'WrongDestination', 'SignatureInvalid', 'HostNotCertified'];
  const refusedNow = (): Promise<void> =>
    assert.rejects(read(), (error) => error instanceof VmferryError && outcomes.includes(error.type));
  // The version of the key whose fingerprint follows (RFC 9580 section 5.1.2): readers know it from the fingerprint.
  const KEY_VERSION = 4;
  await fc.assert(
    fc.asyncProperty(fc.nat(right.length - 1), fc.integer({ min: 1, max: 255 }), async (position, change) => {
      const altered = Buffer.from(right);
      altered[position] = (altered[position] ?? 0) ^ change;
      await writeFile(path, altered);
      const opened = position === KEY_VERSION ? await read().catch(() => null) : null;
      if (opened) assert.equal(opened.originText, sample.originText);
      else await refusedNow();
    }),
    { numRuns: 150 },
  );
  const lengths = fc.nat(right.length - 1);
  await fc.assert(
    fc.asyncProperty(lengths, async (length) => {
      await writeFile(path, right.subarray(0, length));
      await refusedNow();
    }),
    { numRuns: 40 },
  );
  for (const more of [right, Buffer.of(0), Buffer.alloc(1000)]) {
    await writeFile(path, Buffer.concat([right, more]));
    await refusedNow();
  }
  await writeFile(path, right);
  await read();
});

await test('an envelope that is a link, a folder or far too long is not read', async (t) => {
  const { path, read, sample } = await world(t);
  const away = join(await temporary(t), 'envelope');
  await rename(path, away);
  await symlink(away, path);
  await refused('ForbiddenMember', read());
  await rm(path);
  await mkdir(path);
  await refused('ForbiddenMember', read());
  await rm(path, { recursive: true });
  await writeFile(path, Buffer.alloc(40 * 1024 * 1024));
  await refused('PackageMalformed', read());
  await refused('WrongDestination', read({ folder: join(sample.folder, 'nowhere') }));
});

await test('a package whose chain does not lead to its source is refused', async (t) => {
  const { alpha, beta, gamma, sample } = await world(t);
  await handOver(sample, alpha, beta);
  const next = await samplePackage(beta, [gamma], { instanceId: sample.instanceId });
  const verify = (): Promise<unknown> =>
    verifyFolder({ folder: next.folder, keys: gamma.keys, pool: gamma.pool, work: unwatched() });
  await verify();
  const { chain } = next.origin;
  const broken: Record<string, object> = {
    'the release left out': { chain: { ...chain, statements: chain.statements.slice(0, 1) } },
    'the spawn left out': { chain: { ...chain, statements: chain.statements.slice(1) } },
    'the order turned round': { chain: { ...chain, statements: chain.statements.toReversed() } },
    'another generation': { generation: 5 },
    'another instance': { instanceId: '11111111-1111-4111-8111-111111111111' },
  };
  for (const [name, changes] of Object.entries(broken)) {
    await t.test(name, async () => {
      await reissue(next, beta, [gamma], changes);
      await refused('ChainBroken', verify());
      const opened = await readEnvelope({ folder: next.folder, keys: gamma.keys, pool: gamma.pool });
      await refused('ChainBroken', gamma.ledger.accept(opened.origin));
    });
  }
  await reissue(next, beta, [gamma], {});
  await gamma.ledger.accept((await readEnvelope({ folder: next.folder, keys: gamma.keys, pool: gamma.pool })).origin);
  // The older package, however well signed, is no longer accepted.
  await addressPackage({
    folder: sample.folder,
    keys: alpha.keys,
    pool: alpha.pool,
    senderRecord: alpha.signedRecord,
    destination: gamma.record,
  });
  const older = await readEnvelope({ folder: sample.folder, keys: gamma.keys, pool: gamma.pool });
  await refused('StaleGeneration', gamma.ledger.accept(older.origin));
});
