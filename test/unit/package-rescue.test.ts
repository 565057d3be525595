/** What docs/package-format.md promises to someone who has a key, a package and no vmferry. */
import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import test from 'node:test';
import { zstdDecompressSync } from 'node:zlib';
import { decrypt, encryptSessionKey, readKey, readMessage, readPrivateKey } from 'openpgp';
import { envelopeName, OriginRecord, segmentName } from '../../activities/package/format.ts';
import { testPool } from '../support/pool-hosts.ts';
import { samplePackage } from '../support/sample-package.ts';

await test('a stream can be had from a package with an OpenPGP library, a zstd decoder and the reader’s private key', async (t) => {
  const pool = await testPool(t);
  const [alpha, beta] = await Promise.all([pool.host('alpha'), pool.host('beta')]);
  const { folder, members } = await samplePackage(alpha, [beta]);

  const decryptionKeys = await readPrivateKey({
    armoredKey: await readFile(join(beta.layout.keys, 'host.key'), 'utf8'),
  });
  const message = await readMessage({
    binaryMessage: await readFile(join(folder, envelopeName(beta.keys.fingerprint))),
  });
  const verificationKeys = await readKey({ armoredKey: alpha.record.publicKey });
  const opened = await decrypt({ message, decryptionKeys, verificationKeys, expectSigned: true });
  const { session, origin } = JSON.parse(String(opened.data)) as { session: { key: string }; origin: string };
  const record = await readMessage({ armoredMessage: origin });
  const recordText: unknown = record.getText();
  const { streams } = OriginRecord.parse(JSON.parse(String(recordText)));

  // A session-key packet for the reader in front of a segment makes it a complete message.
  const sessionKeyPacket: unknown = await encryptSessionKey({
    data: Buffer.from(session.key, 'base64'),
    algorithm: 'aes256',
    aeadAlgorithm: 'gcm',
    encryptionKeys: decryptionKeys.toPublic(),
    format: 'binary',
  });
  const frames: Uint8Array[] = [];
  for (const index of streams.find(({ name }) => name === 'snapshot')?.segments.keys() ?? []) {
    const segment = await readFile(join(folder, 'snapshot', segmentName(index)));
    const whole = await readMessage({ binaryMessage: Buffer.concat([sessionKeyPacket as Uint8Array, segment]) });
    const piece: { data: unknown } = await decrypt({ message: whole, decryptionKeys, format: 'binary' });
    frames.push(piece.data as Uint8Array);
  }
  assert.equal(Buffer.compare(zstdDecompressSync(Buffer.concat(frames)), members.snapshot), 0);
});
