/**
 * The guest network on libvirt (bridge, DHCP, NAT) and nftables (anti-spoofing).
 *
 * What is admitted stands in one small file for each instance, written before libvirt and nftables are told and removed
 * after libvirt has forgotten it. Both are brought into line with these files by every call, so a call that died half way
 * is completed by its repetition, and `ensure` at the worker's start restores the rules that a reboot has taken.
 */
import { readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import {
  ErrorCode,
  isLibvirtError,
  NetworkSection,
  NetworkUpdateAffect,
  NetworkUpdateCommand,
  NetworkXmlFlag,
  withOwnConnection,
  type Connection,
} from 'libvirt';
import type { Element } from 'slimdom';
import { z } from 'zod';
import type { Address, InstanceId } from '../../workflows/contract.ts';
import { VmferryError } from '../../workflows/failures.ts';
import { run } from '../exec/run.ts';
import { withLibvirtFailure } from '../hypervisor/libvirt-failure.ts';
import { childrenOf, elementAt, escapeXml, parseXml, rootOf } from '../hypervisor/xml.ts';
import { makeDirectory, readJson, syncDirectory, writeRecord } from '../records/durable.ts';
import type { Layout } from '../records/layout.ts';
import { renderRules, tapName } from './anti-spoofing.ts';
import type { GuestNetwork } from './guest-network.ts';

const NAME = 'guests';

/**
 * The same on every host, so that a guest finds its gateway where it was, with its ARP entry valid. The second address is
 * the metadata service's; libvirt puts it on the bridge, which needs no route and no DNAT.
 */
const NETWORK_XML = `<network>
  <name>${NAME}</name>
  <forward mode='nat'/>
  <bridge name='${NAME}' stp='off' delay='0'/>
  <mac address='52:54:00:00:00:01'/>
  <ip address='10.77.0.1' netmask='255.255.0.0'><dhcp/></ip>
  <ip address='169.254.169.254' prefix='32'/>
</network>`;

/** Their text becomes part of nftables' rules and of libvirt's XML. */
const Admitted = z.strictObject({
  instanceId: z.uuid(),
  name: z.string().min(1).max(255),
  address: z.strictObject({
    ip: z.ipv4(),
    mac: z.string().regex(/^[0-9a-f][02468ace](:[0-9a-f]{2}){5}$/),
  }),
});
type Admitted = z.infer<typeof Admitted>;

export interface GuestNetworkOptions {
  /** Of libvirt, e.g. `qemu:///system`. */
  uri: string;
  layout: Layout;
  /** The nftables table, which is ours alone. Default `vmferry`. */
  tableName?: string;
}

/** Needs root: nftables asks for it. */
export function createGuestNetwork({ uri, layout, tableName = 'vmferry' }: GuestNetworkOptions): GuestNetwork {
  const recordPath = (instanceId: InstanceId): string => join(layout.network, `${instanceId}.json`);
  const inTurn = createTurns();

  async function records(): Promise<Admitted[]> {
    await makeDirectory(layout.network);
    const found: Admitted[] = [];
    for (const name of await readdir(layout.network)) {
      if (name.startsWith('.') || !name.endsWith('.json')) continue; // a write that died
      const record = await readJson(join(layout.network, name), Admitted);
      if (record) found.push(record);
    }
    return found.sort((a, b) => a.instanceId.localeCompare(b.instanceId));
  }

  const applyRules = async (): Promise<void> => {
    await run('nft', ['-f', '-'], { input: renderRules(tableName, await records()) });
  };

  const onNetwork = <T>(what: string, calls: (connection: Connection, uuid: string) => Promise<T>): Promise<T> =>
    withLibvirtFailure(what, () =>
      withOwnConnection(uri, async (connection) => calls(connection, (await connection.networkByName(NAME)).uuid)),
    );

  return {
    tapName,

    ensure: () =>
      inTurn(async () => {
        // Rules first: a guest that libvirt has started with the host is bound before anything else happens.
        await applyRules();
        await withLibvirtFailure(`network ${NAME}`, () => withOwnConnection(uri, ensureNetwork));
        const admitted = await records();
        await onNetwork(`DHCP entries of network ${NAME}`, async (connection, uuid) => {
          for (const record of admitted) await writeHostEntry(connection, uuid, record);
        });
      }),

    admit: (instanceId, name, address) =>
      inTurn(async () => {
        const record = parseAdmitted({ instanceId, name, address: { ip: address.ip, mac: address.mac.toLowerCase() } });
        const others = (await records()).filter((other) => other.instanceId !== instanceId);
        const clash = others.find(({ address: { ip, mac } }) => ip === record.address.ip || mac === record.address.mac);
        if (clash) {
          throw new VmferryError(
            'AlreadyExists',
            `address ${record.address.ip} (${record.address.mac}) for instance ${instanceId} is in use by instance ${clash.instanceId}`,
          );
        }
        const before = await readJson(recordPath(instanceId), Admitted);
        await onNetwork(`DHCP entry of instance ${instanceId}`, async (connection, uuid) => {
          // The old entry before the record that tells of it is replaced.
          if (before && !sameAddress(before.address, record.address))
            await removeHostEntry(connection, uuid, before.address);
          await writeRecord(recordPath(instanceId), aboutAdmitted(record), record);
          await writeHostEntry(connection, uuid, record);
        });
        await applyRules();
      }),

    expel: (instanceId) =>
      inTurn(async () => {
        await makeDirectory(layout.network);
        const record = await readJson(recordPath(instanceId), Admitted);
        if (record) {
          await onNetwork(`DHCP entry of instance ${instanceId}`, (connection, uuid) =>
            removeHostEntry(connection, uuid, record.address),
          );
          await rm(recordPath(instanceId), { force: true });
          await syncDirectory(layout.network);
        }
        await applyRules();
      }),

    admitted: records,

    strangers: () =>
      inTurn(async () => {
        const ours = new Set((await records()).map(({ address }) => address.mac));
        const entries = await onNetwork(`DHCP entries of network ${NAME}`, async (connection, uuid) => {
          const found = new Map<string, HostEntry>();
          for (const affect of await affected(connection, uuid)) {
            for (const entry of await hostEntries(connection, uuid, affect)) found.set(JSON.stringify(entry), entry);
          }
          return [...found.values()];
        });
        return entries.filter(({ mac }) => mac === null || !ours.has(mac)).map(({ mac, ip }) => ({ mac, ip }));
      }),
  };
}

function parseAdmitted(record: Admitted): Admitted {
  const parsed = Admitted.safeParse(record);
  if (parsed.success) return parsed.data;
  const { instanceId, address } = record;
  throw new VmferryError(
    'InvalidInput',
    `no address of a guest: ${address.ip}, ${address.mac} for instance ${instanceId}`,
    {
      cause: parsed.error,
    },
  );
}

const aboutAdmitted = ({ name, address }: Admitted): string =>
  `${new Date().toISOString()}: instance ${name} may use ${address.ip} on this host’s network of guests`;

const sameAddress = (one: Address, other: Address): boolean => one.ip === other.ip && one.mac === other.mac;

/** One call at a time: each renders all rules from all records. */
function createTurns(): <T>(task: () => Promise<T>) => Promise<T> {
  let last: Promise<unknown> = Promise.resolve();
  return <T>(task: () => Promise<T>): Promise<T> => {
    const turn = last.then(task, task);
    last = turn.catch(() => undefined);
    return turn;
  };
}

// ---- libvirt's network ----

async function ensureNetwork(connection: Connection): Promise<void> {
  const uuid = await findOrDefine(connection);
  if (!(await connection.networkAutostart(uuid))) await connection.networkSetAutostart(uuid, true);
  if (await connection.networkIsActive(uuid)) return;
  try {
    await connection.networkCreate(uuid);
  } catch (error) {
    if (!isLibvirtError(error, ErrorCode.OPERATION_INVALID) || !(await connection.networkIsActive(uuid))) throw error;
  }
}

async function findOrDefine(connection: Connection): Promise<string> {
  let uuid: string;
  try {
    ({ uuid } = await connection.networkByName(NAME));
  } catch (error) {
    if (!isLibvirtError(error, ErrorCode.NO_NETWORK)) throw error;
    return (await connection.networkDefine(NETWORK_XML)).uuid;
  }
  const is = identity(await connection.networkXML(uuid));
  const expected = identity(NETWORK_XML);
  if (is !== expected) {
    throw new VmferryError('AlreadyExists', `libvirt has another network ${NAME} (${is} instead of ${expected})`);
  }
  return uuid;
}

/** What guests see of it, and what must therefore be the same everywhere. */
function identity(xml: string): string {
  const network = parseNetwork(xml);
  const addresses = childrenOf(network, 'ip').map((ip) => ip.getAttribute('address') ?? '');
  return [elementAt(network, 'mac')?.getAttribute('address') ?? 'no MAC', ...addresses.sort()].join(' ');
}

function parseNetwork(xml: string): Element {
  return rootOf(parseXml(xml, `XML of network ${NAME}`, 'LibvirtFailed'));
}

// ---- DHCP ----

interface HostEntry {
  mac: string | null;
  ip: string | null;
  name: string | null;
}

const { LIVE, CONFIG } = NetworkUpdateAffect;

async function hostEntries(connection: Connection, uuid: string, affect: number): Promise<HostEntry[]> {
  const network = parseNetwork(await connection.networkXML(uuid, affect === CONFIG ? NetworkXmlFlag.INACTIVE : 0));
  return childrenOf(network, 'ip')
    .flatMap((ip) => childrenOf(elementAt(ip, 'dhcp'), 'host'))
    .map((host) => ({ mac: host.getAttribute('mac'), ip: host.getAttribute('ip'), name: host.getAttribute('name') }));
}

/** The running network and its persistent configuration may differ after a crash, so each is looked at by itself. */
async function affected(connection: Connection, uuid: string): Promise<number[]> {
  return (await connection.networkIsActive(uuid)) ? [LIVE, CONFIG] : [CONFIG];
}

/** Idempotent, which libvirt's own call is not. Entries of another's address or name are in the way and are removed. */
async function writeHostEntry(connection: Connection, uuid: string, { name, address }: Admitted): Promise<void> {
  // The name is what DHCP tells the guest as its host name; what is none is left out.
  const hostName = /^[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?$/.test(name) ? name : null;
  const wanted: HostEntry = { ...address, name: hostName };
  for (const affect of await affected(connection, uuid)) {
    const related = (await hostEntries(connection, uuid, affect)).filter(
      ({ mac, ip, name: other }) => mac === wanted.mac || ip === wanted.ip || (other !== null && other === wanted.name),
    );
    const [entry] = related;
    if (related.length === 1 && entry?.mac === wanted.mac && entry.ip === wanted.ip && entry.name === wanted.name)
      continue;
    for (const old of related) await updateHost(connection, uuid, NetworkUpdateCommand.DELETE, old, affect);
    await updateHost(connection, uuid, NetworkUpdateCommand.ADD_LAST, wanted, affect);
  }
}

async function removeHostEntry(connection: Connection, uuid: string, { mac }: Address): Promise<void> {
  for (const affect of await affected(connection, uuid)) {
    for (const entry of await hostEntries(connection, uuid, affect)) {
      if (entry.mac === mac) await updateHost(connection, uuid, NetworkUpdateCommand.DELETE, entry, affect);
    }
  }
}

async function updateHost(
  connection: Connection,
  uuid: string,
  command: number,
  { mac, ip, name }: HostEntry,
  affect: number,
): Promise<void> {
  const attributes = Object.entries({ mac, ip, name }).filter(([, value]) => value !== null);
  const xml = `<host${attributes.map(([key, value]) => ` ${key}='${escapeXml(value ?? '')}'`).join('')}/>`;
  await connection.networkUpdate(uuid, command, NetworkSection.IP_DHCP_HOST, xml, affect);
}
