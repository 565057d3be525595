/**
 * QEMU processes as the kernel knows them. libvirt's word is not enough: after a crash of its own it may take a domain
 * for shut off while the process still writes to the disk.
 */
import { readdir } from 'node:fs/promises';
import type { InstanceId } from '../../workflows/contract.ts';
import { readProc, readStartTime, type ProcessIdentity } from '../exec/process-identity.ts';

export interface QemuProcess extends ProcessIdentity {
  instanceId: InstanceId;
  /** The domain's name, by QEMU's command line. */
  name: string;
}

/**
 * Every living QEMU that libvirt has ever started here, by the UUID in its command line. One that is just ending may be
 * missing: only `processAlive` tells when it is gone.
 */
export async function qemuProcesses(): Promise<QemuProcess[]> {
  const pids = (await readdir('/proc')).filter((name) => /^\d+$/.test(name)).map(Number);
  const found = await Promise.all(pids.map(qemuProcess));
  return found.filter((process) => process !== null);
}

/** The QEMU of one instance; of two, which there should never be, the younger. */
export async function qemuProcessOf(instanceId: InstanceId): Promise<QemuProcess | null> {
  const found = (await qemuProcesses()).filter((process) => process.instanceId === instanceId);
  return found.sort((a, b) => b.startTime - a.startTime)[0] ?? null;
}

async function qemuProcess(pid: number): Promise<QemuProcess | null> {
  const commandLine = (await readProc(pid, 'cmdline'))?.split('\0');
  if (!commandLine) return null;
  const instanceId = valueOf(commandLine, '-uuid');
  const name = /^guest=((?:[^,]|,,)*)/.exec(valueOf(commandLine, '-name') ?? '')?.[1];
  if (instanceId === undefined || name === undefined) return null;
  const startTime = await readStartTime(pid);
  return startTime === null ? null : { pid, startTime, instanceId, name: name.replaceAll(',,', ',') };
}

function valueOf(commandLine: string[], option: string): string | undefined {
  const at = commandLine.indexOf(option);
  return at < 0 ? undefined : commandLine[at + 1];
}
