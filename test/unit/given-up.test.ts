/** What a destination is asked for a move that it has given up meanwhile changes nothing there. */
import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import test from 'node:test';
import { MockActivityEnvironment } from '@temporalio/testing';
import { DefaultLogger } from '@temporalio/worker';
import { createHostActivities } from '../../activities/host.ts';
import { exists } from '../../activities/records/durable.ts';
import { readReservation } from '../../activities/reservation.ts';
import { FakeGuestNetwork } from '../fakes/guest-network.ts';
import { FakeHypervisor } from '../fakes/hypervisor.ts';
import { testPool } from '../support/pool-hosts.ts';
import { refused } from '../support/refusals.ts';

/** Runs a step that the workflow asked for at this time. */
const run = <T>(at: number, step: () => Promise<T>): Promise<T> =>
  new MockActivityEnvironment({ scheduledTimestampMs: at }, { logger: new DefaultLogger('ERROR') }).run(step);

await test('a step that was asked for before its move was given up comes too late; one that is asked for later does not', async (t) => {
  const pool = await testPool(t);
  const [alpha, beta] = [await pool.host('alpha'), await pool.host('beta')];
  const network = new FakeGuestNetwork();
  const steps = createHostActivities(
    { ...beta, hypervisor: new FakeHypervisor(), network },
    { addresses: [], location: '', vmferryVersion: '0' },
  );
  const move = { moveId: randomUUID(), packageId: randomUUID(), instanceId: randomUUID(), generation: 2 };
  const source = alpha.signedRecord;
  const address = { ip: '10.77.0.5', mac: '52:54:00:77:00:05' };
  const room = { ...move, name: 'late', address };

  await run(1000, () => steps.discardCopy(move));
  const late = [
    () => run(999, () => steps.reserve(room)),
    () => run(999, () => steps.transferPackage({ ...move, source })),
    () => run(999, () => steps.openPackage({ ...move, source })),
    () => run(999, () => steps.rewriteXml({ ...move, address })),
    () => run(999, () => steps.restoreInstance(move)),
  ];
  for (const step of late) await refused('StepTooLate', step());
  assert.deepEqual(await network.admitted(), []);
  assert.equal(await readReservation(beta.layout, move.instanceId), null);
  assert.equal(await exists(beta.layout.incoming(move.packageId)), false);

  // Of another move it may have been asked for at any time; and the same one may come back to this host.
  await run(999, () => steps.reserve({ ...room, moveId: randomUUID(), packageId: randomUUID() }));
  await run(1001, () => steps.reserve(room));
  assert.equal((await network.admitted()).length, 1);

  // The clean-up that is tried again, or comes late itself, does not take that back.
  await run(1000, () => steps.discardCopy(move));
  await run(1001, () => steps.reserve(room));
});
