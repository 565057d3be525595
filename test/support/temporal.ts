/**
 * A Temporal server for tests. Chosen by environment, never downloaded:
 *
 *   VMFERRY_TEMPORAL_ADDRESS   a running server; each call gets a namespace of its own there
 *   VMFERRY_TEMPORAL_BIN       the `temporal` program
 *   otherwise                  `temporal` on PATH, or the one that set-up has installed
 *
 * Tests skip visibly without one: `test('…', { skip: await temporalMissing() }, …)`.
 */
import { spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';
import { Connection } from '@temporalio/client';
import { msToTs } from '@temporalio/common/lib/time.js';
import proto from '@temporalio/proto';
import { temporalBinary } from '../../infra/temporal.ts';
import { searchAttributes } from '../../workflows/contract.ts';
import { freePort } from './free-port.ts';

export interface TestTemporal {
  /** `host:port` of the front end. */
  address: string;
  namespace: string;
  /** null when started without UI, or when somebody else started the server. */
  uiUrl: string | null;
  /** Of the server that `startTemporal` started; null when it was there already. */
  pid: number | null;
  /** SIGKILL to the server, as a crash. Start another one on the same port and database to go on. */
  kill(): Promise<void>;
  /** Ends what `startTemporal` began. */
  stop(): Promise<void>;
}

export interface TemporalOptions {
  /** SQLite file that outlives the server. Default: in memory. */
  database?: string;
  /** Of the front end. Default: a free one. */
  port?: number;
  ui?: boolean;
}

/** Without these the dev server hands out 20 tasks a second, and an activity costs 100 ms. */
const DYNAMIC_CONFIG = ['history.transferProcessorMaxPollRPS=1000', 'history.timerProcessorMaxPollRPS=1000'];

/** `false`, or why tests that need a Temporal server cannot run: the `skip` option of node:test. */
export async function temporalMissing(): Promise<string | false> {
  if (process.env.VMFERRY_TEMPORAL_ADDRESS || (await temporalBinary())) return false;
  return 'no Temporal server: set VMFERRY_TEMPORAL_ADDRESS or VMFERRY_TEMPORAL_BIN, or run `npm run setup`';
}

/** A server with the search attributes of the contract, ready for workers. */
export async function startTemporal(options: TemporalOptions = {}): Promise<TestTemporal> {
  const given = process.env.VMFERRY_TEMPORAL_ADDRESS;
  if (given) return await borrowServer(given);
  const binary = await temporalBinary();
  if (!binary) throw new Error(String(await temporalMissing()));
  // A port that was free may be taken by the time the server binds it.
  for (let attempt = 1; ; attempt++) {
    try {
      return await startServer(binary, options);
    } catch (error) {
      if (options.port !== undefined || attempt === 3) throw error;
    }
  }
}

async function startServer(binary: string, options: TemporalOptions): Promise<TestTemporal> {
  const port = options.port ?? (await freePort());
  const uiPort = options.ui ? await freePort() : null;
  const args = ['server', 'start-dev', '--ip', '127.0.0.1', '--port', String(port), '--log-level', 'error'];
  args.push(...(uiPort === null ? ['--headless'] : ['--ui-port', String(uiPort)]));
  if (options.database) args.push('--db-filename', options.database);
  for (const value of DYNAMIC_CONFIG) args.push('--dynamic-config-value', value);
  for (const { name, type } of Object.values(searchAttributes))
    args.push('--search-attribute', `${name}=${cliType(type)}`);

  // The kernel ends the server with this process, however this process ends.
  const server = spawn('setpriv', ['--pdeathsig', 'KILL', binary, ...args], { stdio: ['ignore', 'ignore', 'pipe'] });
  let complaint = '';
  server.stderr.on('data', (chunk: Buffer) => (complaint = (complaint + chunk.toString()).slice(-2000)));
  const address = `127.0.0.1:${port}`;
  try {
    await untilReady(address, server);
  } catch (error) {
    await end(server, 'SIGKILL');
    throw new Error(`temporal did not start on ${address}: ${complaint.trim() || 'it said nothing'}`, { cause: error });
  }
  return {
    address,
    namespace: 'default',
    uiUrl: uiPort === null ? null : `http://127.0.0.1:${uiPort}`,
    pid: server.pid ?? null,
    kill: () => end(server, 'SIGKILL'),
    stop: () => end(server, 'SIGTERM'),
  };
}

/** The dev server answers before its namespace exists: a worker that came then would fail. */
async function untilReady(address: string, server: ChildProcess): Promise<void> {
  const deadline = Date.now() + 60_000;
  for (;;) {
    try {
      const connection = await Connection.connect({ address, connectTimeout: '2s' });
      try {
        const request = { namespace: 'default' };
        await connection.withDeadline(Date.now() + 2000, () => connection.workflowService.describeNamespace(request));
        const { customAttributes } = await connection.operatorService.listSearchAttributes(request);
        if (Object.values(searchAttributes).every(({ name }) => customAttributes && name in customAttributes)) return;
        throw new Error('the search attributes are not there yet');
      } finally {
        await connection.close();
      }
    } catch (error) {
      if (server.exitCode !== null || server.signalCode !== null || Date.now() > deadline) throw error;
      await sleep(100);
    }
  }
}

async function end(server: ChildProcess, signal: 'SIGTERM' | 'SIGKILL'): Promise<void> {
  if (server.exitCode !== null || server.signalCode !== null) return;
  const exited = once(server, 'exit');
  server.kill(signal);
  const timer = setTimeout(() => server.kill('SIGKILL'), 10_000);
  await exited;
  clearTimeout(timer);
}

/** Tests share the server but not a namespace, so that their task queues of the same name do not meet. */
async function borrowServer(address: string): Promise<TestTemporal> {
  const namespace = `vmferry-test-${randomUUID()}`;
  const connection = await Connection.connect({ address });
  await connection.workflowService.registerNamespace({
    namespace,
    workflowExecutionRetentionPeriod: msToTs('1 day'),
  });
  const attributes = Object.fromEntries(
    Object.values(searchAttributes).map(({ name, type }) => [
      name,
      proto.temporal.api.enums.v1.IndexedValueType[`INDEXED_VALUE_TYPE_${type}`],
    ]),
  );
  await retry(() => connection.operatorService.addSearchAttributes({ namespace, searchAttributes: attributes }));
  const nothing = (): Promise<void> => Promise.resolve();
  return {
    address,
    namespace,
    uiUrl: null,
    pid: null,
    kill: nothing,
    stop: async () => {
      await connection.operatorService.deleteNamespace({ namespace });
      await connection.close();
    },
  };
}

/** A new namespace is known to all parts of a server after some seconds only. */
async function retry(run: () => Promise<unknown>): Promise<void> {
  for (let attempt = 1; ; attempt++) {
    try {
      await run();
      return;
    } catch (error) {
      if (attempt === 60) throw error;
      await sleep(500);
    }
  }
}

/** `KEYWORD_LIST` → `KeywordList`. */
function cliType(type: string): string {
  return type.toLowerCase().replace(/(^|_)([a-z])/g, (_, __, letter: string) => letter.toUpperCase());
}
