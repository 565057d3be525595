/**
 * Marked instants inside the steps: part of the work is in the world, and nobody was told yet. A test can hold a worker
 * there and do what it likes to it (workers/fault-points.ts); in production nobody listens, and to pass one costs nothing.
 */
import { AsyncLocalStorage } from 'node:async_hooks';
import type { HostActivities } from '../workflows/contract.ts';

/** By activity, in the order in which it passes them. Each says what has just become true. */
export const MARKS = {
  preflightDestination: ['compared'],
  reserve: ['reserved'],
  saveInstance: ['recorded', 'suspended', 'written'],
  rebaseOverlay: ['copied'],
  buildPackage: ['packed'],
  encryptPackage: ['signed'],
  transferPackage: ['accepted'],
  openPackage: ['accepted'],
  rewriteXml: ['rewritten'],
  restoreInstance: ['copied', 'restored'],
  releaseInstance: ['released'],
  resumeInstance: ['owned', 'marked'],
  settleMove: ['settled'],
  returnInstance: ['taken-back'],
  discardCopy: ['cleared'],
  obeyFence: ['noted'],
} as const satisfies Partial<Record<keyof HostActivities, readonly string[]>>;

export type Mark = (typeof MARKS)[keyof typeof MARKS][number];

const listener = new AsyncLocalStorage<(mark: Mark) => Promise<void>>();

/** Tells whoever listens to the running activity that it has come to this instant. */
export async function passed(mark: Mark): Promise<void> {
  await listener.getStore()?.(mark);
}

/** Runs an activity whose marks somebody wants to know. */
export function withMarks<T>(onMark: (mark: Mark) => Promise<void>, run: () => Promise<T>): Promise<T> {
  return listener.run(onMark, run);
}
