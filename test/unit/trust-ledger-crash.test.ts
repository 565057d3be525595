/** The ledger's host dies at every instant at which it could, and comes back. */
import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import test from 'node:test';
import { Ledger } from '../../activities/trust/ledger.ts';
import { VmferryError } from '../../workflows/failures.ts';
import { dieAt, type CrashPoint } from '../support/crash-points.ts';
import { testPool, type TestHost } from '../support/pool-hosts.ts';

const POINTS: CrashPoint[] = ['open', 'writeFile', 'sync', 'link', 'rename', 'rm', 'mkdir'];

/** A worker started again: nothing remembered but what is on the disk. */
const restarted = ({ layout, keys, pool, signedRecord }: TestHost): Ledger =>
  new Ledger({ layout, keys, pool, selfRecord: () => Promise.resolve(signedRecord) });

interface Setting {
  alpha: TestHost;
  beta: TestHost;
  move: { instanceId: string; generation: number; packageId: string; moveId: string; originDigest: string };
}

/** Repeats a scenario, dying one call later each time, until it gets through alive. */
async function dieEverywhere(
  hosts: { alpha: TestHost; beta: TestHost },
  task: (setting: Setting) => Promise<unknown>,
  afterwards: (setting: Setting, died: boolean) => Promise<void>,
): Promise<number> {
  for (let count = 1; ; count++) {
    const move = {
      instanceId: randomUUID(),
      generation: 2,
      packageId: randomUUID(),
      moveId: randomUUID(),
      originDigest: 'a1'.repeat(32),
    };
    const setting = { ...hosts, move };
    await hosts.alpha.ledger.spawn(move.instanceId);
    await hosts.alpha.ledger.recordSealed(move);
    const died = await dieAt(count, POINTS, () => task(setting));
    await afterwards(setting, died);
    if (!died) return count - 1;
    assert.ok(count < 500, 'it never gets through');
  }
}

async function receiptOf({ alpha, beta, move }: Setting): Promise<string> {
  const owned = await restarted(alpha).owned(move.instanceId);
  assert.ok(owned);
  await restarted(beta).accept({ ...move, sourceFingerprint: alpha.keys.fingerprint, chain: owned.chain });
  return restarted(beta).giveReceipt(move);
}

const failure = async (promise: Promise<unknown>): Promise<string | null> => {
  try {
    await promise;
    return null;
  } catch (error) {
    if (error instanceof VmferryError) return error.type;
    throw error;
  }
};

await test('whenever the source dies while it takes an instance back, it owns exactly one generation afterwards', async (t) => {
  const pool = await testPool(t);
  const hosts = { alpha: await pool.host('alpha'), beta: await pool.host('beta') };
  const outcomes = new Set<number>();
  const instants = await dieEverywhere(
    hosts,
    ({ move }) => restarted(hosts.alpha).takeBack(move),
    async (setting) => {
      const { alpha, move } = setting;
      const owned = await restarted(alpha).owned(move.instanceId);
      assert.ok(owned);
      outcomes.add(owned.generation);
      if (owned.generation === 2) {
        const release = { ...move, receipt: undefined, destination: setting.beta.signedRecord };
        assert.equal(await failure(restarted(alpha).release(release)), 'OwnershipDecided');
      }
      assert.equal((await restarted(alpha).takeBack(move)).generation, 2);
    },
  );
  assert.ok(instants > 5);
  assert.deepEqual([...outcomes].sort(), [1, 2]);
});

await test('f38: whenever the source dies while it releases, the instance was released once and for all or not at all', async (t) => {
  const pool = await testPool(t);
  const hosts = { alpha: await pool.host('alpha'), beta: await pool.host('beta') };
  const outcomes = new Set<string>();
  await dieEverywhere(
    hosts,
    async (setting) => {
      // The receipt is part of the task, so that dying while it is written is tried too.
      const receipt = await receiptOf(setting);
      return restarted(setting.alpha).release({ ...setting.move, receipt, destination: setting.beta.signedRecord });
    },
    async (setting) => {
      const { alpha, beta, move } = setting;
      const decision = await restarted(alpha).decision(move.instanceId, 1);
      outcomes.add(decision?.kind ?? 'none');
      if (!decision) {
        // Not released: the source may still take it back, and then no receipt helps.
        const receipt = await receiptOf(setting);
        await restarted(alpha).takeBack(move);
        const again = restarted(alpha).release({ ...move, receipt, destination: beta.signedRecord });
        assert.equal(await failure(again), 'OwnershipDecided');
        return;
      }
      assert.equal(await failure(restarted(alpha).takeBack(move)), 'OwnershipDecided');
      const input = { ...move, receipt: undefined, destination: beta.signedRecord };
      assert.equal(await restarted(alpha).release(input), decision.statement);
      const takeOver = { ...move, release: decision.statement, source: alpha.signedRecord };
      assert.equal((await restarted(beta).takeOver(takeOver)).generation, 2);
    },
  );
  assert.deepEqual([...outcomes].sort(), ['none', 'release']);
});

await test('whenever the destination dies while it accepts, gives its receipt and takes over, it can go on', async (t) => {
  const pool = await testPool(t);
  const hosts = { alpha: await pool.host('alpha'), beta: await pool.host('beta') };
  const receipts = new Map<string, string>();
  await dieEverywhere(
    hosts,
    async (setting) => {
      const { alpha, beta, move } = setting;
      const receipt = await receiptOf(setting);
      receipts.set(move.packageId, receipt);
      const release = await restarted(alpha).release({ ...move, receipt, destination: beta.signedRecord });
      await restarted(beta).takeOver({ ...move, release, source: alpha.signedRecord });
    },
    async (setting) => {
      const { alpha, beta, move } = setting;
      const decision = await restarted(alpha).decision(move.instanceId, 1);
      const receipt = decision ? await restarted(beta).giveReceipt(move) : await receiptOf(setting);
      // A receipt that got out is the one that is given for ever.
      assert.equal(receipt, receipts.get(move.packageId) ?? receipt);
      const release = await restarted(alpha).release({ ...move, receipt, destination: beta.signedRecord });
      const owned = await restarted(beta).takeOver({ ...move, release, source: alpha.signedRecord });
      assert.equal(owned.generation, 2);
      assert.equal(await restarted(alpha).owned(move.instanceId), null);
    },
  );
});

await test('whenever two deaths come one after another, release and return still exclude one another', async (t) => {
  const pool = await testPool(t);
  const hosts = { alpha: await pool.host('alpha'), beta: await pool.host('beta') };
  const instants = 24;
  for (let first = 1; first <= instants; first += 6) {
    await dieEverywhere(
      hosts,
      async (setting) => {
        const receipt = await receiptOf(setting);
        const destination = setting.beta.signedRecord;
        await dieAt(first, POINTS, () => restarted(setting.alpha).release({ ...setting.move, receipt, destination }));
        await restarted(setting.alpha)
          .takeBack(setting.move)
          .catch(() => undefined);
      },
      async ({ alpha, move }) => {
        const decision = await restarted(alpha).decision(move.instanceId, 1);
        const owned = await restarted(alpha).owned(move.instanceId);
        assert.equal(owned?.generation ?? null, decision === null ? 1 : decision.kind === 'return' ? 2 : null);
      },
    );
  }
});
