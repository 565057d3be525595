/**
 * Step 10 [destination]: domain XML and save-file header for this host.
 *
 * libvirt refuses changed XML at restore, so the XML inside the staged save file is exchanged in place, in the 64 KiB that
 * libvirt left for it; RAM is not touched. Both documents are hostile input: an allow-list of elements first, then every
 * path is one of ours. Repeating the step gives the same bytes.
 */
import { readFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import type { HostActivities, MoveRef, Requirements } from '../workflows/contract.ts';
import { VmferryError } from '../workflows/failures.ts';
import { atDestination } from './given-up.ts';
import type { HostContext } from './host-context.ts';
import { checkForeignXml, describeDomain, rebindDomain } from './hypervisor/domain-xml.ts';
import { readSaveHeader, rewriteSaveHeader } from './hypervisor/save-file.ts';
import { passed } from './marks.ts';
import { requireOpened } from './move-folder.ts';
import { readMovedEnvelope } from './moved-envelope.ts';
import { exists, writeDurable } from './records/durable.ts';
import { MEMBER } from './records/layout.ts';

/** The domain XML to define here once the instance is ours; beside the member that came with the package. */
export const LOCAL_XML = 'local.xml';

export function createRewriteXml(host: HostContext): HostActivities['rewriteXml'] {
  return (move) => atDestination(host, move, () => rewriteOpened(host, move));
}

/** The XML of members that were opened from the move’s package. */
export async function rewriteOpened(host: HostContext, move: MoveRef): Promise<void> {
  await requireOpened(host.layout.stage(move.moveId), move);
  const { requirements } = (await readMovedEnvelope(host, move)).origin;
  await host.hypervisor.checkCompatible(requirements);
  await rewriteXml(host, move, host.layout.stage(move.moveId), requirements);
}

/**
 * Also for the way back, where `folder` is the source's own.
 *
 * @param promised what the signed origin record says that the instance needs; QEMU takes state for a machine with other
 *   devices in silence, so the XML is held to it
 */
export async function rewriteXml(
  host: HostContext,
  move: MoveRef,
  folder: string,
  promised?: Requirements,
): Promise<void> {
  const snapshot = join(folder, MEMBER.snapshot);
  const target = host.layout.generation(move.instanceId, move.generation);
  const { emulators } = await host.hypervisor.facts();
  const rebind = async (xml: string): Promise<string> => {
    checkForeignXml(xml);
    const domain = describeDomain(xml);
    if (domain.uuid !== move.instanceId) {
      throw new VmferryError(
        'DomainXmlRefused',
        `the domain XML is of ${domain.uuid}, the package of ${move.instanceId}`,
      );
    }
    if (promised) requireSame(promised, domain.requirements);
    const emulator = emulators[domain.requirements.architecture];
    if (emulator === undefined) {
      throw new VmferryError(
        'IncompatibleHost',
        `host ${host.name} has no emulator for ${domain.requirements.architecture}`,
      );
    }
    return rebindDomain(xml, {
      disks: Object.fromEntries(domain.disks.map(({ target: name }) => [name, join(target, `${name}.qcow2`)])),
      ...((await exists(join(folder, MEMBER.kernel))) && { kernel: join(target, MEMBER.kernel) }),
      ...((await exists(join(folder, MEMBER.initrd))) && { initrd: join(target, MEMBER.initrd) }),
      serialLog: join(target, 'serial.log'),
      emulator,
      tap: host.network.tapName(move.instanceId),
    });
  };
  await rewriteSaveHeader(snapshot, await rebind((await readSaveHeader(snapshot)).xml));
  await passed('rewritten');
  await writeDurable(join(folder, LOCAL_XML), await rebind(await readFile(join(folder, MEMBER.domainXml), 'utf8')));
}

/**
 * Are the members in a folder made ready for this generation on this host? Before that the save file holds the XML of another
 * host, which may name any file: libvirt must not see it.
 */
export async function isRewritten(
  { layout }: HostContext,
  { instanceId, generation }: Pick<MoveRef, 'instanceId' | 'generation'>,
  folder: string,
): Promise<boolean> {
  const path = join(folder, LOCAL_XML);
  if (!(await exists(path))) return false;
  const { disks } = describeDomain(await readFile(path, 'utf8'));
  return disks.every((disk) => dirname(disk.path) === layout.generation(instanceId, generation));
}

function requireSame(promised: Requirements, asked: Omit<Requirements, 'qemuVersion'>): void {
  for (const [name, value] of Object.entries(asked)) {
    const signed = promised[name as keyof typeof asked];
    if (JSON.stringify(value) === JSON.stringify(signed)) continue;
    throw new VmferryError(
      'DomainXmlRefused',
      `the domain XML asks for ${name} ${JSON.stringify(value)}, its signed record says ${JSON.stringify(signed)}`,
    );
  }
}
