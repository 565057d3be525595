/** The guest image of the testbed: built once from Debian packages, then taken from the cache. */
import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { mkdir, mkdtemp, readFile, rename, rm } from 'node:fs/promises';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { run } from '../../../activities/exec/run.ts';

export interface GuestImage {
  directory: string;
  /** qcow2, the root file system. */
  disk: string;
  kernel: string;
  initrd: string;
  /** Of the kernel. */
  cmdline: string;
}

/**
 * Memory that is free is empty, so that a package holds what the guest uses, and not what was there when it booted. The timer
 * is not tested: where the machine is busy, ticks come late and the kernel takes its timer for broken and does not boot.
 */
const CMDLINE = 'console=ttyS0 root=/dev/vda rw quiet mitigations=off init_on_free=1 no_timer_check';

/** What the image is made of. The kernel is the newest that Debian has at the time of the build. */
const INPUTS = ['build.sh', 'guest.c', 'init', 'initrd-init', 'udhcpc.sh'];

/** The image's files, in this directory. */
export function guestImage(directory: string): GuestImage {
  const file = (name: string): string => join(directory, name);
  return { directory, disk: file('disk.qcow2'), kernel: file('vmlinuz'), initrd: file('initrd'), cmdline: CMDLINE };
}

/** Builds the image if it is not in the cache (half a minute), and answers where it is. */
export async function ensureGuest(log: (line: string) => void = () => undefined): Promise<GuestImage> {
  const hash = createHash('sha256').update(process.arch);
  for (const name of INPUTS) hash.update(await readFile(join(import.meta.dirname, name)));
  const cache = join(process.env['XDG_CACHE_HOME'] || join(homedir(), '.cache'), 'vmferry');
  const target = join(cache, `guest-${hash.digest('hex').slice(0, 16)}`);
  if (existsSync(target)) return guestImage(target);

  log('building the guest image from Debian packages');
  await mkdir(cache, { recursive: true });
  const partial = await mkdtemp(`${target}.`);
  try {
    await run('bash', [join(import.meta.dirname, 'build.sh'), partial], { timeout: 600_000 });
    // Whoever builds the same at the same time has made the same.
    await rename(partial, target).catch((error: NodeJS.ErrnoException) => {
      if (error.code !== 'ENOTEMPTY' && error.code !== 'EEXIST') throw error;
    });
  } finally {
    await rm(partial, { recursive: true, force: true });
  }
  return guestImage(target);
}
