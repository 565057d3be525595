/**
 * `npm run bench:against -- CHECKOUT [--moves N]`: moves of this version and of another one, by turns in one run. CHECKOUT is a
 * folder of the project at that version, set up (`npm run setup`). Each has a testbed of its own, brought up by its own code. Prints
 * minimum, median and maximum of both, and their ratio. Figures, not a test.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { execa } from 'execa';
import type { MoveResult } from '../../workflows/contract.ts';

const { values, positionals } = parseArgs({
  options: { moves: { type: 'string', default: '10' } },
  allowPositionals: true,
});
const [other] = positionals;
if (other === undefined) {
  console.error('bench: name the folder of the other version');
  process.exit(2);
}

const GUEST = '/var/lib/guest';
const BOOT = ['--kernel', `${GUEST}/vmlinuz`, '--initrd', `${GUEST}/initrd`];
const CMDLINE = ['--cmdline', 'console=ttyS0 root=/dev/vda rw quiet mitigations=off'];

interface Version {
  name: string;
  checkout: string;
  directory: string;
  instance: string;
  host: string;
  blackouts: number[];
  totals: number[];
}

const versions: Version[] = [];
try {
  for (const [name, checkout] of [
    ['other', other],
    ['this', new URL('../..', import.meta.url).pathname],
  ] as const) {
    const directory = await mkdtemp(join(tmpdir(), 'vmferry-bench-'));
    await rm(directory, { recursive: true });
    const version: Version = {
      ...{ name, checkout, directory, instance: '', host: 'alpha' },
      ...{ blackouts: [], totals: [] },
    };
    versions.push(version);
    console.error(`${name}: bringing up two hosts and a guest`);
    await testbed(version, 'up', '2');
    const image = await cli<{ id: string }>(
      version,
      ...['images', 'add', `${GUEST}/disk.qcow2`, '--host', 'alpha', ...BOOT, ...CMDLINE],
    );
    await cli(version, 'images', 'pull', image.id, 'beta');
    const spawned = await cli<{ instanceId: string }>(
      version,
      ...['images', 'spawn', image.id, '--host', 'alpha', '--name', 'bench'],
    );
    version.instance = spawned.instanceId;
  }
  await sleep(20_000); // both guests have booted
  for (let turn = 0; turn < Number(values.moves); turn++) {
    for (const version of versions) await move(version);
  }
  report('blackout', ({ blackouts }) => blackouts);
  report('total', ({ totals }) => totals);
} finally {
  for (const version of versions) await testbed(version, 'down');
}

async function move(version: Version): Promise<void> {
  const destination = version.host === 'alpha' ? 'beta' : 'alpha';
  const begun = performance.now();
  const { blackoutSeconds } = await cli<MoveResult>(version, 'instances', 'migrate', version.instance, destination);
  version.host = destination;
  version.blackouts.push(blackoutSeconds);
  version.totals.push((performance.now() - begun) / 1000);
}

function report(what: string, of: (version: Version) => number[]): void {
  const [old, now] = versions.map((version) => {
    const sorted = of(version).toSorted((a, b) => a - b);
    const at = (share: number): number => sorted[Math.round(share * (sorted.length - 1))] ?? NaN;
    const [minimum, median, maximum] = [at(0), at(0.5), at(1)];
    const figures = [minimum, median, maximum].map((seconds) => `${seconds.toFixed(2)} s`).join('  ');
    console.log(
      `${what.padEnd(9)} ${version.name.padEnd(6)} ${figures}  (minimum, median, maximum of ${sorted.length})`,
    );
    return median;
  });
  console.log(`${what.padEnd(9)} this / other, medians: ${((now ?? NaN) / (old ?? NaN)).toFixed(2)}`);
}

async function testbed({ checkout, directory }: Version, ...args: string[]): Promise<void> {
  const program = join(checkout, 'infra/testbed/main.ts');
  await execa(process.execPath, [program, ...args], {
    env: { VMFERRY_TESTBED: directory },
    stdio: ['ignore', 'ignore', 'inherit'],
  });
}

async function cli<T>({ checkout, directory }: Version, ...args: string[]): Promise<T> {
  const program = join(checkout, 'client/main.ts');
  const { stdout } = await execa(process.execPath, [program, '--output', 'json', ...args], {
    env: { VMFERRY_PROFILE: join(directory, 'profile.toml') },
    stdin: 'ignore',
  });
  return JSON.parse(stdout) as T;
}
