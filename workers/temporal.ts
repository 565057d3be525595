/** What both workers need of Temporal: runtime, logging, a connection that waits for its server. */
import { readFile } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { DefaultLogger, NativeConnection, Runtime, type LogLevel } from '@temporalio/worker';
import type { TemporalConfig } from './config.ts';

/** JSON lines on standard error. Levels: TRACE, DEBUG, INFO, WARN, ERROR; environment VMFERRY_LOG. */
export function installRuntime(): void {
  const level = (process.env['VMFERRY_LOG'] ?? 'INFO').toUpperCase() as LogLevel;
  Runtime.install({
    logger: new DefaultLogger(level, ({ level, message, timestampNanos, meta }) =>
      log(level, message, meta, timestampNanos),
    ),
  });
}

export function log(level: string, message: string, meta?: object, timestampNanos?: bigint): void {
  const time = timestampNanos === undefined ? new Date() : new Date(Number(timestampNanos / 1_000_000n));
  process.stderr.write(`${JSON.stringify({ time: time.toISOString(), level, message, ...meta }, plain)}\n`);
}

/** Errors and big integers are not JSON by themselves. */
function plain(_key: string, value: unknown): unknown {
  if (value instanceof Error) return { name: value.name, message: value.message, stack: value.stack };
  return typeof value === 'bigint' ? value.toString() : value;
}

/** Connects, however long the server takes to come: a worker is started once and left alone. */
export async function connect(config: TemporalConfig): Promise<NativeConnection> {
  const tls = config.tls && {
    serverRootCACertificate: await readFile(config.tls.caFile),
    clientCertPair: { crt: await readFile(config.tls.certFile), key: await readFile(config.tls.keyFile) },
    ...(config.tls.serverName !== undefined && { serverNameOverride: config.tls.serverName }),
  };
  for (let wait = 500; ; wait = Math.min(wait * 2, 10_000)) {
    try {
      return await NativeConnection.connect({ address: config.address, ...(tls && { tls }) });
    } catch (error) {
      log('WARN', `Temporal at ${config.address} does not answer yet`, { error });
      await sleep(wait);
    }
  }
}

/** Heartbeats are sent at most this often, so that progress is live and cancellation quick. */
export const HEARTBEAT_INTERVAL = '1s';
