/** What the hosts have in common: Temporal between them, the catalog's database and the control worker on the machine. */
import { existsSync } from 'node:fs';
import { chown, mkdir, readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { Connection } from '@temporalio/client';
import { run } from '../../activities/exec/run.ts';
import { writeDurable } from '../../activities/records/durable.ts';
import { CONTROL_QUEUE, searchAttributes } from '../../workflows/contract.ts';
import { VmferryError } from '../../workflows/failures.ts';
import { temporalBinary } from '../temporal.ts';
import { REPOSITORY } from './host.ts';
import {
  end,
  family,
  find,
  helperEnvironment,
  namespaceOf,
  startDaemon,
  thaw,
  type Argv,
  type Process,
} from './processes.ts';

export type ControlDaemon = 'worker' | 'temporal' | 'postgres';

export interface ControlSettings {
  /** `host:port` at which Temporal serves hosts and clients. */
  temporal: string;
  /** The process whose network namespace Temporal shares. */
  wan: () => Process;
  catalogPort: number;
  passwords: { owner: string; reader: string };
}

const DATABASE = 'vmferry';
const OWNER = 'vmferry';
const READER = 'vmferry_reader';

/** The catalog's address for a role, on the machine. */
const catalogUrl = (role: string, password: string, port: number): string =>
  `postgres://${role}:${password}@127.0.0.1:${port}/${DATABASE}`;

export class Control {
  readonly #testbed: string;
  readonly #settings: ControlSettings;

  constructor(testbed: string, settings: ControlSettings) {
    this.#testbed = testbed;
    this.#settings = settings;
  }

  /** For clients: sees everything, changes nothing. */
  get catalogUrl(): string {
    return catalogUrl(READER, this.#settings.passwords.reader, this.#settings.catalogPort);
  }

  log(what: ControlDaemon): string {
    return join(this.#testbed, 'log', `${what}.log`);
  }

  daemon(what: ControlDaemon): Process | null {
    return find(this.#testbed, `control/${what}`);
  }

  /** One of them and what it has started itself. */
  family(what: ControlDaemon): Process[] {
    if (what !== 'postgres') return family(this.#testbed, `control/${what}`);
    // Its processes put titles where their marks were.
    const postmaster = this.daemon(what);
    return postmaster ? namespaceOf(postmaster) : [];
  }

  /** Starts one of them and waits until it serves. No-op while it runs. */
  async start(what: ControlDaemon): Promise<void> {
    switch (what) {
      case 'temporal':
        return this.#startTemporal();
      case 'postgres':
        return this.#startPostgres();
      case 'worker':
        return this.#startWorker();
    }
  }

  /** Ends one of them. What it has started learns of that in its own way, even if it was frozen. No-op while it does not run. */
  async end(what: ControlDaemon, name?: NodeJS.Signals): Promise<void> {
    const daemon = this.daemon(what);
    if (daemon) await end([daemon], name);
    await thaw(() => this.family(what));
  }

  async #startTemporal(): Promise<void> {
    const { temporal, wan } = this.#settings;
    const folder = join(this.#testbed, 'temporal');
    await mkdir(folder, { recursive: true });
    const attributes = Object.values(searchAttributes).map(({ name }) => name);
    const command: Argv = [
      await temporalProgram(),
      ...['server', 'start-dev', '--log-level', 'warn', '--db-filename', join(folder, 'temporal.db')],
      // Its parts talk to one another on the loopback, and the hosts to it on the bridge. Nobody else is in that namespace.
      ...['--ip', '0.0.0.0', '--port', temporal.split(':')[1] ?? '', '--ui-ip', '0.0.0.0', '--ui-port', '8233'],
      ...attributes.flatMap((name) => ['--search-attribute', `${name}=Keyword`]),
      // Out of the box the server hands out at most 20 tasks a second; every step of a move would cost 100 ms more.
      ...['--dynamic-config-value', 'history.transferProcessorMaxPollRPS=1000'],
      ...['--dynamic-config-value', 'history.timerProcessorMaxPollRPS=1000'],
    ];
    await startDaemon({
      ...this.#machine('temporal'),
      command,
      within: (launched) => ['nsenter', '-t', String(wan().pid), '-n', '--', ...launched],
      ready: () => serves(temporal, attributes),
    });
  }

  async #startPostgres(): Promise<void> {
    const { catalogPort } = this.#settings;
    const binaries = await postgresBinaries();
    const home = join(this.#testbed, 'postgres');
    const user = await userIds('postgres');
    await mkdir(home, { recursive: true });
    await chown(home, user.uid, user.gid);
    // It may not look into the testbed's directory wherever that is; in a mount namespace it finds its own files where
    // Debian keeps them. The PID and IPC namespaces take its children and shared memory away with it, even after SIGKILL.
    const bind = 'mount --bind "$0" /var/lib/postgresql && cd /var/lib/postgresql && exec "$@"';
    const asPostgres = [
      'setpriv',
      '--reuid',
      String(user.uid),
      '--regid',
      String(user.gid),
      '--clear-groups',
      '--',
    ] as const;
    const privately = (command: Argv): Argv => [
      ...(['unshare', '--mount', '--ipc', '--pid', '--fork', '--kill-child', '--mount-proc', '--'] as const),
      ...['bash', '-c', bind, home],
      ...command,
    ];
    if (!existsSync(join(home, 'data'))) {
      const script = [
        `CREATE ROLE ${OWNER} LOGIN PASSWORD '${this.#settings.passwords.owner}';`,
        `CREATE ROLE ${READER} LOGIN PASSWORD '${this.#settings.passwords.reader}' IN ROLE pg_read_all_data;`,
        `ALTER ROLE ${READER} SET default_transaction_read_only = on;`,
        `CREATE DATABASE ${DATABASE} OWNER ${OWNER};`,
      ];
      const make = `set -e
        rm -rf new
        ${binaries}/initdb --pgdata new --auth-host scram-sha-256 --auth-local reject --encoding UTF8 --locale C.UTF-8 --no-sync
        ${binaries}/postgres --single -D new -c log_checkpoints=off postgres
        mv new data`;
      const [program, ...args] = privately([...asPostgres, 'bash', '-c', make]);
      await run(program, args, {
        input: `${script.join('\n')}\n`,
        timeout: 120_000,
        env: helperEnvironment(this.#testbed),
      });
    }
    const options = {
      port: String(catalogPort),
      listen_addresses: '127.0.0.1',
      unix_socket_directories: '',
      // In files of the data directory, so that SIGKILL leaves nothing in the machine's /dev/shm.
      dynamic_shared_memory_type: 'mmap',
    };
    const settings = Object.entries(options).flatMap(([name, value]) => ['-c', `${name}=${value}`]);
    await startDaemon({
      ...this.#machine('postgres'),
      command: [...asPostgres, `${binaries}/postgres`, '-D', 'data', ...settings],
      within: privately,
      ready: () => answers(`${binaries}/pg_isready`, catalogPort),
    });
  }

  async #startWorker(): Promise<void> {
    const { temporal, catalogPort, passwords } = this.#settings;
    const configuration = {
      temporal: { address: temporal, namespace: 'default' },
      catalog: catalogUrl(OWNER, passwords.owner, catalogPort),
      faultPoints: join(this.#testbed, 'faults'),
    };
    const path = join(this.#testbed, 'control.json');
    await writeDurable(path, `${JSON.stringify(configuration, null, 2)}\n`, { mode: 0o600 });
    const command: Argv = [process.execPath, join(REPOSITORY, 'workers/control.ts'), '--config', path];
    await startDaemon({ ...this.#machine('worker'), command, ready: /^ready\b/m });
  }

  #machine(what: ControlDaemon): { directory: string; part: string; log: string } {
    return { directory: this.#testbed, part: `control/${what}`, log: this.log(what) };
  }
}

async function temporalProgram(): Promise<string> {
  const program = await temporalBinary();
  if (program === null)
    throw new VmferryError('FileNotFound', 'There is no `temporal` program; `npm run setup` gets it');
  return program;
}

/** Folder of the newest PostgreSQL that Debian has installed. */
async function postgresBinaries(): Promise<string> {
  const root = '/usr/lib/postgresql';
  const versions = existsSync(root) ? (await readdir(root)).map(Number).filter((version) => version > 0) : [];
  if (versions.length === 0) {
    throw new VmferryError(
      'FileNotFound',
      `There is no PostgreSQL server under ${root}; \`npm run setup\` installs it`,
    );
  }
  return join(root, String(Math.max(...versions)), 'bin');
}

async function userIds(name: string): Promise<{ uid: number; gid: number }> {
  const id = async (flag: string): Promise<number> => Number((await run('id', [flag, name])).stdout);
  return { uid: await id('-u'), gid: await id('-g') };
}

/** Can the server start workflows, and does it know the search attributes? It registers them after it has begun to serve. */
async function serves(address: string, attributes: string[]): Promise<boolean> {
  try {
    const connection = await Connection.connect({ address, connectTimeout: '2s' });
    try {
      const { operatorService, workflowService } = connection;
      const known = await operatorService.listSearchAttributes({ namespace: 'default' });
      await workflowService.describeTaskQueue({ namespace: 'default', taskQueue: { name: CONTROL_QUEUE } });
      return attributes.every((name) => name in known.customAttributes);
    } finally {
      await connection.close();
    }
  } catch {
    return false; // not yet
  }
}

/** Does PostgreSQL answer? It listens long before, when it was killed and has to recover first. */
async function answers(pgIsReady: string, port: number): Promise<boolean> {
  const [rejects, silent] = [1, 2];
  const arguments_ = ['--quiet', '--host', '127.0.0.1', '--port', String(port)];
  return (await run(pgIsReady, arguments_, { okExitCodes: [0, rejects, silent] })).exitCode === 0;
}
