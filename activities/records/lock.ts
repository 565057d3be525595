/** One step at a time for each instance of a host, whatever process it runs in. */
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { connect, createServer, type Server } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import type { InstanceId } from '../../workflows/contract.ts';
import { VmferryError } from '../../workflows/failures.ts';
import type { Layout } from './layout.ts';

export interface LockOptions {
  /** Milliseconds to wait for another holder. Default 10 000. */
  wait?: number;
}

/**
 * Runs `task` while no other step of the instance runs on this host. Throws `InstanceBusy` after the wait.
 *
 * The lock is a listening socket in Linux's abstract namespace: the kernel frees its name with the holder's process,
 * so a killed worker leaves nothing that would block its successor. Those who wait are connected to it and learn of
 * its end at once, without polling. It is no lock against hostile local users, and need not be: they cannot reach the
 * state directory either.
 */
export async function withInstanceLock<T>(
  layout: Layout,
  instanceId: InstanceId,
  task: () => Promise<T>,
  options: LockOptions = {},
): Promise<T> {
  const host = createHash('sha256').update(layout.root).digest('hex').slice(0, 32);
  const name = `\0vmferry/${host}/${instanceId}`;
  const deadline = performance.now() + (options.wait ?? 10_000);
  let release: (() => Promise<void>) | null;
  while ((release = await acquire(name)) === null) {
    const left = deadline - performance.now();
    if (left <= 0) throw new VmferryError('InstanceBusy', `Another step of instance ${instanceId} runs on this host`);
    await holderGone(name, left);
  }
  try {
    return await task();
  } finally {
    await release();
  }
}

/** Answers how to release the lock, or null if another holds it. */
async function acquire(name: string): Promise<(() => Promise<void>) | null> {
  const waiting = new Set<{ destroy(): void }>();
  const server: Server = createServer((socket) => {
    waiting.add(socket);
    socket.on('close', () => waiting.delete(socket));
    socket.on('error', () => socket.destroy());
  });
  server.listen({ path: name });
  try {
    await once(server, 'listening');
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'EADDRINUSE') return null;
    throw error;
  }
  return async () => {
    server.close();
    // Closing the listener first: whoever is woken by its connection's end finds the name free.
    for (const socket of waiting) socket.destroy();
    await once(server, 'close');
  };
}

/** Resolves when the holder's socket is closed, or after `limit` milliseconds. */
async function holderGone(name: string, limit: number): Promise<void> {
  const refused = await new Promise<boolean>((resolve) => {
    const socket = connect({ path: name });
    const timeout = setTimeout(() => socket.destroy(), limit);
    socket.on('error', () => {}); // 'close' follows and says whether there was one
    socket.on('close', (failed) => {
      clearTimeout(timeout);
      resolve(failed);
    });
    socket.resume();
  });
  // The name may be bound and not yet listened on, or its backlog full: do not spin.
  if (refused) await sleep(5);
}
