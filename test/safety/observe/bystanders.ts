/** Things of other people, planted beside what moves make: whatever fails, all of them must be there afterwards, unchanged. */
import { createHash, randomUUID } from 'node:crypto';
import { lstat, mkdir, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import type { Testbed } from '../../../infra/testbed/testbed.ts';
import type { Bystander } from '../history.ts';

interface Planted extends Bystander {
  /** Digest of what is there now; null if it is gone. */
  look: () => Promise<string | null>;
}

/** A domain that is never started, so it has no memory to lose when its host loses power. */
const domainXml = (uuid: string): string => `<domain type='qemu'>
  <name>bystander</name><uuid>${uuid}</uuid><memory unit='MiB'>16</memory><vcpu>1</vcpu>
  <os><type arch='x86_64'>hvm</type></os><devices><emulator>/usr/bin/qemu-system-x86_64</emulator></devices>
</domain>`;

/** Outside of the range from which the catalog gives addresses in any test. */
const DHCP_ENTRY = "<host mac='52:54:00:fe:fe:fe' name='bystander' ip='10.77.254.254'/>";

/** Plants them on every host of a testbed. */
export async function plantBystanders(testbed: Testbed): Promise<Planted[]> {
  return (await Promise.all(testbed.hosts.map((host) => plantOn(testbed, host)))).flat();
}

/** As they are now. A host that is off answers for its disk only. */
export async function lookAtBystanders(planted: readonly Planted[]): Promise<Bystander[]> {
  return Promise.all(planted.map(async ({ look, ...bystander }) => ({ ...bystander, after: await look() })));
}

async function plantOn(testbed: Testbed, host: string): Promise<Planted[]> {
  const root = testbed.outside(host, '/var/lib/vmferry');
  const files = [
    { what: 'a folder in moves/ that no move made', path: `moves/${randomUUID()}`, file: 'snapshot' },
    { what: 'a folder in staging/ that no move made', path: `staging/${randomUUID()}`, file: 'snapshot' },
    { what: 'a folder in incoming/ of no package', path: `incoming/${randomUUID()}`, file: 'disk-vda/000000.seg.part' },
    { what: 'a disk of an instance that no ledger knows', path: `instances/${randomUUID()}`, file: 'g1/vda.qcow2' },
    { what: 'a package that nobody here made', path: `packages/${randomUUID()}`, file: 'config/000000.seg' },
    { what: 'a file beside the packages', path: 'packages/NOTES', file: '' },
  ];
  const found: Planted[] = [];
  for (const { what, path, file } of files) {
    await mkdir(dirname(join(root, path, file)), { recursive: true });
    await writeFile(join(root, path, file), `${what}\n`);
    found.push(await planted(host, what, path, () => digestOf(join(root, path))));
  }
  // Else a power loss soon after takes them, and nobody is to blame.
  await testbed.exec(host, ['sync', '--file-system', '/var/lib/vmferry']);

  const uuid = randomUUID();
  const xml = '/var/tmp/bystander.xml';
  await writeFile(testbed.outside(host, xml), domainXml(uuid));
  await testbed.exec(host, ['virsh', '--quiet', 'define', xml]);
  await rm(testbed.outside(host, xml));
  const definition = testbed.outside(host, '/etc/libvirt/qemu/bystander.xml');
  found.push(await planted(host, `the libvirt domain bystander (${uuid})`, null, () => digestOf(definition)));

  const update = ['net-update', 'guests', 'add', 'ip-dhcp-host', DHCP_ENTRY, '--live', '--config'] as const;
  await testbed.exec(host, ['virsh', '--quiet', ...update]);
  const network = testbed.outside(host, '/etc/libvirt/qemu/networks/guests.xml');
  found.push(await planted(host, 'a DHCP entry of nobody’s', null, () => entryIn(network)));
  return found;
}

async function planted(
  host: string,
  what: string,
  path: string | null,
  look: () => Promise<string | null>,
): Promise<Planted> {
  const before = await look();
  if (before === null) throw new Error(`${what} is not on ${host} after it was planted`);
  return { host, what, path, before, after: before, look };
}

/** Of a file, or of a folder with all that it holds. */
async function digestOf(path: string): Promise<string | null> {
  const hash = createHash('sha256');
  const add = async (below: string): Promise<void> => {
    const stats = await lstat(join(path, below));
    hash.update(`${below}\0${stats.mode}\0`);
    if (!stats.isDirectory()) return void hash.update(await readFile(join(path, below)));
    for (const name of (await readdir(join(path, below))).sort()) await add(join(below, name));
  };
  return unlessAbsent(async () => {
    await add('');
    return hash.digest('hex');
  });
}

async function entryIn(network: string): Promise<string | null> {
  const lines = (await unlessAbsent(() => readFile(network, 'utf8')))?.split('\n');
  return lines?.find((line) => line.includes('10.77.254.254'))?.trim() ?? null;
}

async function unlessAbsent<T>(read: () => Promise<T>): Promise<T | null> {
  try {
    return await read();
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return null;
    throw error;
  }
}
