/**
 * libvirt's own word, host by host, over the host's socket as the machine sees it: lifecycle events while libvirtd is
 * there, and what it knows when asked.
 */
import { Connection, DomainState, isLibvirtError, withOwnConnection, type Lifecycle, type Named } from 'libvirt';
import { setTimeout as sleep } from 'node:timers/promises';
import { childrenOf, elementAt, parseXml, rootOf } from '../../../activities/hypervisor/xml.ts';
import type { HostState, LibvirtEvent, Time } from '../history.ts';
import { now } from './clock.ts';
import type { Hosts } from './hosts.ts';

/** A libvirtd that is frozen accepts connections and never answers. */
const ANSWER_MS = 10_000;

export class LibvirtObserver {
  readonly events: LibvirtEvent[] = [];
  readonly #hosts: Hosts;
  readonly #connections = new Map<string, Connection>();
  /** Hosts whose connection is being opened. */
  readonly #opening = new Set<string>();
  #closed = false;

  constructor(hosts: Hosts) {
    this.#hosts = hosts;
  }

  /** Connects to whatever libvirtd has come back. */
  survey(): void {
    for (const host of this.#hosts.names) {
      if (this.#connections.has(host) || this.#opening.has(host)) continue;
      const uri = this.#uri(host);
      if (uri === null) continue;
      this.#opening.add(host);
      void this.#open(host, uri).finally(() => this.#opening.delete(host));
    }
  }

  /** What the host's libvirtd knows; null if it is not there or does not answer. */
  async state(host: string): Promise<Pick<HostState, 'domains' | 'dhcp'> | null> {
    const uri = this.#uri(host);
    if (uri === null) return null;
    const asked = withOwnConnection(uri, async (connection) => {
      const domains = (await connection.domains()).map((named) => describe(connection, named));
      return {
        domains: (await Promise.all(domains)).filter((domain) => domain !== null),
        dhcp: await dhcpOf(connection),
      };
    }).catch((error: unknown) => {
      if (isLibvirtError(error)) return null;
      throw error;
    });
    return Promise.race([asked, sleep(ANSWER_MS, null, { ref: false })]);
  }

  async close(): Promise<void> {
    this.#closed = true;
    await Promise.all([...this.#connections.values()].map((connection) => connection.close()));
    this.#connections.clear();
  }

  #uri(host: string): string | null {
    const pid = this.#hosts.pid(host);
    return pid === null ? null : `qemu+unix:///system?socket=/proc/${pid}/root/run/libvirt/libvirt-sock`;
  }

  async #open(host: string, uri: string): Promise<void> {
    const told = new Map<string, Time>();
    const opened = now();
    let lost = false;
    try {
      const connection = await Connection.open(uri, {
        onLifecycle: ({ uuid: instance, event, detail }: Lifecycle) => {
          const by = now();
          this.events.push({ host, instance, event, detail, at: { after: told.get(instance) ?? opened, by } });
          told.set(instance, by);
        },
        onClose: () => {
          lost = true;
          const current = this.#connections.get(host);
          this.#connections.delete(host);
          void current?.close();
        },
      });
      if (lost || this.#closed) await connection.close();
      else this.#connections.set(host, connection);
    } catch (error) {
      if (!isLibvirtError(error)) throw error; // it is not there yet
    }
  }
}

/** Null if it has gone since it was listed. */
async function describe(
  connection: Connection,
  { uuid, name }: Named,
): Promise<NonNullable<HostState['domains']>[number] | null> {
  try {
    const { state } = await connection.domainState(uuid);
    const active = await connection.domainIsActive(uuid);
    const persistent = await connection.domainIsPersistent(uuid);
    return { uuid, name, running: active && state === DomainState.RUNNING, active, persistent };
  } catch (error) {
    if (isLibvirtError(error) && !error.connectionLost) return null;
    throw error;
  }
}

async function dhcpOf(connection: Connection): Promise<NonNullable<HostState['dhcp']>> {
  const entries: NonNullable<HostState['dhcp']> = [];
  for (const { uuid } of await connection.networks()) {
    const network = rootOf(parseXml(await connection.networkXML(uuid), `network ${uuid}`, 'LibvirtFailed'));
    for (const host of childrenOf(network, 'ip').flatMap((ip) => childrenOf(elementAt(ip, 'dhcp'), 'host'))) {
      entries.push({ mac: host.getAttribute('mac') ?? '', ip: host.getAttribute('ip') ?? '' });
    }
  }
  return entries;
}
