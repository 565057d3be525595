/** qemu-img. Every format is named, none is guessed; disks from elsewhere have passed `checkOverlay` (qcow2.ts) before. */
import { dirname } from 'node:path';
import { VmferryError } from '../../workflows/failures.ts';
import { run } from '../exec/run.ts';
import { syncDirectory, syncFile } from '../records/durable.ts';

/** An empty overlay on a base image; durable. Replaces a file that is there. */
export async function createOverlay(options: {
  path: string;
  /** Absolute. */
  base: string;
  baseFormat: 'qcow2' | 'raw';
}): Promise<void> {
  const { path, base, baseFormat } = options;
  await run('qemu-img', ['create', '-q', '-f', 'qcow2', '-b', base, '-F', baseFormat, path]);
  await syncFile(path);
  await syncDirectory(dirname(path));
}

/**
 * Changes the backing name in an overlay's header and nothing else (`-u`): neither the old base nor the new one is opened,
 * so the name may mean something on another host only. Not synced.
 */
export async function rebaseUnsafe(options: { path: string; backing: string; backingFormat: string }): Promise<void> {
  const { path, backing, backingFormat } = options;
  await run('qemu-img', ['rebase', '-q', '-u', '-f', 'qcow2', '-b', backing, '-F', backingFormat, path]);
}

/** What `qemu-img check` says by its exit code. */
const CHECK = { sound: 0, corrupt: 2, leaks: 3 } as const;

/**
 * Throws `DiskMalformed` if the overlay's own tables contradict one another. Leaked clusters are accepted: they waste
 * space, and a QEMU that was killed leaves some.
 */
export async function check(path: string, signal?: AbortSignal): Promise<void> {
  const { exitCode, stdout, stderr } = await run('qemu-img', ['check', '-f', 'qcow2', path], {
    ...(signal && { signal }),
    okExitCodes: Object.values(CHECK),
  });
  if (exitCode === CHECK.corrupt) {
    throw new VmferryError('DiskMalformed', `disk ${path} is corrupt: ${`${stdout}\n${stderr}`.trim().slice(0, 500)}`);
  }
}
