/** One step at a time for each instance, package and image of a host, whatever process it runs in. */
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { connect, createServer, type Server } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import type { ImageId, InstanceId, PackageId } from '../../workflows/contract.ts';
import { VmferryError } from '../../workflows/failures.ts';
import { requirePulse } from '../heartbeat.ts';
import type { Layout } from './layout.ts';
import { holderOf } from './lock-holder.ts';

export interface LockOptions {
  /** Milliseconds to wait for another holder. Default 10 000. */
  wait?: number;
}

/**
 * Runs `task` while no other step of the instance runs on this host.
 *
 * The lock is a listening socket in Linux's abstract namespace: the kernel frees its name with the holder's process,
 * so a killed worker leaves nothing that would block its successor. Those who wait are connected to it and learn of
 * its end at once, without polling. It is no lock against hostile local users, and need not be: they cannot reach the
 * state directory either.
 *
 * A step that stood still for so long that Temporal has given it up does not begin: another attempt has taken its place.
 * One that stands still inside keeps its lock, so that nothing changes until it goes on or is ended.
 *
 * @throws InstanceBusy after the wait, naming the process that holds the lock; StepStalled
 */
export function withInstanceLock<T>(
  layout: Layout,
  instanceId: InstanceId,
  task: () => Promise<T>,
  options: LockOptions = {},
): Promise<T> {
  return withLock(layout, instanceId, `instance ${instanceId}`, task, options);
}

/** The same for the files of a package that come here or go. Whoever takes both locks takes the instance's first. */
export function withPackageLock<T>(
  layout: Layout,
  packageId: PackageId,
  task: () => Promise<T>,
  options: LockOptions = {},
): Promise<T> {
  return withLock(layout, `package/${packageId}`, `package ${packageId}`, task, options);
}

/** The same for the files of an image that come here. */
export function withImageLock<T>(
  layout: Layout,
  imageId: ImageId,
  task: () => Promise<T>,
  options: LockOptions = {},
): Promise<T> {
  return withLock(layout, `image/${imageId}`, `image ${imageId}`, task, options);
}

async function withLock<T>(
  { root, here }: Layout,
  subject: string,
  words: string,
  task: () => Promise<T>,
  { wait = 10_000 }: LockOptions,
): Promise<T> {
  // By a digest, because a socket's name has room for 107 bytes, and the id of an image alone takes 64.
  const name = `\0vmferry/${createHash('sha256').update(`${root}\0${subject}`).digest('hex')}`;
  const deadline = performance.now() + wait;
  let release: (() => Promise<void>) | null;
  while ((release = await acquire(name)) === null) {
    const left = deadline - performance.now();
    if (left <= 0) throw await busy(name, words, here);
    await holderGone(name, left);
  }
  try {
    requirePulse();
    return await task();
  } finally {
    await release();
  }
}

async function busy(name: string, words: string, here: string): Promise<VmferryError> {
  const holder = await holderOf(name);
  const who =
    holder === null
      ? ''
      : holder.stopped
        ? `: process ${holder.pid} holds it and is stopped; let it go on (\`kill -CONT ${holder.pid}\`), or end it`
        : `: process ${holder.pid} holds it`;
  return new VmferryError('InstanceBusy', `another step is at work on ${words} on ${here}${who}`);
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
