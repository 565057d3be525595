import assert from 'node:assert/strict';
import { once } from 'node:events';
import { readFile, stat, writeFile } from 'node:fs/promises';
import { createServer, get } from 'node:https';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import test from 'node:test';
import { ensureHostKeys } from '../../activities/trust/keys.ts';
import { createPoolKey, loadPoolKey } from '../../activities/trust/pool-key.ts';
import { PoolTrust } from '../../activities/trust/pool.ts';
import { temporary, testPool } from '../support/pool-hosts.ts';
import { refused } from '../support/refusals.ts';

await test('a host makes its keys once and finds them again', async (t) => {
  const directory = await temporary(t);
  const made = await ensureHostKeys(directory, 'alpha');
  const found = await ensureHostKeys(directory, 'alpha');
  assert.equal(found.fingerprint, made.fingerprint);
  assert.match(made.fingerprint, /^[0-9A-F]{64}$/);
  assert.deepEqual(found.tls, made.tls);
  for (const name of ['host.key', 'tls.pem']) assert.equal((await stat(join(directory, name))).mode & 0o777, 0o600);
});

await test('two processes that make keys at the same time end with the same ones', async (t) => {
  const directory = await temporary(t);
  const [one, two] = await Promise.all([ensureHostKeys(directory, 'alpha'), ensureHostKeys(directory, 'alpha')]);
  assert.equal(one.fingerprint, two.fingerprint);
  assert.deepEqual(one.tls, two.tls);
});

await test('the keys of another host are refused', async (t) => {
  const directory = await temporary(t);
  await ensureHostKeys(directory, 'alpha');
  await refused('InvalidInput', ensureHostKeys(directory, 'beta'));
});

await test('a peer that pins the TLS certificate connects, one that pins another does not', async (t) => {
  const { tls } = await ensureHostKeys(await temporary(t), 'alpha');
  const other = await ensureHostKeys(await temporary(t), 'alpha');
  const server = createServer(tls, (_request, response) => response.end('hello')).listen(0, '127.0.0.1');
  t.after(() => server.close());
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  const fetchWith = (ca: string): Promise<number | undefined> =>
    new Promise((resolve, reject) => {
      const request = get({ host: '127.0.0.1', port, servername: 'alpha', ca, agent: false }, (response) => {
        response.resume();
        resolve(response.statusCode);
      });
      request.on('error', reject);
    });
  assert.equal(await fetchWith(tls.cert), 200);
  await assert.rejects(fetchWith(other.tls.cert));
});

await test('a pool key is never replaced, and its public half is written again when it is missing', async (t) => {
  const directory = await temporary(t);
  assert.equal(await loadPoolKey(directory), null);
  assert.equal(await PoolTrust.load(directory), null);
  const made = await createPoolKey(directory);
  assert.equal((await createPoolKey(directory)).fingerprint, made.fingerprint);
  assert.equal((await PoolTrust.load(directory))?.fingerprint, made.fingerprint);
  assert.equal((await stat(join(directory, 'pool.key'))).mode & 0o777, 0o600);
});

await test('a host refuses a private key, or nonsense, as its pool’s public key', async (t) => {
  const directory = await temporary(t);
  await createPoolKey(directory);
  await writeFile(join(directory, 'pool.pub'), await readFile(join(directory, 'pool.key')));
  await refused('PoolMismatch', PoolTrust.load(directory));
  await writeFile(join(directory, 'pool.pub'), 'nonsense');
  await refused('PoolMismatch', PoolTrust.load(directory));
});

await test('a certified record is believed, and by its own pool only', async (t) => {
  const pool = await testPool(t);
  const other = await testPool(t);
  const alpha = await pool.host('alpha');
  assert.deepEqual(await pool.trust.verifyHost(alpha.signedRecord), alpha.record);
  await refused('HostNotCertified', other.trust.verifyHost(alpha.signedRecord));
  await refused('HostNotCertified', pool.trust.verifyHost('nonsense'));
});

await test('a record is not certified if its key, its name or its fields are not what they should be', async (t) => {
  const pool = await testPool(t);
  const alpha = await pool.host('alpha');
  const beta = await pool.host('beta');
  const wrong = [
    { ...alpha.record, fingerprint: beta.record.fingerprint },
    { ...alpha.record, publicKey: beta.record.publicKey },
    { ...alpha.record, publicKey: alpha.keys.privateKey.armor() },
    { ...alpha.record, name: '../alpha' },
    { ...alpha.record, addresses: ['user@192.0.2.1:1'] },
    { ...alpha.record, tlsCertificate: 'none' },
    { ...alpha.record, more: 1 },
  ];
  for (const record of wrong) await refused('HostNotCertified', pool.poolKey.certifyHost(record));
});

await test('a revoked host signs nothing new; what it did before can still be read', async (t) => {
  const pool = await testPool(t);
  const alpha = await pool.host('alpha');
  const beta = await pool.host('beta');
  const directory = join(pool.directory, 'pool');
  await writeFile(join(directory, 'pool.revoked'), await pool.poolKey.revokeHosts([alpha.record.fingerprint]));
  const trust = await PoolTrust.load(directory);
  assert.ok(trust);
  await refused('HostNotCertified', trust.verifyHost(alpha.signedRecord));
  assert.deepEqual((await trust.onceCertifiedHost(alpha.signedRecord)).record, alpha.record);
  assert.deepEqual(await trust.verifyHost(beta.signedRecord), beta.record);
});

await test('a list of revoked hosts that the pool key did not sign is refused rather than ignored', async (t) => {
  const pool = await testPool(t);
  const other = await testPool(t);
  const directory = join(pool.directory, 'pool');
  await writeFile(join(directory, 'pool.revoked'), await other.poolKey.revokeHosts([]));
  await refused('SignatureInvalid', PoolTrust.load(directory));
});
