/** What this host says of itself, for `nodes add`, and the keeping of the record once the pool key has signed it. */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { HostActivities, HostRecord, SignedText } from '../workflows/contract.ts';
import { VmferryError } from '../workflows/failures.ts';
import type { HostContext } from './host-context.ts';
import { makeDirectory, writeDurable } from './records/durable.ts';
import type { Layout } from './records/layout.ts';

export interface HostIdentity {
  addresses: string[];
  location: string;
  vmferryVersion: string;
}

const selfRecordPath = (layout: Layout): string => join(layout.keys, 'self.asc');

/**
 * The host's own certified record; every chain that it signs a link of carries it.
 *
 * @throws HostNotCertified while the pool has not certified this host
 */
export async function readSelfRecord(layout: Layout): Promise<SignedText> {
  return readFile(selfRecordPath(layout), 'utf8').catch((error: unknown) => {
    throw new VmferryError('HostNotCertified', 'this host has not been added to the pool', { cause: error });
  });
}

export function createDescribeHost(host: HostContext, identity: HostIdentity): HostActivities['describeHost'] {
  return async () => {
    const facts = await host.hypervisor.facts();
    const record: HostRecord = {
      version: 1,
      name: host.name,
      fingerprint: host.keys.fingerprint,
      publicKey: host.keys.armoredPublicKey,
      tlsCertificate: host.keys.tls.cert,
      addresses: identity.addresses,
      location: identity.location,
      architecture: facts.architecture,
    };
    return {
      record,
      poolFingerprint: host.pool.fingerprint,
      vmferryVersion: identity.vmferryVersion,
      libvirtVersion: facts.libvirtVersion,
      qemuVersion: facts.qemuVersion,
      domainTypes: facts.domainTypes,
    };
  };
}

export function createKeepRecord(host: HostContext): HostActivities['keepRecord'] {
  return async ({ record }) => {
    const { name, fingerprint } = await host.pool.verifyHost(record);
    if (name !== host.name || fingerprint !== host.keys.fingerprint) {
      throw new VmferryError(
        'HostNotCertified',
        `the record is of ${name} (${fingerprint}), this is ${host.name} (${host.keys.fingerprint})`,
      );
    }
    await makeDirectory(host.layout.keys);
    await writeDurable(selfRecordPath(host.layout), record);
  };
}
