/** What the steps of a move do to the ledgers of its hosts, without the move. For tests of ownership. */
import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import type { TestContext } from 'node:test';
import type { SignedText } from '../../workflows/contract.ts';
import type { Owned } from '../../activities/trust/ledger-book.ts';
import { testPool, type TestHost, type TestPool } from './pool-hosts.ts';

/** Digest of an origin record. */
export const ORIGIN = 'a1'.repeat(32);

export interface Move {
  instanceId: string;
  generation: number;
  packageId: string;
  moveId: string;
  originDigest: string;
}

export interface World {
  pool: TestPool;
  alpha: TestHost;
  beta: TestHost;
  gamma: TestHost;
}

export async function world(t: TestContext): Promise<World> {
  const pool = await testPool(t);
  const [alpha, beta, gamma] = await Promise.all([pool.host('alpha'), pool.host('beta'), pool.host('gamma')]);
  return { pool, alpha, beta, gamma };
}

/** What encryptPackage does to the ledger. */
export async function sealed(source: TestHost, instanceId: string, changes: Partial<Move> = {}): Promise<Move> {
  const owned = await source.ledger.owned(instanceId);
  assert.ok(owned);
  const move = {
    instanceId,
    generation: owned.generation + 1,
    packageId: randomUUID(),
    moveId: randomUUID(),
    originDigest: ORIGIN,
    ...changes,
  };
  await source.ledger.recordSealed(move);
  return move;
}

/** What openPackage and restoreInstance do to it. */
export async function restored(move: Move, source: TestHost, destination: TestHost): Promise<SignedText> {
  const owned = await source.ledger.owned(move.instanceId);
  assert.ok(owned);
  await destination.ledger.accept({ ...move, sourceFingerprint: source.keys.fingerprint, chain: owned.chain });
  return destination.ledger.giveReceipt(move);
}

export async function moved(
  instanceId: string,
  source: TestHost,
  destination: TestHost,
): Promise<Move & { release: SignedText; owned: Owned }> {
  const move = await sealed(source, instanceId);
  const receipt = await restored(move, source, destination);
  const release = await source.ledger.release({ ...move, receipt, destination: destination.signedRecord });
  const owned = await destination.ledger.takeOver({ ...move, release, source: source.signedRecord });
  return { ...move, release, owned };
}
