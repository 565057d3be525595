/**
 * How fast a package is packed, sealed, verified and opened, and how much memory each takes, each in a process of its own:
 *
 *   node test/bench/package.ts [MiB]
 *
 * The file imitates a guest's RAM: pages of a program and of text from this machine, random pages, empty pages.
 */
import { randomBytes } from 'node:crypto';
import { mkdtemp, open, readFile, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { execa } from 'execa';
import { Layout, MEMBER } from '../../activities/records/layout.ts';
import { newSessionKey } from '../../activities/package/cipher.ts';
import { readEnvelope } from '../../activities/package/envelope.ts';
import { CONFIG_STREAM, diskStream, SNAPSHOT_STREAM } from '../../activities/package/format.ts';
import { openPackage } from '../../activities/package/open.ts';
import { packConfig, packStream } from '../../activities/package/pack.ts';
import { sealPackage } from '../../activities/package/seal.ts';
import { verifyFolder } from '../../activities/package/verify-file.ts';
import { ensureHostKeys } from '../../activities/trust/keys.ts';
import { Ledger } from '../../activities/trust/ledger.ts';
import { createPoolKey } from '../../activities/trust/pool-key.ts';
import { PoolTrust } from '../../activities/trust/pool.ts';
import { recordOf } from '../support/pool-hosts.ts';
import { IMAGE_ID, REQUIREMENTS, sampleMembers, unwatched, writeMembers } from '../support/sample-package.ts';

const MIB = 1024 * 1024;
const PAGE = 4096;
const INSTANCE = '11111111-1111-4111-8111-111111111111';
const PACKAGE = '22222222-2222-4222-8222-222222222222';
const work = unwatched();

async function host(directory: string): Promise<{
  layout: Layout;
  folder: string;
  from: string;
  keys: Awaited<ReturnType<typeof ensureHostKeys>>;
  pool: PoolTrust;
  ledger: Ledger;
}> {
  const layout = new Layout(directory);
  const keys = await ensureHostKeys(layout.keys, 'bench');
  const poolKey = await createPoolKey(join(directory, 'pool'));
  const pool = await PoolTrust.load(join(directory, 'pool'));
  if (!pool) throw new Error('no pool key');
  const record = await poolKey.certifyHost(recordOf(keys));
  const ledger = new Ledger({ layout, keys, pool, selfRecord: () => Promise.resolve(record) });
  return { layout, folder: layout.package(PACKAGE), from: layout.move('bench'), keys, pool, ledger };
}

const STAGES = {
  async pack(directory: string) {
    const { from } = await host(directory);
    const options = { folder: join(from, 'packed'), level: 1, work };
    await packConfig({ ...options, members: [{ name: MEMBER.domainXml, path: join(from, MEMBER.domainXml) }] });
    await packStream({ ...options, name: diskStream('vda'), source: join(from, MEMBER.disk('vda')) });
    const packed = await packStream({ ...options, name: SNAPSHOT_STREAM, source: join(from, MEMBER.snapshot) });
    return `ratio ${(packed.bytes / packed.packedBytes).toFixed(2)}`;
  },
  async seal(directory: string) {
    const { folder, from, keys, ledger } = await host(directory);
    const owned = await ledger.spawn(INSTANCE);
    await sealPackage({
      packed: join(from, 'packed'),
      partial: `${folder}.partial`,
      target: folder,
      streams: [CONFIG_STREAM, SNAPSHOT_STREAM, diskStream('vda')],
      origin: {
        packageId: PACKAGE,
        instanceId: INSTANCE,
        generation: 2,
        disks: [{ target: 'vda', virtualBytes: 1024 * MIB, imageId: IMAGE_ID }],
        requirements: REQUIREMENTS,
        policy: { placement: null, protection: null },
        chain: { statements: [...owned.chain.statements], hosts: [...owned.chain.hosts] },
        previousOrigin: null,
      },
      sessionKey: newSessionKey(),
      keys,
      senderRecord: await ledger.selfRecord(),
      readers: [recordOf(keys)],
      onSigned: () => Promise.resolve(),
      work,
    });
    return '';
  },
  async verify(directory: string) {
    const { folder, keys, pool } = await host(directory);
    await verifyFolder({ folder, keys, pool, work });
    return '';
  },
  async open(directory: string) {
    const { folder, keys, pool } = await host(directory);
    const { origin, sessionKey } = await readEnvelope({ folder, keys, pool });
    const target = join(directory, 'opened');
    await openPackage({ folder, origin, sessionKey, target, work });
    const { blocks, size } = await stat(join(target, MEMBER.snapshot));
    return `${((blocks * 512) / MIB).toFixed(0)} of ${(size / MIB).toFixed(0)} MiB on disk`;
  },
};

async function runStage(name: keyof typeof STAGES, directory: string): Promise<void> {
  const start = performance.now();
  const remark = await STAGES[name](directory);
  const seconds = (performance.now() - start) / 1000;
  const { userCPUTime, systemCPUTime } = process.resourceUsage();
  // Not maxRSS of getrusage: a new process inherits it from the one that started it.
  const [, peak = '0'] = /VmHWM:\s*(\d+)/.exec(await readFile('/proc/self/status', 'utf8')) ?? [];
  const { size } = await stat(join(directory, 'moves', 'bench', MEMBER.snapshot));
  const cpu = (userCPUTime + systemCPUTime) / 1e6;
  console.log(
    `${name.padEnd(7)} ${seconds.toFixed(2)} s  ${(size / 1e6 / seconds).toFixed(0).padStart(5)} MB/s  ` +
      `${cpu.toFixed(2)} s of CPU  ${(Number(peak) / 1024).toFixed(0)} MiB  ${remark}`,
  );
}

/** RAM-like bytes: 45 % program pages, 20 % text, 10 % random, 25 % empty in long runs. */
async function writeRam(path: string, bytes: number): Promise<void> {
  const programs = await readFile(process.execPath);
  const text = await readFile(new URL('../../package-lock.json', import.meta.url));
  const file = await open(path, 'w');
  const chunk = Buffer.alloc(16 * MIB);
  for (let done = 0; done < bytes; done += chunk.length) {
    const empty = (done / chunk.length) % 4 === 3;
    chunk.fill(0);
    for (let page = 0; !empty && page < chunk.length; page += PAGE) {
      const kind = Math.random();
      const source = kind < 0.6 ? programs : kind < 0.87 ? text : null;
      if (source) source.copy(chunk, page, Math.floor((Math.random() * (source.length - PAGE)) / 16) * 16);
      else randomBytes(PAGE).copy(chunk, page);
    }
    await file.write(chunk, 0, Math.min(chunk.length, bytes - done));
  }
  await file.sync();
  await file.close();
}

const [first = '512', directory] = process.argv.slice(2);
if (directory !== undefined) {
  await runStage(first as keyof typeof STAGES, directory);
} else {
  const made = await mkdtemp(join(tmpdir(), 'vmferry-bench-'));
  try {
    const { from } = await host(made);
    await writeMembers(from, { ...sampleMembers(), snapshot: new Uint8Array() });
    await writeRam(join(from, MEMBER.snapshot), Number(first) * MIB);
    for (const name of Object.keys(STAGES)) {
      await execa(process.execPath, [import.meta.filename, name, made], { stdout: 'inherit', stderr: 'inherit' });
    }
  } finally {
    await rm(made, { recursive: true, force: true });
  }
}
