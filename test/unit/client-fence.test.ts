/** `vmferry moves readdress` once the instance is released: what the operator is told, what is signed, and what becomes of it. */
import assert from 'node:assert/strict';
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { randomUUID } from 'node:crypto';
import test, { type TestContext } from 'node:test';
import type { FenceOffer } from '../../workflows/contract.ts';
import { EXIT, type FailureType } from '../../workflows/failures.ts';
import { Fence } from '../../activities/trust/statements.ts';
import { digestOf, verifyText } from '../../activities/trust/signed-text.ts';
import { command, FakeApi, FakeRunning, hostRow, instanceRow, NOW, progress, snapshot } from '../fakes/client-api.ts';
import { moved, world, type World } from '../support/ledger-moves.ts';

interface Scene extends World {
  api: FakeApi;
  running: FakeRunning;
  offer: FenceOffer;
  /** Where the operator's key is. */
  folder: string;
  instanceId: string;
}

/** alpha has released an instance to beta, and the move waits for beta. */
async function scene(t: TestContext, changes: Partial<FenceOffer> = {}): Promise<Scene> {
  const w = await world(t);
  const instanceId = randomUUID();
  await w.alpha.ledger.spawn(instanceId);
  const { release, packageId } = await moved(instanceId, w.alpha, w.beta);
  const offer = { host: 'beta', last: release, packageId, savedAt: NOW - 90_000, since: NOW - 60_000, ...changes };
  const folder = join(w.pool.directory, 'pool');
  const api = new FakeApi();
  api.profile.pool = folder;
  api.rows.hosts = [w.alpha, w.beta, w.gamma].map(({ name, keys, signedRecord }) =>
    hostRow(name, { fingerprint: keys.fingerprint, record: signedRecord }),
  );
  api.rows.instances = [instanceRow(instanceId)];
  const running = new FakeRunning();
  running.snapshots = [
    snapshot({
      progress: progress({
        instanceId,
        phase: 'parked',
        parked: {
          failure: 'HostUnreachable',
          reason: 'The worker of host beta is absent',
          since: NOW - 30_000,
          choices: ['retry', 'readdress'],
          released: true,
        },
        fence: offer,
      }),
    }),
  ];
  api.running = running;
  return { ...w, api, running, offer, folder, instanceId };
}

const signed = async (folder: string): Promise<string[]> => readdir(join(folder, 'fences')).catch(() => []);

/** As Temporal's client reports a refused update. */
function updateFailure(type: FailureType): Error {
  const cause = Object.assign(new Error(`refused as ${type}`), { name: 'ApplicationFailure', type });
  return Object.assign(new Error('Workflow Update failed', { cause }), { name: 'WorkflowUpdateFailedError' });
}

await test('the operator is told what may be lost, and asked', async (t) => {
  const { api, running, folder, instanceId, offer } = await scene(t);
  const { exit, stderr } = await command('moves readdress counter gamma', { api, stdin: 'no\n' });
  assert.equal(exit, EXIT.failure);
  const text = stderr.replaceAll(/\d{4}-\d\d-\d\d \d\d:\d\d:\d\d/g, 'TIME');
  for (const line of [
    `Instance counter (${instanceId}) belongs to beta, as generation 2, since TIME.`,
    'The move waits for beta: The worker of host beta is absent.',
    'A fence says, signed with your pool key: beta died for good, and will never run this generation.',
    `With it gamma goes on from package ${offer.packageId.slice(0, 8)}, saved TIME, 1 min 30 s ago.`,
    'If counter has run on beta since then, what it did there is lost.',
    'If beta is only cut off, two copies of counter may run until it hears of the fence.',
    'Is beta dead for good, and shall gamma go on? (yes/no) ',
  ]) {
    assert.ok(text.includes(line), `${line}\nis not in\n${text}`);
  }
  assert.deepEqual(running.decisions, []);
  assert.deepEqual(await signed(folder), [], 'nothing was signed');
  // Who cannot be asked must say it in advance.
  assert.equal((await command('moves readdress counter gamma', { api })).exit, EXIT.failure);
  assert.deepEqual(await signed(folder), []);
});

await test('what is signed follows the statement that the move shows, and is kept', async (t) => {
  const { api, running, folder, gamma, pool, offer, instanceId } = await scene(t);
  const { exit, stdout } = await command('moves readdress counter gamma', { api, stdin: 'yes\n' });
  assert.equal(exit, 0);
  assert.equal(stdout, 'Move 01a20abf-1234 goes to gamma\n');
  assert.equal(running.fence?.after, offer.last);
  const { payload } = await verifyText(running.fence.fence, pool.trust.publicKey, Fence);
  assert.deepEqual(
    { ...payload, time: '' },
    {
      type: 'fence',
      version: 1,
      instanceId,
      packageId: offer.packageId,
      generation: 3,
      to: 'gamma',
      toFingerprint: gamma.keys.fingerprint,
      previous: await digestOf(offer.last),
      time: '',
    },
  );
  assert.deepEqual(await signed(folder), [`${instanceId}-3.asc`]);

  const again = await command('moves readdress counter gamma --yes', { api });
  assert.equal(again.exit, 0);
  assert.match(again.stderr, /belongs to beta/, 'it is said even to those who do not ask');
  const other = await command('moves readdress counter alpha --yes', { api });
  assert.equal(other.exit, EXIT.conflict);
  assert.match(other.stderr, /a fence for generation 3 of instance .* was signed already, for host gamma/);
  assert.equal(running.decisions.length, 2);
});

await test('a fence that the move refuses is put aside, so that another can be signed', async (t) => {
  for (const type of ['FenceRefused', 'NoSpace', 'HostNotFound'] as FailureType[]) {
    const { api, running, folder, instanceId } = await scene(t);
    running.readdress = () => Promise.reject(updateFailure(type));
    assert.notEqual((await command('moves readdress counter gamma --yes', { api })).exit, 0);
    const [kept, ...more] = await signed(folder);
    assert.match(kept ?? '', new RegExp(`^${instanceId}-3-refused-\\d+\\.asc$`));
    assert.deepEqual(more, []);
    running.readdress = () => Promise.resolve();
    assert.equal((await command('moves readdress counter alpha --yes', { api })).exit, 0);
  }
});

await test('a fence that may be in use is not put aside', async (t) => {
  const { api, running, folder, instanceId, offer } = await scene(t);
  // Temporal does not answer: nobody knows.
  running.readdress = () => Promise.reject(new Error('no answer'));
  assert.notEqual((await command('moves readdress counter gamma --yes', { api })).exit, 0);
  assert.deepEqual(await signed(folder), [`${instanceId}-3.asc`]);
  // The move has gone on by it, whatever this call is told.
  const [before] = running.snapshots;
  assert.ok(before);
  const later = snapshot({ progress: progress({ instanceId, fence: { ...offer, last: 'the fence' } }) });
  const fresh = Object.assign(new FakeRunning(), { snapshots: [before, later] });
  fresh.readdress = () => Promise.reject(updateFailure('SameHost'));
  api.running = fresh;
  assert.notEqual((await command('moves readdress counter gamma --yes', { api })).exit, 0);
  assert.deepEqual(await signed(folder), [`${instanceId}-3.asc`]);
});

await test('nothing is signed on the word of whoever carried the statement', async (t) => {
  const elsewhere = await scene(t);
  const wrong: Record<string, { changes: Partial<FenceOffer>; exit: number }> = {
    'a statement of another pool': { changes: { last: elsewhere.offer.last }, exit: EXIT.untrusted },
    'no statement': { changes: { last: 'trust me' }, exit: EXIT.untrusted },
    'another host': { changes: { host: 'alpha' }, exit: EXIT.untrusted },
  };
  for (const [name, { changes, exit }] of Object.entries(wrong)) {
    await t.test(name, async (tt) => {
      const { api, folder } = await scene(tt, changes);
      assert.equal((await command('moves readdress counter gamma --yes', { api })).exit, exit);
      assert.deepEqual(await signed(folder), []);
    });
  }
  const { api, running, folder } = await scene(t);
  const [shown] = running.snapshots;
  if (shown?.progress) shown.progress.instanceId = randomUUID();
  assert.equal((await command('moves readdress counter gamma --yes', { api })).exit, EXIT.untrusted);
  assert.deepEqual(await signed(folder), []);
});

await test('the host that is fenced cannot be the one that goes on, and without the pool key nothing is', async (t) => {
  const { api, folder } = await scene(t);
  assert.equal((await command('moves readdress counter beta --yes', { api })).exit, EXIT.usage);
  api.profile.pool = join(folder, 'elsewhere.d');
  assert.equal((await command('moves readdress counter gamma --yes', { api })).exit, EXIT.untrusted);
  api.profile.pool = null;
  const { exit, stderr } = await command('moves readdress counter gamma --yes', { api });
  assert.equal(exit, EXIT.untrusted);
  assert.match(stderr, /names no folder `pool`/);
});
