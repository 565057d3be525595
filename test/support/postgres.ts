/**
 * A private PostgreSQL cluster for tests: in a temporary folder, reached through a Unix socket there, nothing on TCP.
 * Debian's programs refuse to run as root, so they run as the user `postgres`.
 */
import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { access, chmod, chown, mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir, userInfo } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import pg from 'pg';

const run = promisify(execFile);

export interface TestPostgres {
  /** For the superuser, or for `role`, who has no password here. */
  url(database: string, role?: string): string;
  /** A fresh database, empty or like `template`, to which nobody may be connected; its name. */
  createDatabase(template?: string): Promise<string>;
  /** Ends all sessions at once, as a crash of the server would. */
  kill(): Promise<void>;
  /** Starts the server again after `kill`. */
  restart(): Promise<void>;
  /** Ends the server and removes its folder. */
  stop(): Promise<void>;
}

/** `false`, or why tests that need PostgreSQL cannot run: the `skip` option of node:test. */
export async function postgresMissing(): Promise<string | false> {
  if (!(await programs())) return 'no PostgreSQL server programs under /usr/lib/postgresql: run `npm run setup`';
  if (userInfo().uid === 0 && !(await postgresUser()))
    return 'PostgreSQL refuses to run as root, and there is no user postgres';
  return false;
}

export async function startPostgres(): Promise<TestPostgres> {
  const bin = await programs();
  if (!bin) throw new Error(String(await postgresMissing()));
  const folder = await mkdtemp(join(tmpdir(), 'vmferry-pg-'));
  const data = join(folder, 'data');
  const user = await postgresUser();
  const asPostgres = user ? ['setpriv', `--reuid=${user.uid}`, `--regid=${user.gid}`, '--clear-groups'] : [];
  if (user) await chown(folder, user.uid, user.gid);
  await chmod(folder, 0o700);
  const initdb = [...asPostgres, join(bin, 'initdb'), '-D', data, '-U', 'postgres', '-A', 'trust'];
  await execute([...initdb, '--no-sync', '--no-locale', '-E', 'UTF8']);

  // The kernel ends the server with this process, however this process ends; fsync would only test the disk.
  const server = ['setpriv', '--pdeathsig', 'INT', ...asPostgres.slice(1), join(bin, 'postgres'), '-D', data];
  server.push('-k', folder, '-h', '', '-F', '-c', 'max_connections=200');
  const url = (database: string, role = 'postgres'): string =>
    `postgres://${role}@/${database}?host=${encodeURIComponent(folder)}`;
  let child = await start(server, url('postgres'));
  return {
    url,
    createDatabase: async (template = 'template1') => {
      const database = `t${process.hrtime.bigint()}`;
      await statement(url('postgres'), `CREATE DATABASE ${database} TEMPLATE ${template}`);
      return database;
    },
    kill: async () => await end(child, 'SIGQUIT'),
    restart: async () => {
      child = await start(server, url('postgres'));
    },
    stop: async () => {
      await end(child, 'SIGINT');
      await rm(folder, { recursive: true, force: true });
    },
  };
}

async function start(command: string[], url: string): Promise<ReturnType<typeof spawn>> {
  const [program = '', ...args] = command;
  const child = spawn(program, args, { stdio: ['ignore', 'ignore', 'pipe'], cwd: '/' });
  let complaint = '';
  child.stderr.on('data', (chunk: Buffer) => (complaint = (complaint + chunk.toString()).slice(-2000)));
  for (let attempt = 1; ; attempt++) {
    try {
      await statement(url, 'SELECT 1');
      return child;
    } catch (error) {
      if (attempt < 300 && child.exitCode === null && child.signalCode === null) {
        await sleep(50);
        continue;
      }
      await end(child, 'SIGQUIT');
      throw new Error(`PostgreSQL did not start: ${complaint.trim()}`, { cause: error });
    }
  }
}

async function end(child: ReturnType<typeof spawn>, signal: 'SIGINT' | 'SIGQUIT'): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const exited = once(child, 'exit');
  child.kill(signal);
  await exited;
}

async function statement(url: string, text: string): Promise<void> {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  try {
    await client.query(text);
  } finally {
    await client.end();
  }
}

async function execute(command: string[]): Promise<void> {
  const [program = '', ...args] = command;
  await run(program, args, { cwd: '/' });
}

/** Folder of the newest installed server programs. */
async function programs(): Promise<string | null> {
  const root = '/usr/lib/postgresql';
  const versions = await readdir(root).catch(() => []);
  for (const version of versions.sort((a, b) => Number(b) - Number(a))) {
    const bin = join(root, version, 'bin');
    if (await exists(join(bin, 'initdb'))) return bin;
  }
  return null;
}

/** The user as whom root runs PostgreSQL; null when this process is not root, and runs it itself. */
async function postgresUser(): Promise<{ uid: number; gid: number } | null> {
  if (userInfo().uid !== 0) return null;
  const id = async (flag: string): Promise<number> => Number((await run('id', [flag, 'postgres'])).stdout);
  return await Promise.all([id('-u'), id('-g')]).then(
    ([uid, gid]) => ({ uid, gid }),
    () => null,
  );
}

async function exists(path: string): Promise<boolean> {
  return await access(path).then(
    () => true,
    () => false,
  );
}
