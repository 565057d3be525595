/** An attempt that stands still for longer than Temporal waits for a sign of life has been given up there, and knows it. */
import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import test from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { MockActivityEnvironment } from '@temporalio/testing';
import { DefaultLogger } from '@temporalio/worker';
import { requirePulse, withHeartbeat } from '../../activities/heartbeat.ts';
import { createHostActivities } from '../../activities/host.ts';
import type { HostContext } from '../../activities/host-context.ts';
import type { Domain } from '../../activities/hypervisor/hypervisor.ts';
import { withInstanceLock } from '../../activities/records/lock.ts';
import { Layout } from '../../activities/records/layout.ts';
import { FakeGuestNetwork } from '../fakes/guest-network.ts';
import { FakeHypervisor } from '../fakes/hypervisor.ts';
import { refused } from '../support/refusals.ts';
import { testPool, temporary } from '../support/pool-hosts.ts';

const LIMIT_MS = 1500;

const run = <T>(step: () => Promise<T>, heartbeatTimeoutMs = LIMIT_MS): Promise<T> =>
  new MockActivityEnvironment({ heartbeatTimeoutMs }, { logger: new DefaultLogger('ERROR') }).run(step);

/** As SIGSTOP does: nothing of this process goes on, no timer and no beat. */
function standStill(milliseconds: number): void {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, milliseconds);
}

/** Its caller is frozen while libvirt is asked what there is. */
class FreezingHypervisor extends FakeHypervisor {
  freezeNext = false;

  override async find(instanceId: string): Promise<Domain | null> {
    const found = await super.find(instanceId);
    if (this.freezeNext) standStill(LIMIT_MS + 300);
    this.freezeNext = false;
    return found;
  }
}

await test('an attempt that beats goes on, however long it takes', async () => {
  await run(() =>
    withHeartbeat('step', async () => {
      await sleep(2 * LIMIT_MS);
      requirePulse();
    }),
  );
  requirePulse(); // outside of any step
});

await test('one that stood still goes no further, whether or not it has beaten since', async () => {
  for (const after of [0, 2100]) {
    await refused(
      'StepStalled',
      run(() =>
        withHeartbeat('step', async () => {
          await sleep(10);
          standStill(LIMIT_MS + 300);
          await sleep(after);
          requirePulse();
        }),
      ),
    );
  }
});

await test('it does not begin what it has waited for', async (t) => {
  const layout = new Layout(await temporary(t));
  let begun = false;
  let attempt: Promise<void> = Promise.resolve();
  await withInstanceLock(layout, 'one', async () => {
    attempt = run(() =>
      withHeartbeat('step', () =>
        withInstanceLock(layout, 'one', () => {
          begun = true;
          return Promise.resolve();
        }),
      ),
    );
    attempt.catch(() => undefined); // looked at below
    await sleep(100);
    standStill(LIMIT_MS + 300);
  });
  await refused('StepStalled', attempt);
  assert.equal(begun, false);
  // The lock is free for the attempt that took its place.
  await withInstanceLock(layout, 'one', () => Promise.resolve(), { wait: 0 });
});

await test('it lets no vCPU run, though it is in the middle of its work', async (t) => {
  const pool = await testPool(t);
  const { name, layout, keys, pool: trust, ledger } = await pool.host('alpha');
  const hypervisor = new FreezingHypervisor();
  const context: HostContext = { name, layout, keys, pool: trust, ledger, hypervisor, network: new FakeGuestNetwork() };
  const activities = createHostActivities(context, { addresses: [], location: '', vmferryVersion: '0' });
  const xml = await readFile(new URL('golden/new-tcg.xml', import.meta.url), 'utf8');
  const instanceId = /<uuid>([^<]*)</.exec(xml)?.[1] ?? '';
  await ledger.spawn(instanceId);
  await hypervisor.define(xml);
  const start = (): Promise<unknown> => activities.startInstance({ instanceId });

  hypervisor.freezeNext = true;
  await refused('StepStalled', run(start));
  assert.equal((await hypervisor.find(instanceId))?.process, null);
  await run(start);
  assert.equal((await hypervisor.find(instanceId))?.state, 'running');
});
