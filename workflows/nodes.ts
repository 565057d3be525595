import type { AddNodeInput, Host, HostDescription, HostId } from './contract.ts';
import { failure } from './failing.ts';
import { onControl, onHost } from './options.ts';
import { tell } from './tell.ts';

/** Asks a host what it says of itself; nobody believes it yet. */
export async function describeNode({ host }: { host: HostId }): Promise<HostDescription> {
  tell(`Asks **${host}** for its record.`, { source: host });
  return await onHost(host, { summary: `Who is ${host}?` }).describeHost();
}

/**
 * Adds a host whose record the pool key has certified. The host itself checks the certificate, and that it is of its own
 * name and key, before it keeps the record; so a record of somebody else reaches the catalog from no host's queue.
 */
export async function addNode({ host, record }: AddNodeInput): Promise<Host> {
  tell(`Adds **${host}** to the pool.`, { source: host });
  const { record: own, poolFingerprint } = await onHost(host, { summary: `Who is ${host}?` }).describeHost();
  if (own.name !== host)
    throw failure('HostNotCertified', `The host that answers for ${host} calls itself ${own.name}`);
  if (poolFingerprint === null) throw failure('PoolMismatch', `Host ${host} has no pool key installed`);
  await onHost(host, { summary: 'Check the record and keep it' }).keepRecord({ record });
  const known = await onControl({ summary: `${host} joins the pool` }).recordHost({ record });
  if (known.id !== host || known.fingerprint !== own.fingerprint) {
    throw failure(
      'HostNotCertified',
      `The record is of ${known.id} (${known.fingerprint}), host ${host} has key ${own.fingerprint}`,
    );
  }
  return known;
}
