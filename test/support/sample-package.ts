/** A packed and sealed instance whose members are made up. For tests of the package format. */
import { randomBytes, randomUUID } from 'node:crypto';
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Requirements, SignedText } from '../../workflows/contract.ts';
import type { Work } from '../../activities/heartbeat.ts';
import { newSessionKey } from '../../activities/package/cipher.ts';
import { readEnvelope, writeEnvelope, type OpenedEnvelope } from '../../activities/package/envelope.ts';
import {
  CONFIG_STREAM,
  diskStream,
  SNAPSHOT_STREAM,
  type MemberName,
  type OriginRecord,
} from '../../activities/package/format.ts';
import { packConfig, packStream } from '../../activities/package/pack.ts';
import { sealPackage } from '../../activities/package/seal.ts';
import { MEMBER } from '../../activities/records/layout.ts';
import { signText } from '../../activities/trust/signed-text.ts';
import type { TestHost } from './pool-hosts.ts';

export const IMAGE_ID = 'ab'.repeat(32);

export const REQUIREMENTS: Requirements = {
  architecture: 'x86_64',
  domainType: 'qemu',
  machine: 'pc-q35-7.2',
  cpu: '<cpu mode="custom"><model>qemu64</model></cpu>',
  qemuVersion: '7.2.22',
  memoryBytes: 256 * 1024 * 1024,
  vcpus: 1,
  devices: ['disk:virtio', 'interface:virtio'],
};

/** Work that nobody watches. */
export const unwatched = (signal: AbortSignal = new AbortController().signal): Work => ({
  signal,
  onProgress: () => {},
});

export interface Members {
  snapshot: Uint8Array;
  disk: Uint8Array;
  files: Partial<Record<MemberName, Uint8Array>>;
}

/** Compressible, incompressible and empty parts; the snapshot needs two segments, the disk one. */
export const sampleMembers = (): Members => ({
  snapshot: Buffer.concat([
    Buffer.alloc(6 * 1024 * 1024, 'vmferry '),
    randomBytes(1024 * 1024),
    Buffer.alloc(2 * 1024 * 1024),
  ]),
  disk: Buffer.concat([randomBytes(300_000), Buffer.alloc(100_000)]),
  files: {
    [MEMBER.domainXml]: Buffer.from('<domain type="qemu"><name>sample</name></domain>'),
    [MEMBER.kernel]: randomBytes(70_000),
    [MEMBER.initrd]: randomBytes(10_000),
  },
});

export interface SamplePackage extends OpenedEnvelope {
  folder: string;
  instanceId: string;
  packageId: string;
  generation: number;
  members: Members;
}

/** Writes members where saveInstance and rebaseOverlay leave them. */
export async function writeMembers(from: string, members: Members): Promise<void> {
  await mkdir(from, { recursive: true });
  await writeFile(join(from, MEMBER.snapshot), members.snapshot);
  await writeFile(join(from, MEMBER.disk('vda')), members.disk);
  for (const [name, data] of Object.entries(members.files)) await writeFile(join(from, name), data);
}

/** Packs what `writeMembers` wrote. */
export async function packMembers(from: string, members: Members, level = 1): Promise<string> {
  const folder = join(from, 'packed');
  const names = Object.keys(members.files) as MemberName[];
  const work = unwatched();
  await packConfig({ members: names.map((name) => ({ name, path: join(from, name) })), folder, level, work });
  await packStream({ name: SNAPSHOT_STREAM, source: join(from, MEMBER.snapshot), folder, level, work });
  await packStream({ name: diskStream('vda'), source: join(from, MEMBER.disk('vda')), folder, level, work });
  return folder;
}

/**
 * An instance of `source`, spawned unless it owns it already, sealed for its next generation and these readers.
 * `configArchive` stands in for the archive of the members, which the record lists all the same.
 */
export async function samplePackage(
  source: TestHost,
  readers: readonly TestHost[],
  options: { members?: Members; instanceId?: string; configArchive?: Uint8Array } = {},
): Promise<SamplePackage> {
  const { members = sampleMembers(), instanceId = randomUUID() } = options;
  const owned = (await source.ledger.owned(instanceId)) ?? (await source.ledger.spawn(instanceId));
  const generation = owned.generation + 1;
  const packageId = randomUUID();
  const from = source.layout.move(randomUUID());
  await writeMembers(from, members);
  const packed = await packMembers(from, members);
  if (options.configArchive) {
    const archive = join(packed, 'config.tar');
    await writeFile(archive, options.configArchive);
    await packStream({ name: CONFIG_STREAM, source: archive, folder: packed, level: 1, work: unwatched() });
  }
  const folder = source.layout.package(packageId);
  await sealPackage({
    packed,
    partial: `${folder}.partial`,
    target: folder,
    streams: [CONFIG_STREAM, SNAPSHOT_STREAM, diskStream('vda')],
    origin: {
      packageId,
      instanceId,
      generation,
      disks: [{ target: 'vda', virtualBytes: 1024 * 1024 * 1024, imageId: IMAGE_ID }],
      requirements: REQUIREMENTS,
      policy: { placement: null, protection: null },
      chain: { statements: [...owned.chain.statements], hosts: [...owned.chain.hosts] },
      previousOrigin: owned.originDigest,
    },
    sessionKey: newSessionKey(),
    keys: source.keys,
    senderRecord: source.signedRecord,
    readers: [source, ...readers].map(({ record }) => record),
    onSigned: (originDigest) => source.ledger.recordSealed({ instanceId, generation, packageId, originDigest }),
    work: unwatched(),
  });
  const opened = await readEnvelope({ folder, keys: source.keys, pool: source.pool });
  return { ...opened, folder, instanceId, packageId, generation, members };
}

/** Moves ownership of a sealed package from one host to another, as releaseInstance and resumeInstance do. */
export async function handOver(sample: SamplePackage, from: TestHost, to: TestHost): Promise<SignedText> {
  const { instanceId, generation, packageId, originDigest } = sample;
  await to.ledger.accept(sample.origin);
  const receipt = await to.ledger.giveReceipt({
    instanceId,
    generation,
    packageId,
    moveId: randomUUID(),
    originDigest,
  });
  const release = await from.ledger.release({
    instanceId,
    generation,
    packageId,
    receipt,
    destination: to.signedRecord,
  });
  await to.ledger.takeOver({ instanceId, generation, packageId, release, source: from.signedRecord });
  return release;
}

/** Signs an altered origin record as the source, and addresses it to these readers in the package's folder. */
export async function reissue(
  sample: SamplePackage,
  source: TestHost,
  readers: readonly TestHost[],
  changes: Partial<OriginRecord> | object,
): Promise<void> {
  const originText = await signText({ ...sample.origin, ...changes }, source.keys.privateKey);
  for (const { record: to } of readers) {
    const { folder, packageId, sessionKey } = sample;
    await writeEnvelope({
      folder,
      keys: source.keys,
      senderRecord: source.signedRecord,
      to,
      packageId,
      sessionKey,
      originText,
    });
  }
}
