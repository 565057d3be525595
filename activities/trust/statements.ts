/**
 * The small signed messages by which hosts hand an instance on. Each is the JSON text of an OpenPGP signed message.
 * `previous` is the SHA-256 of the payload text of the statement before it, so that they form one chain per instance:
 *
 *   spawn(1) → release(1→2) → release(2→3) → return(3→4) → fence(4→5) → …
 */
import { z } from 'zod';

export const hex = (bytes: number): z.ZodString => z.string().regex(new RegExp(`^[0-9a-f]{${bytes * 2}}$`));
/** Lower case only: another spelling of the same id would be another ledger for the same libvirt domain. */
export const uuid = z.string().regex(/^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/);
export const hostName = z.string().regex(/^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/);
export const fingerprint = z.string().regex(/^[0-9A-F]{64}$/);
export const generation = z.int().min(1);
/** Temporal run id; part of file names. */
export const moveId = z.string().regex(/^[0-9A-Za-z-]{1,64}$/);
const signer = { signer: hostName, signerFingerprint: fingerprint };
const time = z.iso.datetime();

/** The first statement of every instance: its first host owns generation 1. */
export const Spawn = z.strictObject({
  type: z.literal('spawn'),
  version: z.literal(1),
  instanceId: uuid,
  generation: z.literal(1),
  ...signer,
  time,
});

/** Destination to source: package verified, instance restored, vCPUs stopped. `generation`: the one it will own. */
export const Receipt = z.strictObject({
  type: z.literal('receipt'),
  version: z.literal(1),
  instanceId: uuid,
  packageId: uuid,
  moveId,
  generation,
  /** SHA-256 of the origin record's payload text. */
  originDigest: hex(32),
  ...signer,
  time,
});

/** Owner of `generation - 1` to the destination: `generation` is yours. */
export const Release = z.strictObject({
  type: z.literal('release'),
  version: z.literal(1),
  instanceId: uuid,
  packageId: uuid,
  generation,
  to: hostName,
  toFingerprint: fingerprint,
  /** SHA-256 of the receipt's payload text. */
  receiptDigest: hex(32),
  previous: hex(32),
  ...signer,
  time,
});

/** Owner of `generation - 1` to itself: I go on as `generation`; package `packageId` must never be released. */
export const Return = z.strictObject({
  type: z.literal('return'),
  version: z.literal(1),
  instanceId: uuid,
  packageId: uuid,
  generation,
  previous: hex(32),
  ...signer,
  time,
});

/** Owner of `generation`: the instance exists no more. */
export const End = z.strictObject({
  type: z.literal('end'),
  version: z.literal(1),
  instanceId: uuid,
  generation,
  previous: hex(32),
  ...signer,
  time,
});

/**
 * Pool key: the owner of `generation - 1` died for good and will not come back with it; `to` owns `generation`, and goes
 * on from `packageId`, however much has happened to the instance since that was sealed.
 */
export const Fence = z.strictObject({
  type: z.literal('fence'),
  version: z.literal(1),
  instanceId: uuid,
  packageId: uuid,
  /** Nobody is fenced before the instance was spawned. */
  generation: generation.min(2),
  to: hostName,
  toFingerprint: fingerprint,
  previous: hex(32),
  time,
});

/** A link of the chain; a receipt is no link, only named by one. */
export const Link = z.discriminatedUnion('type', [Spawn, Release, Return, End, Fence]);

export type Spawn = z.infer<typeof Spawn>;
export type Receipt = z.infer<typeof Receipt>;
export type Release = z.infer<typeof Release>;
export type Return = z.infer<typeof Return>;
export type End = z.infer<typeof End>;
export type Fence = z.infer<typeof Fence>;
export type Link = z.infer<typeof Link>;
