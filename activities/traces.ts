/**
 * What there is of an instance on this host: in libvirt, in the ledger, in the records beside it, on the disk. Collected
 * without changing anything; what it means is judged in differences.ts.
 */
import { readdir } from 'node:fs/promises';
import type { InstanceId, MoveId } from '../workflows/contract.ts';
import { backingChain } from './disk/backing-chain.ts';
import type { HostContext } from './host-context.ts';
import { diskFiles } from './hypervisor/domain-xml.ts';
import type { Domain } from './hypervisor/hypervisor.ts';
import { exists } from './records/durable.ts';
import { readReservation } from './reservation.ts';
import { readRestored } from './restore-copy.ts';
import { hasRun } from './resume-instance.ts';
import { readSaveRecord, sameProcess, type SaveRecord } from './save-record.ts';
import type { LedgerView } from './trust/ledger.ts';

export interface Traces {
  instanceId: InstanceId;
  /** For people; null where nothing tells it. */
  name: string | null;
  domain: Domain | null;
  /** Null: this host’s ledger never heard of it. */
  ledger: LedgerView | null;
  /** Of the owned generation: a move has stopped it, or was about to. */
  save: SaveRecord | null;
  /** The vCPUs have run in the owned generation. */
  hasRun: boolean;
  reserved: { generation: number; moveId: MoveId } | null;
  /** It has a DHCP entry and an anti-spoofing rule here. */
  admitted: boolean;
  /** Generations of which there are working copies. */
  copies: number[];
  /** Of the disks that an owned domain has: those that cannot be read, and the file that is to blame. */
  unreadable: { disk: string; path: string; why: 'missing' | 'malformed' }[];
  /** The domain’s QEMU is the one in which this move restored the instance, paused. */
  restoredBy: MoveId | null;
}

/** What the caller has seen already, of all instances at once. */
export interface Seen {
  domain: Domain | null;
  /** The name under which it is admitted to the network of guests; null if it is not. */
  admittedAs: string | null;
}

export async function tracesOf(
  host: HostContext,
  instanceId: InstanceId,
  { domain, admittedAs }: Seen,
): Promise<Traces> {
  const { layout, ledger: book } = host;
  const ledger = await book.view(instanceId);
  const owned = ledger?.owned?.generation ?? 0;
  const reserved = await readReservation(layout, instanceId);
  const copies = await generationsOf(layout.instance(instanceId));
  const restored = reserved && (await readRestored(layout.stage(reserved.moveId)));
  return {
    instanceId,
    name: domain?.name ?? admittedAs,
    domain,
    ledger,
    save: owned > 0 ? await readSaveRecord(layout, instanceId, owned) : null,
    hasRun: owned > 0 && (await hasRun(host, instanceId, owned)),
    reserved,
    admitted: admittedAs !== null,
    copies,
    unreadable: owned > 0 && domain ? await unreadableDisks(host, instanceId) : [],
    restoredBy:
      restored && reserved && domain?.process && sameProcess(restored.process, domain.process) ? reserved.moveId : null,
  };
}

async function generationsOf(folder: string): Promise<number[]> {
  if (!(await exists(folder))) return [];
  const names = await readdir(folder);
  return names.flatMap((name) => (/^g[0-9]+$/.test(name) ? [Number(name.slice(1))] : [])).sort((a, b) => a - b);
}

async function unreadableDisks(host: HostContext, instanceId: InstanceId): Promise<Traces['unreadable']> {
  const found: Traces['unreadable'] = [];
  for (const disk of diskFiles(await host.hypervisor.domainXml(instanceId, 'inactive'))) {
    const { broken } = await backingChain(disk);
    if (broken) found.push({ disk, ...broken });
  }
  return found;
}
