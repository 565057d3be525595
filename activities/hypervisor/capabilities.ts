/** libvirt's capabilities XML, as far as it matters here. */
import { childOf, childrenOf, elementAt, parseXml, rootOf, textOf } from './xml.ts';

export interface GuestArchitecture {
  emulator: string;
  /** Types of domain that libvirt believes in. */
  domainTypes: string[];
  /** Versioned machine types, without aliases. */
  machines: string[];
}

export interface Capabilities {
  /** Of the host. */
  architecture: string;
  /** By architecture of the guest. */
  guests: Record<string, GuestArchitecture>;
}

export function parseCapabilities(xml: string): Capabilities {
  const root = rootOf(parseXml(xml, 'libvirt’s capabilities', 'LibvirtFailed'));
  const guests: Record<string, GuestArchitecture> = {};
  for (const guest of childrenOf(root, 'guest')) {
    const arch = childOf(guest, 'arch');
    const name = arch?.getAttribute('name');
    if (!name) continue;
    guests[name] = {
      emulator: textOf(childOf(arch, 'emulator')),
      domainTypes: childrenOf(arch, 'domain').map((domain) => domain.getAttribute('type') ?? ''),
      machines: childrenOf(arch, 'machine')
        .filter((machine) => !machine.hasAttribute('canonical'))
        .map(textOf),
    };
  }
  return { architecture: textOf(elementAt(root, 'host', 'cpu', 'arch')), guests };
}
