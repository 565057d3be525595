/** A peer is known by its pinned certificate alone. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { readFile, writeFile } from 'node:fs/promises';
import { createServer } from 'node:https';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import test, { type TestContext } from 'node:test';
import { run } from '../../activities/exec/run.ts';
import { PeerClient } from '../../activities/transfer/package-client.ts';
import { VmferryError } from '../../workflows/failures.ts';
import { recordOf, temporary, testPool, type TestHost } from '../support/pool-hosts.ts';

type Tls = TestHost['keys']['tls'];

/** Valid from the year 2090 on. */
async function fromTheFuture(t: TestContext): Promise<Tls> {
  const directory = await temporary(t);
  const path = (name: string): string => join(directory, name);
  await writeFile(path('index'), '');
  const config = `[ca]\ndefault_ca = own\n[own]\ndatabase = ${path('index')}\nnew_certs_dir = ${directory}\nrand_serial = yes\n`;
  await writeFile(path('config'), `${config}policy = any\n[any]\ncommonName = supplied\n`);
  const newKey = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-keyout', path('key')];
  await run('openssl', ['req', '-new', ...newKey, '-subj', '/CN=late', '-out', path('request')]);
  const dates = ['-startdate', '20900101000000Z', '-enddate', '20990101000000Z'];
  const files = ['-keyfile', path('key'), '-in', path('request'), '-out', path('certificate')];
  await run('openssl', [
    'ca',
    '-batch',
    '-notext',
    '-selfsign',
    '-md',
    'sha256',
    '-config',
    path('config'),
    ...dates,
    ...files,
  ]);
  return { key: await readFile(path('key'), 'utf8'), cert: await readFile(path('certificate'), 'utf8') };
}

/** Fetches from a server that shows one certificate, as from a peer whose record names another. */
async function fetchFrom(t: TestContext, shown: Tls, recorded: string): Promise<string> {
  const server = createServer({ ...shown, minVersion: 'TLSv1.3' }, (_request, response) => response.end('hello'));
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const host = await (await testPool(t)).host('alpha');
  const addresses = [`127.0.0.1:${(server.address() as AddressInfo).port}`];
  const peer = { ...recordOf(host.keys), addresses, tlsCertificate: recorded };
  const client = new PeerClient(peer, host.keys, host.signedRecord);
  try {
    return (await client.fetchSmall('/v1/anything', 100, new AbortController().signal)).toString();
  } finally {
    client.close();
    server.closeAllConnections();
    server.close();
  }
}

await test('one whose certificate is not valid yet, by a clock that is behind, is who it is', async (t) => {
  const tls = await fromTheFuture(t);
  assert.equal(await fetchFrom(t, tls, tls.cert), 'hello');
});

await test('one that shows another certificate than its record is not listened to', async (t) => {
  const { keys } = await (await testPool(t)).host('beta');
  const other = await fromTheFuture(t);
  for (const [shown, recorded] of [
    [keys.tls, other.cert],
    [other, keys.tls.cert],
  ] as const) {
    await assert.rejects(fetchFrom(t, shown, recorded), (error) => {
      assert.ok(error instanceof VmferryError);
      assert.equal(error.type, 'HostUnreachable');
      assert.match(error.message, /shows another certificate than the record of alpha/);
      return true;
    });
  }
});
