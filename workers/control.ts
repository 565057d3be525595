#!/usr/bin/env node
/** The control worker: runs workflows and catalog activities. Any number may run. `migrate` sets up the catalog and ends. */
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { Worker } from '@temporalio/worker';
import { Catalog } from '../activities/catalog/catalog.ts';
import { migrateCatalog } from '../activities/catalog/migrate.ts';
import { createControlActivities } from '../activities/control.ts';
import { run } from '../activities/exec/run.ts';
import { CONTROL_QUEUE } from '../workflows/contract.ts';
import { ConfigError, ControlConfig, readConfig } from './config.ts';
import { Draining } from './draining.ts';
import { activityInterceptors } from './interceptors.ts';
import { ensureScrubSchedule } from './scrub-schedule.ts';
import { connect, HEARTBEAT_INTERVAL, installRuntime, log } from './temporal.ts';

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
  const workflowBundle = await bundleWorkflows();
  const draining = new Draining(config.stopSeconds);
  const worker = await Worker.create({
    connection,
    namespace: config.temporal.namespace,
    taskQueue: CONTROL_QUEUE,
    identity: `control ${process.pid}`,
    workflowBundle,
    activities: createControlActivities(catalog),
    interceptors: { activity: activityInterceptors(draining, config.faultPoints) },
    // How long a workflow waits for the worker that has it in memory before any other takes it over. A control worker may
    // die in a blackout, and to replay a move's history takes milliseconds; the default is ten seconds.
    stickyQueueScheduleToStartTimeout: '2s',
    ...draining.options,
    maxHeartbeatThrottleInterval: HEARTBEAT_INTERVAL,
  });
  process.stdout.write('ready control\n');
  // Beside the worker's own work: no move waits for it.
  void ensureScrubSchedule(connection, config.temporal.namespace);
  await draining.run(worker);
  // An activity that was left behind would hold the connection; its transaction ends with it.
  process.exit(0);
}

/** The bundle in memory; made by a program of its own, so that what the bundler takes is given back. */
async function bundleWorkflows(): Promise<{ code: string }> {
  const folder = await mkdtemp(join(tmpdir(), 'vmferry-workflows-'));
  try {
    const file = join(folder, 'bundle.js');
    const program = fileURLToPath(new URL(`./bundle-workflows${import.meta.url.slice(-3)}`, import.meta.url));
    await run(process.execPath, [program, file]);
    return { code: await readFile(file, 'utf8') };
  } finally {
    await rm(folder, { recursive: true, force: true });
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
