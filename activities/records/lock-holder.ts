/** Which process holds a socket of Linux's abstract namespace, as the kernel tells: a frozen one cannot say so itself. */
import { readdir, readFile, readlink } from 'node:fs/promises';

export interface Holder {
  pid: number;
  /** Stopped by a signal or a debugger: it will not go on by itself. */
  stopped: boolean;
}

/** `so_acceptconn` in the flags of /proc/net/unix: the listener, not a connection to it. */
const LISTENING = 0x10000;

/** Null if there is none, or it is out of sight (another user's, or in another PID namespace). */
export async function holderOf(name: string): Promise<Holder | null> {
  const inode = await listenerOf(name);
  if (inode === null) return null;
  const socket = `socket:[${inode}]`;
  for (const entry of await readdir('/proc')) {
    if (/^[0-9]+$/.test(entry) && (await hasOpen(entry, socket))) {
      return { pid: Number(entry), stopped: await isStopped(entry) };
    }
  }
  return null;
}

/** Lines of /proc/net/unix: `Num RefCount Protocol Flags Type St Inode Path`, numbers hexadecimal but for the inode. */
async function listenerOf(name: string): Promise<string | null> {
  const path = name.replace('\0', '@');
  for (const line of (await readFile('/proc/net/unix', 'utf8')).split('\n')) {
    const [, , , flags, , , inode, ...rest] = line.trim().split(/\s+/);
    if (rest.join(' ') === path && (Number.parseInt(flags ?? '', 16) & LISTENING) !== 0) return inode ?? null;
  }
  return null;
}

async function hasOpen(pid: string, target: string): Promise<boolean> {
  // A process may end while it is looked at.
  const open = await readdir(`/proc/${pid}/fd`).catch(() => []);
  const targets = await Promise.all(open.map((fd) => readlink(`/proc/${pid}/fd/${fd}`).catch(() => '')));
  return targets.includes(target);
}

async function isStopped(pid: string): Promise<boolean> {
  const stat = await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => '');
  // The name, in parentheses, may hold anything.
  return /^[tT]$/.test(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[0] ?? '');
}
