#!/usr/bin/env node
/**
 * Checks a package in a folder, with this host's keys and its pool's public key alone: no network, no catalog, no worker.
 * Prints its facts as JSON, or `{ type, message }` with exit code 1. `vmferry packages verify FOLDER` runs it.
 */
import { parseArgs } from 'node:util';
import { verifyFolder } from '../activities/package/verify-file.ts';
import { exists } from '../activities/records/durable.ts';
import { Layout } from '../activities/records/layout.ts';
import { ensureHostKeys } from '../activities/trust/keys.ts';
import { PoolTrust } from '../activities/trust/pool.ts';
import { VmferryError } from '../workflows/failures.ts';
import { ConfigError, HostConfig, readConfig } from './config.ts';

const { values, positionals } = parseArgs({ options: { config: { type: 'string' } }, allowPositionals: true });

try {
  const [folder] = positionals;
  if (folder === undefined) throw new VmferryError('InvalidInput', 'name the folder of a package');
  if (!(await exists(folder))) throw new VmferryError('FileNotFound', `there is no ${folder} on this machine`);
  const config = await readConfig(values.config ?? '/etc/vmferry/host.json', HostConfig);
  const pool = await PoolTrust.load(config.poolDirectory);
  if (!pool) throw new ConfigError(`there is no pool.pub in ${config.poolDirectory}`);
  const keys = await ensureHostKeys(new Layout(config.stateDirectory).keys, config.name);
  const work = { signal: new AbortController().signal, onProgress: (): void => undefined };
  process.stdout.write(`${JSON.stringify(await verifyFolder({ folder, keys, pool, work }))}\n`);
} catch (error) {
  const type = error instanceof VmferryError ? error.type : error instanceof ConfigError ? 'InvalidInput' : 'Internal';
  process.stdout.write(`${JSON.stringify({ type, message: (error as Error).message })}\n`);
  process.exitCode = 1;
}
