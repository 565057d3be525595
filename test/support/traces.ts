/** What a testbed leaves on the machine, looked for without its help. */
import { execFile } from 'node:child_process';
import { existsSync, readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { promisify } from 'node:util';
import type { Testbed } from '../../infra/testbed/testbed.ts';

const NAMESPACES = ['net', 'mnt', 'uts', 'pid', 'ipc'];

/** Namespaces of a process, of every kind. Their numbers are used again once they are gone. */
function namespaces(pid: number | string): string[] {
  return NAMESPACES.flatMap((kind) => {
    try {
      return [readlinkSync(`/proc/${pid}/ns/${kind}`)];
    } catch {
      return []; // it has just ended
    }
  });
}

const text = (path: string): string => {
  try {
    return readFileSync(path, 'latin1');
  } catch {
    return '';
  }
};
const processIds = (): number[] =>
  readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .map(Number);
const startTime = (pid: number): string | undefined => text(`/proc/${pid}/stat`).split(') ').at(-1)?.split(' ')[19];

/** Every process in a namespace of the testbed's, with its start time. */
export function inhabitants(testbed: Testbed): Map<number, string | undefined> {
  const machine = new Set(namespaces('self'));
  const its = testbed.status().flatMap(({ pid }) => namespaces(pid ?? 'none').filter((name) => !machine.has(name)));
  const inside = processIds().filter((pid) => namespaces(pid).some((name) => its.includes(name)));
  return new Map(inside.map((pid) => [pid, startTime(pid)]));
}

/** Everything of this testbed that is still to be seen on the machine. */
export async function traces(
  directory: string,
  links: string[] = [],
  processes = new Map<number, string | undefined>(),
): Promise<string[]> {
  const { stdout } = await promisify(execFile)('ip', ['-o', 'link']);
  return [
    ...links.filter((name) => stdout.includes(` ${name}@`)).map((name) => `interface ${name}`),
    ...[...processes]
      .filter(([pid, start]) => start !== undefined && startTime(pid) === start)
      .map(([pid]) => `process ${pid}: ${text(`/proc/${pid}/cmdline`).replaceAll('\0', ' ')}`),
    ...processIds()
      .filter((pid) => text(`/proc/${pid}/environ`).includes(`${directory}//`))
      .map((pid) => `process ${pid} with its mark`),
    ...(text('/proc/self/mounts').includes(directory) ? ['a mount'] : []),
    ...readdirSync('/sys/block')
      .filter((device) => text(`/sys/block/${device}/loop/backing_file`).startsWith(`${directory}/`))
      .map((device) => `loop device ${device}`),
    ...(existsSync(directory) ? [directory] : []),
  ];
}

export const interfaceOf = (testbed: Testbed): string => `vmferry${testbed.temporalAddress.split('.')[2]}`;
