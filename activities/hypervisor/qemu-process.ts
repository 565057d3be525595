/**
 * QEMU processes as the kernel knows them. libvirt's word is not enough: after a crash of its own it may take a domain
 * for shut off while the process still writes to the disk.
 */
import { readdir, readFile } from 'node:fs/promises';
import type { InstanceId } from '../../workflows/contract.ts';
import type { ProcessIdentity } from './hypervisor.ts';

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

/** False also for a zombie: it has closed its files and runs nothing. */
export async function processAlive({ pid, startTime }: ProcessIdentity): Promise<boolean> {
  return (await readStartTime(pid)) === startTime;
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

/**
 * Null if there is no such process, or only what is left of it until its parent looks. A process that is killed loses its
 * command line first, then its files; its first thread may be a zombie while another still finishes a write to the disk.
 */
async function readStartTime(pid: number): Promise<number | null> {
  const stat = await readProc(pid, 'stat');
  // The second field is the program's name in parentheses, which may hold any character.
  const fields = stat?.slice(stat.lastIndexOf(')') + 2).split(' ');
  const [state, threads, startTime] = [fields?.[0], fields?.[17], fields?.[19]];
  if (state === undefined || startTime === undefined) return null;
  return /[ZX]/.test(state) && Number(threads) <= 1 ? null : Number(startTime);
}

async function readProc(pid: number, file: string): Promise<string | null> {
  try {
    return await readFile(`/proc/${pid}/${file}`, 'utf8');
  } catch (error) {
    const code = error instanceof Error && 'code' in error ? error.code : undefined;
    if (code === 'ENOENT' || code === 'ESRCH') return null;
    throw error;
  }
}
