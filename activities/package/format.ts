/**
 * Package format, version 1: names, limits and the two records. docs/package-format.md describes it for people.
 *
 * Everything here judges hostile input: each list and string has a bound, each object refuses unknown fields, so that
 * nothing unbounded is ever allocated and no reader acts on a field that another reader ignores.
 */
import { z } from 'zod';
import type { Requirements as RequirementsType } from '../../workflows/contract.ts';
import { VmferryError } from '../../workflows/failures.ts';
import { MEMBER } from '../records/layout.ts';
import { fingerprint, generation, hex, hostName, uuid } from '../trust/statements.ts';

/** A stream is cut into pieces of this size; the last one may be shorter. */
export const SEGMENT_BYTES = 8 * 1024 * 1024;
/** Room for what zstd and OpenPGP add to a piece that does not compress. */
export const MAX_SEALED_BYTES = SEGMENT_BYTES + 64 * 1024;
/** Most segments of a package: 1 TiB of guest, an origin record of about 13 MB. */
export const MAX_SEGMENTS = 131_072;
/** Longest armored origin record, in characters. */
export const MAX_ORIGIN_LENGTH = 32 * 1024 * 1024;
/** Largest envelope file, in bytes: an origin record and change. */
export const MAX_ENVELOPE_BYTES = MAX_ORIGIN_LENGTH + 1024 * 1024;
/** Largest config stream: kernel, ramdisk, XML, later NVRAM and TPM state. */
export const MAX_CONFIG_BYTES = 1024 * 1024 * 1024;

/** File name of a segment within its stream's folder. */
export const segmentName = (index: number): string => `${String(index).padStart(6, '0')}.seg`;
/** File name of the envelope for the host with this key. */
export const envelopeName = (readerFingerprint: string): string => `to-${readerFingerprint}.pgp`;
/** How many segments a stream of this many bytes has. An empty stream has none. */
export const segmentCount = (bytes: number): number => Math.ceil(bytes / SEGMENT_BYTES);
/** Bytes of the piece that a segment holds. */
export const pieceBytes = (streamBytes: number, index: number): number =>
  Math.min(SEGMENT_BYTES, streamBytes - index * SEGMENT_BYTES);

/** Stream of small files, as one tar archive. */
export const CONFIG_STREAM = 'config';
/** Stream of RAM and device state: libvirt's save file. */
export const SNAPSHOT_STREAM = 'snapshot';
/** Stream of a disk's overlay. */
export const diskStream = (target: string): string => `disk-${target}`;

export const MemberName = z.enum([MEMBER.domainXml, MEMBER.kernel, MEMBER.initrd]);
export type MemberName = z.infer<typeof MemberName>;

const bytes = z.int().min(0);
const short = z.string().max(256);
/** libvirt's target name of a disk. */
const target = z.string().regex(/^[a-z]{1,8}[0-9]{0,3}$/);
const streamName = z.string().regex(/^(config|snapshot|disk-[a-z]{1,8}[0-9]{0,3})$/);

/** What the destination must offer; see the contract. */
export const Requirements = z.strictObject({
  architecture: short,
  domainType: z.enum(['qemu', 'kvm']),
  machine: short,
  cpu: z.string().max(16_384),
  qemuVersion: short,
  memoryBytes: bytes,
  vcpus: z.int().min(1).max(4096),
  devices: z.array(short).max(1024),
}) satisfies z.ZodType<RequirementsType>;

/** An overlay; its backing name inside the package is its `imageId`. */
export const Disk = z.strictObject({ target, virtualBytes: bytes, imageId: hex(32) });
export type Disk = z.infer<typeof Disk>;

/** A file of the config stream. */
export const Member = z.strictObject({ name: MemberName, bytes: bytes.max(MAX_CONFIG_BYTES), sha256: hex(32) });
export type Member = z.infer<typeof Member>;

/** What one segment's pieces went through before encryption. `delta` has its place; readers of today refuse it. */
export const Encoding = z.discriminatedUnion('kind', [
  z.strictObject({ kind: z.literal('zstd') }),
  z.strictObject({ kind: z.literal('store') }),
  z.strictObject({
    kind: z.literal('delta'),
    /** Stream of an earlier package, which the destination holds. */
    reference: z.strictObject({ packageId: uuid, stream: streamName, sha256: hex(32) }),
  }),
]);
export type Encoding = z.infer<typeof Encoding>;

/** Of the sealed segment file. */
export const Segment = z.strictObject({ bytes: z.int().min(1).max(MAX_SEALED_BYTES), sha256: hex(32) });
export type Segment = z.infer<typeof Segment>;

export const Stream = z
  .strictObject({
    name: streamName,
    encoding: Encoding,
    /** Of the whole plain stream. */
    bytes: bytes.max(MAX_SEGMENTS * SEGMENT_BYTES),
    sha256: hex(32),
    segments: z.array(Segment).max(MAX_SEGMENTS),
  })
  .refine((stream) => stream.segments.length === segmentCount(stream.bytes), 'segments do not match the length');
export type Stream = z.infer<typeof Stream>;

const signedText = z.string().max(64 * 1024);

/** An instance's statements from its spawn on, and the certified records of those who signed them or own it now. */
export const Chain = z.strictObject({
  statements: z.array(signedText).min(1).max(10_000),
  hosts: z.array(signedText).min(1).max(1_000),
});

/** Reserved: version 1 carries no policy, and a reader that finds one cannot keep it and must refuse. */
const Policy = z.strictObject({ placement: z.null(), protection: z.null() });

/** What the host that saved the instance says about it, signed once, when everything is sealed. */
export const OriginRecord = z
  .strictObject({
    type: z.literal('origin'),
    version: z.literal(1),
    packageId: uuid,
    instanceId: uuid,
    /** The one that its receiver will own: the source's + 1. */
    generation: generation.min(2),
    source: hostName,
    sourceFingerprint: fingerprint,
    sealedAt: z.iso.datetime(),
    segmentBytes: z.literal(SEGMENT_BYTES),
    streams: z.array(Stream).min(3).max(40),
    /** In the order of the archive. */
    members: z.array(Member).min(1).max(16),
    disks: z.array(Disk).min(1).max(32),
    requirements: Requirements,
    policy: Policy,
    chain: Chain,
    /** Digest of the origin record of the package by which the instance came to this host; null if it began here. */
    previousOrigin: hex(32).nullable(),
  })
  .superRefine((record, context) => {
    const names = record.streams.map((stream) => stream.name);
    const wanted = [CONFIG_STREAM, SNAPSHOT_STREAM, ...record.disks.map((disk) => diskStream(disk.target))];
    if (names.join() !== wanted.join() || new Set(names).size !== names.length) {
      context.addIssue({ code: 'custom', path: ['streams'], message: `the streams are not ${wanted.join(', ')}` });
    }
    const members = record.members.map((member) => member.name);
    if (members[0] !== MEMBER.domainXml || new Set(members).size !== members.length) {
      context.addIssue({ code: 'custom', path: ['members'], message: 'libvirt.xml must come first, and each once' });
    }
    const segments = record.streams.reduce((sum, stream) => sum + stream.segments.length, 0);
    if (segments > MAX_SEGMENTS) {
      context.addIssue({ code: 'custom', path: ['streams'], message: `more than ${MAX_SEGMENTS} segments` });
    }
  });
export type OriginRecord = z.infer<typeof OriginRecord>;

/** What one reader of a package gets, encrypted to it and signed by whoever addressed the package. */
export const Envelope = z.strictObject({
  type: z.literal('envelope'),
  version: z.literal(1),
  packageId: uuid,
  sender: hostName,
  senderFingerprint: fingerprint,
  /** Certified record of the sender, so that a reader needs nothing but its pool's public key. */
  senderRecord: signedText,
  to: hostName,
  toFingerprint: fingerprint,
  /** Of every segment. */
  session: z.strictObject({
    algorithm: z.literal('aes256'),
    aead: z.literal('gcm'),
    /** 32 bytes in base64. */
    key: z.base64().length(44),
  }),
  /** Signed text of the origin record, as the source signed it. */
  origin: z.string().max(MAX_ORIGIN_LENGTH),
  time: z.iso.datetime(),
});
export type Envelope = z.infer<typeof Envelope>;

/**
 * A record of this version, or a short refusal that names the first thing wrong with it.
 *
 * @throws PackageMalformed
 */
export function checkRecord<T>(json: unknown, schema: z.ZodType<T>, what: string): T {
  const result = schema.safeParse(json);
  if (result.success) return result.data;
  const { path = [], message = '' } = result.error.issues[0] ?? {};
  throw new VmferryError(
    'PackageMalformed',
    `${what} is not one of version 1: ${path.join('.').slice(0, 200)} ${message.slice(0, 300)}`,
  );
}
