/** Kernel and initrd of a guest that boots from its own. They are members of what is moved, and of what is taken back. */
import { join } from 'node:path';
import { copyFile } from './disk/copy.ts';
import type { Work } from './heartbeat.ts';
import { describeDomain } from './hypervisor/domain-xml.ts';
import { MEMBER } from './records/layout.ts';

/** Copies them from where the domain XML says that they are; answers which there are. */
export async function copyBootFiles(
  xml: string,
  folder: string,
  work: Work,
): Promise<(typeof MEMBER.kernel | typeof MEMBER.initrd)[]> {
  const domain = describeDomain(xml);
  const copied: (typeof MEMBER.kernel | typeof MEMBER.initrd)[] = [];
  for (const name of [MEMBER.kernel, MEMBER.initrd] as const) {
    const from = domain[name];
    if (from === undefined) continue;
    await copyFile({ from, to: join(folder, name), work });
    copied.push(name);
  }
  return copied;
}
