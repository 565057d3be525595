import type { Address, InstanceId } from '../../workflows/contract.ts';
import { VmferryError } from '../../workflows/failures.ts';
import type { Transaction } from './catalog.ts';

/** 10.77.0.0 is the network, 10.77.0.1 the gateway of every host, 10.77.255.255 the broadcast address. */
const FIRST = '10.77.0.2';
const LAST = '10.77.255.254';

/**
 * Lets one transaction at a time hand out or free addresses, until it ends; readers go on. Taken before any row is
 * locked, so that two of them never wait for one another.
 */
export async function lockAddresses(tx: Transaction): Promise<void> {
  await tx.run('LOCK TABLE addresses IN SHARE ROW EXCLUSIVE MODE');
}

/**
 * The lowest free address of the pool. Needs `lockAddresses`, without which two callers would find the same one.
 *
 * @throws InUse if there is none
 */
export async function lowestFreeAddress(tx: Transaction): Promise<string> {
  const free = await tx.row<{ ip: string }>(
    `SELECT host(ip) AS ip FROM (SELECT inet '${FIRST}' AS ip UNION SELECT ip + 1 FROM addresses) AS candidates
     WHERE ip <= inet '${LAST}' AND NOT EXISTS (SELECT FROM addresses a WHERE a.ip = candidates.ip)
     ORDER BY candidates.ip LIMIT 1`,
  );
  if (!free) throw new VmferryError('InUse', `every address from ${FIRST} to ${LAST} is in use`);
  return free.ip;
}

/** Gives an address to an instance; the MAC follows from it (52:54:00 and the last three octets). */
export async function assignAddress(tx: Transaction, ip: string, instanceId: InstanceId): Promise<void> {
  await tx.run('INSERT INTO addresses (ip, instance_id) VALUES ($1, $2)', [ip, instanceId]);
}

/** The address that an instance uses. */
export async function addressOf(tx: Transaction, instanceId: InstanceId): Promise<Address> {
  const address = await tx.row<Address>(
    'SELECT host(a.ip) AS ip, a.mac FROM addresses a JOIN instances i ON i.id = a.instance_id AND i.ip = a.ip WHERE i.id = $1',
    [instanceId],
  );
  if (!address) throw new VmferryError('InstanceNotFound', `there is no instance ${instanceId}`);
  return address;
}
