#!/usr/bin/env node
/** The control worker: runs workflows and catalog activities. Any number may run. `migrate` sets up the catalog and ends. */
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { Worker } from '@temporalio/worker';
import { Catalog } from '../activities/catalog/catalog.ts';
import { migrateCatalog } from '../activities/catalog/migrate.ts';
import { createControlActivities } from '../activities/control.ts';
import { CONTROL_QUEUE } from '../workflows/contract.ts';
import { ConfigError, ControlConfig, readConfig } from './config.ts';
import { activityInterceptors } from './interceptors.ts';
import { connect, HEARTBEAT_INTERVAL, installRuntime, log, SHUTDOWN_GRACE } from './temporal.ts';

const USAGE = 'usage: vmferry-control --config FILE [migrate]';

async function main(): Promise<void> {
  const { values, positionals } = parseArgs({ options: { config: { type: 'string' } }, allowPositionals: true });
  if (positionals.length > 1 || (positionals[0] !== undefined && positionals[0] !== 'migrate'))
    throw new ConfigError(USAGE);
  const config = await readConfig(values.config ?? '/etc/vmferry/control.json', ControlConfig);
  installRuntime();
  await migrateCatalog(config.catalog);
  if (positionals[0] === 'migrate') return;

  const catalog = new Catalog(config.catalog);
  const connection = await connect(config.temporal);
  const worker = await Worker.create({
    connection,
    namespace: config.temporal.namespace,
    taskQueue: CONTROL_QUEUE,
    identity: `control ${process.pid}`,
    workflowsPath: fileURLToPath(new URL('../workflows/index.ts', import.meta.url)),
    activities: createControlActivities(catalog),
    interceptors: { activity: activityInterceptors(config.faultPoints) },
    shutdownGraceTime: SHUTDOWN_GRACE,
    maxHeartbeatThrottleInterval: HEARTBEAT_INTERVAL,
  });
  process.stdout.write('ready control\n');
  try {
    await worker.run();
  } finally {
    await connection.close();
    await catalog.close();
  }
}

main().catch((error: unknown) => {
  if (error instanceof ConfigError) {
    process.stderr.write(`vmferry-control: ${error.message}\n`);
    process.exit(2);
  }
  log('ERROR', 'the control worker ended', { error });
  process.exit(1);
});
