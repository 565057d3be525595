/**
 * The network `guests` of a host: the address, MAC, DHCP entry and anti-spoofing rule of an instance are written
 * together and removed together. Real: `libvirt-guest-network.ts`.
 */
import type { Address, InstanceId } from '../../workflows/contract.ts';

export interface GuestNetwork {
  /** Makes and starts the libvirt network and the nftables table if they are not there. Idempotent. */
  ensure(): Promise<void>;
  /** Name of the tap device that the instance's domain XML must ask for; at most 15 characters. */
  tapName(instanceId: InstanceId): string;
  /** Writes DHCP entry and anti-spoofing rule. Idempotent; replaces an entry of the same instance. */
  admit(instanceId: InstanceId, name: string, address: Address): Promise<void>;
  /** Removes both. Idempotent. */
  expel(instanceId: InstanceId): Promise<void>;
  /** Instances that have entries here. */
  admitted(): Promise<{ instanceId: InstanceId; name: string; address: Address }[]>;
  /** DHCP entries of the network that belong to no admitted instance. */
  strangers(): Promise<{ mac: string | null; ip: string | null }[]>;
}
