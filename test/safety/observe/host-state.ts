/** How a host is at one moment: what libvirt knows, which instances the firewall admits, which files there are. */
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { run } from '../../../activities/exec/run.ts';
import { VmferryError } from '../../../workflows/failures.ts';
import type { HostState } from '../history.ts';
import { now } from './clock.ts';
import type { Hosts } from './hosts.ts';
import type { LibvirtObserver } from './libvirt.ts';

export async function hostState(
  host: string,
  root: string,
  hosts: Hosts,
  libvirt: LibvirtObserver,
): Promise<HostState> {
  const pid = hosts.pid(host);
  const known = await libvirt.state(host);
  return {
    host,
    at: now(),
    domains: known?.domains ?? null,
    dhcp: known?.dhcp ?? null,
    rules: pid === null ? null : await admittedBy(pid),
    files: await filesBelow(root),
  };
}

/** Instances by the comments of their chains; none where vmferry has no table. Null if the host went off. */
async function admittedBy(pid: number): Promise<string[] | null> {
  const command = ['-t', String(pid), '-n', 'nft', 'list', 'table', 'bridge', 'vmferry'];
  try {
    const { stdout } = await run('nsenter', command, { okExitCodes: [0, 1] });
    return [...stdout.matchAll(/comment "instance ([0-9a-f-]+)"/g)].map(([, id]) => id ?? '');
  } catch (error) {
    if (error instanceof VmferryError) return null;
    throw error;
  }
}

/** The state directory without the contents of images and packages; keys are no concern of a move. */
async function filesBelow(root: string): Promise<string[]> {
  const found: string[] = [];
  const walk = async (path: string): Promise<void> => {
    for (const entry of await entriesOf(join(root, path))) {
      const inner = join(path, entry.name);
      if (!entry.isDirectory()) found.push(inner);
      else {
        found.push(`${inner}/`);
        if (!/^(images|packages)\/[^/]+$|^keys$/.test(inner)) await walk(inner);
      }
    }
  };
  await walk('');
  return found.sort();
}

async function entriesOf(path: string): Promise<{ name: string; isDirectory(): boolean }[]> {
  try {
    return await readdir(path, { withFileTypes: true });
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return [];
    throw error;
  }
}
