/**
 * `npm run bench [-- --fill MIB] [--rate 100mbit]`: one VM moved by vmferry and one like it moved by hand, side by side
 * in one run, over the same link. Prints seconds for each step, blackout, total and bytes. Figures, not a test: nothing
 * here fails because it is slow.
 */
import { existsSync, statSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { execa } from 'execa';
import { Testbed } from '../../infra/testbed/testbed.ts';
import type { MoveResult } from '../../workflows/contract.ts';
import { endByHand, moveByHand, prepareByHand, serialLogByHand } from './by-hand.ts';

const { values } = parseArgs({
  options: { fill: { type: 'string', default: '64' }, rate: { type: 'string', default: '100mbit' } },
});

for (const tool of ['zip', 'unzip', 'gpg', 'openssl']) {
  if (!(process.env['PATH'] ?? '').split(':').some((folder) => existsSync(join(folder, tool)))) {
    console.error(`bench: ${tool} is missing; the old way needs it: apt-get install zip unzip gnupg openssl`);
    process.exit(1);
  }
}

const directory = await mkdtemp(join(tmpdir(), 'vmferry-bench-'));
await rm(directory, { recursive: true });
// A plain folder: on the hosts' own file systems fsync costs less than on a real disk, and one of the two ways uses it.
const testbed = await Testbed.up({ hosts: 2, directory, diskMib: 0, log: (line) => console.error(line) });
const stop = (): void => void testbed.down().then(() => process.exit(130));
process.on('SIGINT', stop);
process.on('SIGTERM', stop);

try {
  const ferry = await spawn('ferry');
  const hand = await spawn('hand');
  for (const { ip } of [ferry, hand]) await testbed.guestGet('alpha', ip, `/fill?mib=${values.fill}`);
  for (const host of testbed.hosts) await testbed.rate(host, values.rate);

  console.error('moving by vmferry');
  const byFerry = await measured(
    testbed.outside('alpha', `/var/lib/vmferry/instances/${ferry.id}/g1/serial.log`),
    testbed.outside('beta', `/var/lib/vmferry/instances/${ferry.id}/g2/serial.log`),
    () => cli<MoveResult>('instances', 'migrate', ferry.id, 'beta'),
  );

  console.error('moving by hand');
  await prepareByHand(testbed, 'alpha', 'beta', hand.id, hand.ip, hand.mac);
  const byHand = await measured(
    testbed.outside('alpha', `/var/lib/vmferry/instances/${hand.id}/g1/serial.log`),
    testbed.outside('beta', serialLogByHand),
    () => moveByHand(testbed, 'alpha', 'beta', hand.id, `/var/lib/vmferry/images/${ferry.imageId}/disk.img`),
  );
  for (const host of testbed.hosts) await endByHand(testbed, host);

  report('vmferry', byFerry.result.stepSeconds, byFerry, byFerry.result.packageBytes);
  report('by hand', byHand.result.stepSeconds, byHand, byHand.result.packageBytes);
  const ratio = (of: (run: Measured<unknown>) => number): string => (of(byFerry) / of(byHand)).toFixed(2);
  console.log(
    `\nvmferry / by hand: blackout ${ratio((run) => run.blackoutSeconds)}, total ${ratio((run) => run.totalSeconds)}, wire ${ratio((run) => run.wireBytes)}`,
  );
} finally {
  await testbed.down();
}

interface Measured<T> {
  result: T;
  /** From the guest's last line on the source to its first on the destination, seen from outside. */
  blackoutSeconds: number;
  totalSeconds: number;
  /** Sent by the source's interface, packet headers included. */
  wireBytes: number;
}

async function measured<T>(before: string, after: string, move: () => Promise<T>): Promise<Measured<T>> {
  const size = (path: string): number => (existsSync(path) ? statSync(path).size : 0);
  let [lastGrowth, firstGrowth, known] = [0, 0, size(before)];
  let destination = size(after);
  const watch = setInterval(() => {
    const now = size(before);
    if (now > known) [known, lastGrowth] = [now, performance.now()];
    // The destination's log appears empty first; a carried-over one must grow.
    const there = size(after);
    if (firstGrowth === 0 && there > destination) firstGrowth = performance.now();
    destination = Math.max(destination, there);
  }, 10);
  const sent = await sentBytes();
  const begun = performance.now();
  const result = await move();
  const totalSeconds = (performance.now() - begun) / 1000;
  const wireBytes = (await sentBytes()) - sent;
  for (let tries = 0; firstGrowth === 0 && tries < 100; tries++) await sleep(50);
  clearInterval(watch);
  return { result, blackoutSeconds: (firstGrowth - lastGrowth) / 1000, totalSeconds, wireBytes };
}

async function sentBytes(): Promise<number> {
  return Number((await testbed.exec('alpha', ['cat', '/sys/class/net/wan0/statistics/tx_bytes'])).stdout);
}

async function cli<T>(...args: string[]): Promise<T> {
  const program = new URL('../../client/main.ts', import.meta.url).pathname;
  const { stdout } = await execa(process.execPath, [program, '--output', 'json', ...args], {
    env: { VMFERRY_PROFILE: testbed.profilePath },
    stdin: 'ignore',
  });
  return JSON.parse(stdout) as T;
}

async function spawn(name: string): Promise<{ id: string; ip: string; mac: string; imageId: string }> {
  const { disk, kernel, initrd, cmdline } = testbed.imagePaths;
  const image = await cli<{ id: string }>(
    ...['images', 'add', disk, '--host', 'alpha', '--kernel', kernel, '--initrd', initrd, '--cmdline', cmdline],
  );
  await cli('images', 'pull', image.id, 'beta');
  const { instanceId, address } = await cli<{ instanceId: string; address: { ip: string; mac: string } }>(
    ...['images', 'spawn', image.id, '--host', 'alpha', '--name', name],
  );
  for (let tries = 0; ; tries++) {
    try {
      await testbed.guestStatus('alpha', address.ip);
      return { id: instanceId, ip: address.ip, mac: address.mac, imageId: image.id };
    } catch (error) {
      if (tries > 100) throw error;
      await sleep(200);
    }
  }
}

function report(title: string, steps: Record<string, number>, run: Measured<unknown>, packageBytes: number): void {
  const mb = (bytes: number): string => `${(bytes / 1e6).toFixed(1)} MB`;
  console.log(`\n${title}`);
  for (const [step, seconds] of Object.entries(steps))
    console.log(`  ${step.padEnd(18)}${seconds.toFixed(2).padStart(8)} s`);
  console.log(`  ${'blackout'.padEnd(18)}${run.blackoutSeconds.toFixed(2).padStart(8)} s`);
  console.log(`  ${'total'.padEnd(18)}${run.totalSeconds.toFixed(2).padStart(8)} s`);
  console.log(`  package ${mb(packageBytes)}, on the wire ${mb(run.wireBytes)}`);
}
