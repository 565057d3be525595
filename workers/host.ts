#!/usr/bin/env node
/** The worker of one host: polls its queue, serves packages to its peers. Needs root, libvirt, and the pool's public key. */
import { once } from 'node:events';
import { parseArgs } from 'node:util';
import { setTimeout as sleep } from 'node:timers/promises';
import { Worker } from '@temporalio/worker';
import { createHostActivities } from '../activities/host.ts';
import { readSelfRecord } from '../activities/describe-host.ts';
import type { HostContext } from '../activities/host-context.ts';
import { inspectHost } from '../activities/inspect-host.ts';
import { createLibvirtHypervisor } from '../activities/hypervisor/libvirt-hypervisor.ts';
import { createGuestNetwork } from '../activities/network/libvirt-guest-network.ts';
import { makeDirectory } from '../activities/records/durable.ts';
import { Layout } from '../activities/records/layout.ts';
import { createPackageServer } from '../activities/transfer/package-server.ts';
import { ensureHostKeys } from '../activities/trust/keys.ts';
import { Ledger } from '../activities/trust/ledger.ts';
import { PoolTrust } from '../activities/trust/pool.ts';
import { hostQueue } from '../workflows/contract.ts';
import { ConfigError, HostConfig, readConfig } from './config.ts';
import { Draining } from './draining.ts';
import { activityInterceptors } from './interceptors.ts';
import { connect, HEARTBEAT_INTERVAL, installRuntime, log } from './temporal.ts';
import { version } from './version.ts';

const USAGE = 'usage: vmferry-host --config FILE [--print-fingerprint]';

async function main(): Promise<void> {
  const { values } = parseArgs({ options: { config: { type: 'string' }, 'print-fingerprint': { type: 'boolean' } } });
  const config = await readConfig(values.config ?? '/etc/vmferry/host.json', HostConfig);
  const layout = new Layout(config.stateDirectory, config.name);
  const keys = await ensureHostKeys(layout.keys, config.name);
  if (values['print-fingerprint']) {
    process.stdout.write(`${keys.fingerprint}\n`);
    return;
  }
  const pool = await PoolTrust.load(config.poolDirectory);
  if (!pool) throw new ConfigError(`there is no pool.pub in ${config.poolDirectory}; copy the operator’s there`);

  for (const folder of [layout.images, layout.instances, layout.moves, layout.packages, layout.staging])
    await makeDirectory(folder);
  const hypervisor = await createLibvirtHypervisor({ uri: config.libvirtUri });
  const network = createGuestNetwork({ uri: config.libvirtUri, layout });
  const ledger = new Ledger({ layout, keys, pool, selfRecord: () => readSelfRecord(layout) });
  const host: HostContext = { name: config.name, layout, keys, pool, ledger, hypervisor, network };

  installRuntime();
  await untilItWorks('the guest network is not ready; is libvirtd running?', () => network.ensure());

  await reconcile(host);

  const server = createPackageServer({
    ...host,
    onError: (request, error) => log('WARN', `package server: ${request}`, { error }),
  });
  const [address, port] = splitEndpoint(config.listen);
  server.listen(port, address);
  await once(server, 'listening');

  const connection = await connect(config.temporal);
  const draining = new Draining(config.stopSeconds);
  const worker = await Worker.create({
    connection,
    namespace: config.temporal.namespace,
    taskQueue: hostQueue(config.name),
    identity: `host ${config.name}`,
    activities: createHostActivities(host, {
      addresses: config.addresses,
      location: config.location,
      vmferryVersion: version,
    }),
    interceptors: { activity: activityInterceptors(draining, config.faultPoints) },
    // The frontend counts pollers per namespace (default 1200): two for a host let six hundred hosts in.
    activityTaskPollerBehavior: { type: 'simple-maximum', maximum: 2 },
    maxConcurrentActivityTaskExecutions: 32,
    ...draining.options,
    maxHeartbeatThrottleInterval: HEARTBEAT_INTERVAL,
    defaultHeartbeatThrottleInterval: HEARTBEAT_INTERVAL,
  });
  process.stdout.write(`ready ${config.name}\n`);
  await draining.run(worker);
  // Peers that fetch from here go on when the next worker serves. A call into libvirt that was handed over would hold the
  // process until it returns; libvirt goes on with it without us.
  process.exit(0);
}

/**
 * Before the first step: what a crash, a power loss or a person has left behind is told, and mended where that is provably
 * safe. It keeps nobody from working: what cannot be looked at now is looked at by `vmferry doctor`.
 */
async function reconcile(host: HostContext): Promise<void> {
  try {
    const { findings, busy } = await inspectHost(host, { instanceId: null, mend: true, alone: true });
    for (const { type, severity, subject, found, expected, advice, mended, mendFailure } of findings) {
      const level = severity === 'info' ? 'INFO' : 'WARN';
      const said = `${subject}: found ${found}; expected ${expected}`;
      log(level, said, mended === true ? { type, mended } : { type, advice, mendFailure });
    }
    if (busy.length > 0) log('WARN', 'another worker of this host is at work on instances', { busy });
  } catch (error) {
    log('ERROR', 'this host could not be compared with its records; `vmferry doctor` tries again', { error });
  }
}

async function untilItWorks(what: string, run: () => Promise<void>): Promise<void> {
  for (let wait = 500; ; wait = Math.min(wait * 2, 10_000)) {
    try {
      return await run();
    } catch (error) {
      log('WARN', what, { error });
      await sleep(wait);
    }
  }
}

function splitEndpoint(endpoint: string): [string, number] {
  const colon = endpoint.lastIndexOf(':');
  return [endpoint.slice(0, colon).replace(/^\[|\]$/g, ''), Number(endpoint.slice(colon + 1))];
}

main().catch((error: unknown) => {
  if (error instanceof ConfigError) {
    process.stderr.write(`vmferry-host: ${error.message}\n`);
    process.exit(2);
  }
  if (error instanceof TypeError && 'code' in error && String(error.code).startsWith('ERR_PARSE_ARGS')) {
    process.stderr.write(`vmferry-host: ${error.message}\n${USAGE}\n`);
    process.exit(2);
  }
  log('ERROR', 'the host worker ended', { error });
  process.exit(1);
});
