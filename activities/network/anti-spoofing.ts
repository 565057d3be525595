/**
 * The nftables rules that make a guest's address its identity: what enters the bridge from a tap of ours must carry the
 * MAC and the IPv4 address of the instance behind it. All else from such a tap is dropped, and so is everything from a tap
 * that no instance is admitted with.
 *
 * In the bridge family, because frames between two guests never reach the host's IP layer. Rules of libvirt's nwfilter
 * would do the same, one command at a time, and cost about three seconds of a move's blackout.
 */
import { createHash } from 'node:crypto';
import type { Address, InstanceId } from '../../workflows/contract.ts';

/** Interface names have at most 15 characters. */
export function tapName(instanceId: InstanceId): string {
  return `vf${createHash('sha256').update(instanceId).digest('hex').slice(0, 12)}`;
}

/** Where a DHCP request says for whom it is, 48 bits from bit 288 of the UDP datagram: a guest asks for itself alone. */
const DHCP_CLIENT = '@th,288,48';

/**
 * The whole table as one transaction for `nft -f`: it replaces the one that is there, with no moment in between without
 * rules. The instances' addresses must have been checked for their form; they are part of the text.
 *
 * IPv6 is dropped: the network gives out none, and a guest could speak to its neighbours under any address it likes.
 */
export function renderRules(table: string, admitted: readonly { instanceId: InstanceId; address: Address }[]): string {
  const chains = admitted.map(({ instanceId, address: { mac, ip } }) => {
    const client = `0x${mac.replaceAll(':', '')}`;
    return `
  chain ${tapName(instanceId)} {
    comment "instance ${instanceId}"
    ether saddr != ${mac} drop
    ip saddr { ${ip}, 0.0.0.0 } udp sport 68 udp dport 67 ${DHCP_CLIENT} ${client} accept
    udp dport 67 drop
    ip saddr ${ip} accept
    arp saddr ether ${mac} arp saddr ip { ${ip}, 0.0.0.0 } accept
    drop
  }`;
  });
  const taps = admitted.map(({ instanceId }) => `"${tapName(instanceId)}" : goto ${tapName(instanceId)}`);
  return `table bridge ${table} {}
delete table bridge ${table}
table bridge ${table} {${chains.join('')}
  map taps {
    type ifname : verdict
    ${taps.length > 0 ? `elements = { ${taps.join(', ')} }` : ''}
  }
  chain from_guests {
    type filter hook prerouting priority filter; policy accept;
    iifname vmap @taps
    iifname "vf*" drop
  }
}
`;
}
