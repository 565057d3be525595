/** The guest network in memory. */
import { tapName } from '../../activities/network/anti-spoofing.ts';
import type { GuestNetwork } from '../../activities/network/guest-network.ts';
import type { Address, InstanceId } from '../../workflows/contract.ts';
import { VmferryError } from '../../workflows/failures.ts';

export class FakeGuestNetwork implements GuestNetwork {
  readonly #admitted = new Map<InstanceId, { name: string; address: Address }>();
  /** Entries that somebody else made. */
  strangeEntries: { mac: string | null; ip: string | null }[] = [];

  /** The address of an instance that is admitted, for tests. */
  entry(instanceId: InstanceId): Address | null {
    return this.#admitted.get(instanceId)?.address ?? null;
  }

  ensure(): Promise<void> {
    return Promise.resolve();
  }

  tapName(instanceId: InstanceId): string {
    return tapName(instanceId);
  }

  async admit(instanceId: InstanceId, name: string, address: Address): Promise<void> {
    await Promise.resolve();
    const { ip, mac } = { ip: address.ip, mac: address.mac.toLowerCase() };
    if (!/^\d+(\.\d+){3}$/.test(ip) || !/^([0-9a-f]{2}:){5}[0-9a-f]{2}$/.test(mac)) {
      throw new VmferryError('InvalidInput', `no address of a guest: ${ip}, ${mac}`);
    }
    for (const [id, { address: other }] of this.#admitted) {
      if (id !== instanceId && (other.ip === ip || other.mac === mac)) {
        throw new VmferryError('AlreadyExists', `address ${ip} (${mac}) is in use by instance ${id}`);
      }
    }
    this.#admitted.set(instanceId, { name, address: { ip, mac } });
  }

  expel(instanceId: InstanceId): Promise<void> {
    this.#admitted.delete(instanceId);
    return Promise.resolve();
  }

  admitted(): Promise<{ instanceId: InstanceId; name: string; address: Address }[]> {
    return Promise.resolve([...this.#admitted].map(([instanceId, entry]) => ({ instanceId, ...entry })));
  }

  strangers(): Promise<{ mac: string | null; ip: string | null }[]> {
    return Promise.resolve(this.strangeEntries);
  }
}
