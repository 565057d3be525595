/** What the steps of one host share. Made once by workers/host.ts. */
import type { HostId } from '../workflows/contract.ts';
import type { Hypervisor } from './hypervisor/hypervisor.ts';
import type { GuestNetwork } from './network/guest-network.ts';
import type { Layout } from './records/layout.ts';
import type { HostKeys } from './trust/keys.ts';
import type { Ledger } from './trust/ledger.ts';
import type { PoolTrust } from './trust/pool.ts';

export interface HostContext {
  readonly name: HostId;
  readonly layout: Layout;
  readonly keys: HostKeys;
  readonly pool: PoolTrust;
  readonly ledger: Ledger;
  readonly hypervisor: Hypervisor;
  readonly network: GuestNetwork;
}
