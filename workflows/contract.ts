/**
 * What every side agrees on: names, payload types, messages. Sandbox-safe; imports nothing but types and Temporal's
 * message definitions. Payloads are small: identifiers, sizes and signed statements, never guest data.
 */
import { defineQuery, defineUpdate } from '@temporalio/workflow';
import { defineSearchAttributeKey } from '@temporalio/common';
import type { FailureType } from './failures.ts';
import type { Finding, HostReport } from './findings.ts';

// ---- Identifiers ----

/** Name of a host in its pool: a DNS label. It names the host's task queue and never changes. */
export type HostId = string;
/** UUID of a libvirt domain. */
export type InstanceId = string;
/** Lower-case hexadecimal SHA-256 of a base disk image's file content. */
export type ImageId = string;
/** UUID of a sealed package. */
export type PackageId = string;
/** Id of one move: the first run id of its workflow execution. Every name that a move makes on a host carries it. */
export type MoveId = string;
/** Armored OpenPGP signed message whose text is one JSON object; see docs/package-format.md. */
export type SignedText = string;

/** The queue of workflows and catalog activities. */
export const CONTROL_QUEUE = 'vmferry';
/** The queue that only this host's worker polls. */
export const hostQueue = (host: HostId): string => `host:${host}`;

/** Workflow ids carry the business key, so that one instance has at most one workflow of its own at a time. */
export const workflowId = {
  /** migrate, save, restore and delete exclude one another: they share this id. */
  instance: (instance: InstanceId): string => `instance:${instance}`,
  spawn: (instance: InstanceId): string => `spawn:${instance}`,
  image: (host: HostId, request: string): string => `image:${host}:${request}`,
  imageDelete: (image: ImageId): string => `image-delete:${image}`,
  pull: (imageOrPackage: string, host: HostId): string => `pull:${imageOrPackage}:${host}`,
  package: (id: PackageId): string => `package:${id}`,
  discard: (move: MoveId, host: HostId): string => `discard:${move}:${host}`,
  clearUp: (move: MoveId, host: HostId): string => `clear-up:${move}:${host}`,
  fence: (instance: InstanceId, generation: number, host: HostId): string => `fence:${instance}:${generation}:${host}`,
  node: (host: HostId): string => `node:${host}`,
  nodeQuestion: (host: HostId): string => `node-question:${host}`,
  inspection: (mend: boolean): string => (mend ? 'inspection:mend' : 'inspection'),
  /** Each run that the schedule starts has the time at its end. */
  scrub: (): string => 'scrub',
  scrubHost: (host: HostId): string => `scrub:${host}`,
};

/** The Temporal Schedule that has every package verified where it lies. */
export const SCRUB_SCHEDULE = 'vmferry-scrub';

export const searchAttributes = {
  instance: defineSearchAttributeKey('VmferryInstance', 'KEYWORD'),
  source: defineSearchAttributeKey('VmferrySource', 'KEYWORD'),
  destination: defineSearchAttributeKey('VmferryDestination', 'KEYWORD'),
  phase: defineSearchAttributeKey('VmferryPhase', 'KEYWORD'),
};

// ---- Things in the catalog ----

/** A host's statement about itself; once the pool key has signed it, a certified record. */
export interface HostRecord {
  version: 1;
  name: HostId;
  /** Fingerprint of the host's OpenPGP v6 key, upper-case hexadecimal. */
  fingerprint: string;
  /** Armored OpenPGP public key. */
  publicKey: string;
  /** PEM of the host's TLS certificate; peers pin it. */
  tlsCertificate: string;
  /** Where peers fetch packages: `host:port`, best first. */
  addresses: string[];
  location: string;
  /** Of the machine, as libvirt names it: `x86_64`, `aarch64`, … */
  architecture: string;
}

/** The host's answer to `describeHost`. */
export interface HostDescription {
  record: HostRecord;
  /** Fingerprint of the pool key that this host obeys; null while none is installed. */
  poolFingerprint: string | null;
  vmferryVersion: string;
  libvirtVersion: string;
  qemuVersion: string;
  domainTypes: string[];
}

export interface Host {
  id: HostId;
  fingerprint: string;
  /** Certified by the pool key. */
  record: SignedText;
  location: string;
  architecture: string;
}

/** Files that go with an image and are copied for each instance. */
export interface BootFiles {
  kernel?: { sha256: string; bytes: number };
  initrd?: { sha256: string; bytes: number };
  cmdline?: string;
}

export interface Image {
  id: ImageId;
  name: string;
  format: 'qcow2' | 'raw';
  /** Bytes of the file. */
  bytes: number;
  /** Bytes that a guest sees. */
  virtualBytes: number;
  boot: BootFiles;
}

export interface Address {
  /** IPv4, without prefix length. */
  ip: string;
  mac: string;
}

export interface InstanceSpec {
  name: string;
  imageId: ImageId;
  memoryBytes: number;
  vcpus: number;
  /** libvirt domain type; `auto` lets the host probe and choose. */
  domainType: 'auto' | 'qemu' | 'kvm';
  boot: BootFiles;
}

/** `spawning`: address and place are reserved, nothing runs yet. */
export type InstanceState = 'spawning' | 'running' | 'saved' | 'moving';

export interface Instance {
  id: InstanceId;
  name: string;
  host: HostId;
  generation: number;
  state: InstanceState;
  imageId: ImageId;
  address: Address;
}

// ---- Progress, told by heartbeats and by the progress query ----

/** Steps of a move in order; the names of their activities. */
export const MOVE_STEPS = [
  'preflight',
  'reserve',
  'announceMove',
  'saveInstance',
  'rebaseOverlay',
  'buildPackage',
  'encryptPackage',
  'transferPackage',
  'openPackage',
  'rewriteXml',
  'restoreInstance',
  'releaseInstance',
  'resumeInstance',
  'settleMove',
] as const;
export type MoveStep = (typeof MOVE_STEPS)[number];

/** Heartbeat details of every long activity. */
export interface Heartbeat {
  step: string;
  bytesDone: number;
  /** 0 while unknown. */
  bytesTotal: number;
}

export interface StepRecord {
  step: MoveStep | 'returnInstance' | 'pullImage' | 'obeyFence';
  /** Or `control`, for the catalog's part. */
  host: HostId;
  /** Milliseconds since the epoch, by the workflow's clock. */
  startedAt: number;
  endedAt?: number;
  /** Short text for people: what the step did. */
  summary?: string;
}

export type MovePhase =
  | 'preparing' // the guest runs, nothing was touched
  | 'blackout' // the guest is stopped
  | 'waiting' // a host worker is absent; goes on by itself
  | 'parked' // waits for a decision; once the instance is released it also goes on by itself
  | 'returning' // on the way back to the source
  | 'settling' // the guest runs at the destination
  | 'moved'
  | 'returned'
  | 'abandoned' // the instance is saved at its source
  | 'failed';

/** What the operator may decide about a parked move. */
export type ParkChoice = 'retry' | 'return' | 'readdress' | 'abandon';

/** Shown while a move is parked. */
export interface Parked {
  failure: FailureType;
  reason: string;
  since: number;
  choices: ParkChoice[];
  /** The instance is released, or may be: it is tried on without end, and `readdress` needs a fence. */
  released: boolean;
}

/** What the operator has to know to fence the host that a move depends on. */
export interface FenceOffer {
  /** The host that would be fenced. */
  host: HostId;
  /** The statement by which it owns the instance, which the fence follows. */
  last: SignedText;
  packageId: PackageId;
  /** When the guest stopped, in milliseconds since the epoch: to there a fence goes back. */
  savedAt: number;
  /** When this offer began: since then the host may have let the instance run. */
  since: number;
}

export interface MoveProgress {
  moveId: MoveId;
  instanceId: InstanceId;
  instanceName: string;
  source: HostId;
  destination: HostId;
  generation: number;
  packageId: PackageId;
  phase: MovePhase;
  step: StepRecord['step'] | null;
  steps: StepRecord[];
  /** The host worker that is waited for. */
  waitingFor?: HostId;
  /** Since when, in milliseconds since the epoch. */
  waitingSince?: number;
  parked?: Parked;
  /** Set while `readdress` needs a fence. */
  fence?: FenceOffer;
  packageBytes: number;
  wireBytes: number;
  /** Seconds, by the workflow's clock and the source's; set once the guest runs again. */
  blackoutSeconds?: number;
}

// ---- Workflows ----

export type OnFailure = 'park' | 'return';

export interface MoveOptions {
  /** What to do when a step before the point of no return fails for good. Default `return`. */
  onFailure?: OnFailure;
  /** Seconds during which a failing or absent destination is retried before `onFailure` applies. Default 120. */
  retryWindowSeconds?: number;
  /** zstd level 1–19. Default 1. */
  compressionLevel?: number;
}

export interface MigrateInput {
  instanceId: InstanceId;
  destination: HostId;
  options?: MoveOptions;
}

export interface MoveResult {
  moveId: MoveId;
  instanceId: InstanceId;
  packageId: PackageId;
  source: HostId;
  destination: HostId;
  generation: number;
  address: Address;
  stepSeconds: Record<string, number>;
  blackoutSeconds: number;
  totalSeconds: number;
  packageBytes: number;
  wireBytes: number;
}

export interface SpawnInput {
  instanceId: InstanceId;
  host: HostId;
  imageId: ImageId;
  name: string;
  memoryBytes: number;
  vcpus: number;
  domainType: InstanceSpec['domainType'];
}
export interface SpawnResult {
  instanceId: InstanceId;
  host: HostId;
  address: Address;
}

export interface SaveInput {
  instanceId: InstanceId;
  options?: MoveOptions;
}
export interface SaveResult {
  instanceId: InstanceId;
  packageId: PackageId;
  host: HostId;
  packageBytes: number;
}

/** Continue a saved instance from its package, at its owner or (with the owner's release) elsewhere. */
export interface RestoreInput {
  instanceId: InstanceId;
  /** Default: the host that owns the instance. */
  destination?: HostId;
  options?: MoveOptions;
}

export interface PullInput {
  kind: 'image' | 'package';
  /** ImageId or PackageId, as `kind` says. */
  id: string;
  destination: HostId;
}
export interface PullResult {
  id: PullInput['id'];
  destination: HostId;
  bytes: number;
}

export interface AddImageInput {
  host: HostId;
  /** Absolute paths on that host. */
  path: string;
  kernelPath?: string;
  initrdPath?: string;
  cmdline?: string;
  name?: string;
}
export interface DeleteImageInput {
  imageId: ImageId;
}
export interface DeleteInstanceInput {
  instanceId: InstanceId;
}
export interface DeletePackageInput {
  packageId: PackageId;
}
export interface VerifyPackageInput {
  packageId: PackageId;
  host: HostId;
}
/** What is wrong with one copy of a package, in the words of whoever read it. */
export interface PackageDamage {
  type: FailureType;
  message: string;
}
/** Started by the schedule; never by the client, which triggers that. */
export interface Scrubbed {
  hosts: HostScrubbed[];
}
export interface HostScrubbed {
  host: HostId;
  /** Packages that were read to their end, or to the first damage. */
  verified: number;
  damaged: number;
  /** Why its other packages were not read; null: all were. */
  silent: string | null;
}
/** Started by a scrub for each host, and by itself; never by the client. */
export interface ScrubHostInput {
  host: HostId;
  /** When the scrub began, by the catalog’s clock. What was verified since, or came since, is not its business. */
  before: string;
  /** By the runs before this one. */
  verified: number;
  damaged: number;
}
/** Adds a host whose record the operator's pool key has certified. */
export interface AddNodeInput {
  host: HostId;
  record: SignedText;
}

/** Compares all hosts with one another and with the catalog. */
export interface InspectInput {
  /** Do what is provably safe to do. */
  mend: boolean;
  /** Hosts that are known to be absent; they are not waited for. */
  absent?: HostId[];
}
export interface Inspected {
  findings: Finding[];
}

export interface StartInput {
  instanceId: InstanceId;
}
export interface StartResult {
  instanceId: InstanceId;
  host: HostId;
  generation: number;
  how: 'ran already' | Started;
}
/** From what an instance came to run: its paused QEMU, its saved RAM, its disk alone. */
export type Started = 'resumed' | 'restored' | 'booted';

/** Started by an inspection, under the instance’s own id; never by the client. */
export interface RepairInput {
  instanceId: InstanceId;
  /** What else hosts keep of its moves. */
  left: Finding[];
}

/** Started by a move that could not tell a host to give up its copy; never by the client. */
export interface DiscardCopyInput {
  host: HostId;
  move: MoveRef;
}
/** Started by a move that ends while a host is absent that has yet to clear up; never by the client. */
export interface ClearUpInput {
  host: HostId;
  move: MoveRef;
  role: 'source' | 'destination';
  outcome: MoveOutcome;
}
/** Started by a move that goes on by a fence, for each host that has to know it; never by the client. */
export interface TellFenceInput {
  host: HostId;
  /** With the fence. */
  move: MoveRef;
}

/** Types by which the client starts workflows; `workflows/index.ts` exports exactly these names. */
export interface Workflows {
  migrate(input: MigrateInput): Promise<MoveResult>;
  save(input: SaveInput): Promise<SaveResult>;
  restore(input: RestoreInput): Promise<MoveResult>;
  spawn(input: SpawnInput): Promise<SpawnResult>;
  pull(input: PullInput): Promise<PullResult>;
  deleteInstance(input: DeleteInstanceInput): Promise<void>;
  deletePackage(input: DeletePackageInput): Promise<void>;
  verifyPackage(input: VerifyPackageInput): Promise<PackageFacts>;
  addImage(input: AddImageInput): Promise<Image>;
  deleteImage(input: DeleteImageInput): Promise<void>;
  /** Asks a host for its record; the client shows the fingerprint. */
  describeNode(input: { host: HostId }): Promise<HostDescription>;
  addNode(input: AddNodeInput): Promise<Host>;
  inspect(input: InspectInput): Promise<Inspected>;
  /** Runs an instance that is down or paused, at the host that owns it. */
  start(input: StartInput): Promise<StartResult>;
}

// ---- Messages of migrate, save and restore ----

export const progressQuery = defineQuery<MoveProgress>('progress');
export const retryUpdate = defineUpdate<void, []>('retry');
export const returnUpdate = defineUpdate<void, []>('return');
export interface ReaddressInput {
  destination: HostId;
  /** `after`: the statement that it follows, as the move offered it. */
  fence?: { fence: SignedText; after: SignedText };
}
/**
 * Sends a parked move to another host. Once the instance is released, or may be, only with a fence; the update then answers
 * when the fence is in use, and fails if it is not.
 */
export const readdressUpdate = defineUpdate<void, [ReaddressInput]>('readdress');
export const abandonUpdate = defineUpdate<void, []>('abandon');
export const cancelUpdate = defineUpdate<void, []>('cancel');

// ---- Activities of the control worker ----

/** Names one move on every host; part of each step's input. */
export interface MoveRef {
  moveId: MoveId;
  instanceId: InstanceId;
  packageId: PackageId;
  /** The generation that the receiving side will own: the owner's + 1. */
  generation: number;
  /**
   * The statements that follow the package's chain, where it takes a fence to go on from the package; the last of them is
   * that fence. Each makes one generation, the first the one that the package was sealed for.
   */
  fence?: SignedText[];
}

/** The generation that a move's package was sealed for. */
export const packageGeneration = ({ generation, fence }: Pick<MoveRef, 'generation' | 'fence'>): number =>
  generation + 1 - (fence?.length ?? 1);

/** `moved`: the destination owns; `returned`: the source owns anew; `saved`: down at the source. */
export type MoveOutcome = 'moved' | 'returned' | 'saved';

export interface MovePlan {
  instance: Instance;
  image: Image;
  source: Host;
  destination: Host;
  /** Hosts that hold the base image. */
  imageHosts: Host[];
  /** Of the newest package, for restore. */
  packageId: PackageId | null;
}

export type MoveKind = 'migrate' | 'save' | 'restore';

export interface ControlActivities {
  /** Checks the request against the catalog and answers what it knows. Changes nothing. */
  planMove(input: {
    kind: MoveKind;
    instanceId: InstanceId;
    /** null: the owner itself. */
    destination: HostId | null;
  }): Promise<MovePlan>;
  /** Opens the move: generation + 1, instance `moving`, placement. Repeating it with the same move id changes nothing. */
  reserveMove(input: {
    moveId: MoveId;
    kind: MoveKind;
    instanceId: InstanceId;
    packageId: PackageId;
    destination: HostId;
    /** What the owner said; the catalog follows the owner's records, never the other way. */
    ownedGeneration: number;
  }): Promise<{ generation: number; address: Address }>;
  /** The operator sent the move elsewhere. */
  redirectMove(input: { moveId: MoveId; destination: HostId }): Promise<{ destination: Host }>;
  /** Says where the move is, for listings; `failure` only with parked and waiting. */
  recordMove(input: {
    moveId: MoveId;
    phase: MovePhase;
    step: string | null;
    failure?: { type: FailureType; message: string };
  }): Promise<void>;
  /** A package was sealed at `host`, or has arrived there. */
  recordPackage(input: {
    packageId: PackageId;
    instanceId: InstanceId;
    generation: number;
    host: HostId;
    bytes: number;
    sealedAt: string;
  }): Promise<void>;
  /** Ends the move in the catalog. `moved`: the destination owns; `returned`: the source owns at this generation; `saved`: down at the source. */
  closeMove(input: {
    moveId: MoveId;
    outcome: MoveOutcome | 'failed';
    owner: HostId;
    generation: number;
    result?: { stepSeconds: Record<string, number>; blackoutSeconds: number; packageBytes: number; wireBytes: number };
    failure?: { type: FailureType; message: string };
  }): Promise<void>;

  /** Checks names, reserves an address. Idempotent by instance id. */
  reserveInstance(input: SpawnInput): Promise<{ image: Image; host: Host; address: Address; imageHosts: Host[] }>;
  recordInstance(input: {
    instanceId: InstanceId;
    state: InstanceState;
    host: HostId;
    generation: number;
  }): Promise<void>;
  /** Frees the address, forgets the instance. Idempotent. */
  forgetInstance(input: { instanceId: InstanceId }): Promise<void>;

  findInstance(input: { instanceId: InstanceId }): Promise<{ instance: Instance; host: Host }>;
  findImage(input: { imageId: ImageId }): Promise<{ image: Image; hosts: Host[]; usedBy: InstanceId[] }>;
  recordImage(input: { image: Image; host: HostId }): Promise<void>;
  forgetImage(input: { imageId: ImageId; host: HostId }): Promise<void>;
  findPackage(input: { packageId: PackageId }): Promise<{
    packageId: PackageId;
    instanceId: InstanceId;
    generation: number;
    bytes: number;
    sealedAt: string;
    hosts: Host[];
    /** Those of them whose copy was found damaged. */
    damaged: HostId[];
    /** The package from which a saved instance would be continued must not be deleted. */
    needed: boolean;
    /** Now, by the catalog’s clock. */
    at: string;
  }>;
  /**
   * The package of that host that was not verified for the longest time, and now, by the catalog’s clock. Null once all are
   * verified that were there at `before`; those of open moves do not count, for they are read by the move itself.
   */
  nextToVerify(input: { host: HostId; before: string }): Promise<{ packageId: PackageId; at: string } | null>;
  /** What was found by a verification that began at `at`. Older news than the catalog has change nothing. */
  recordVerification(input: {
    packageId: PackageId;
    host: HostId;
    at: string;
    damage: PackageDamage | null;
  }): Promise<void>;
  forgetPackage(input: { packageId: PackageId; host: HostId }): Promise<void>;
  findHost(input: { host: HostId }): Promise<Host>;
  recordHost(input: { record: SignedText }): Promise<Host>;

  /** The pool’s hosts, and the instant by the catalog’s clock: what changes after it was not at rest while it was looked at. */
  beginInspection(): Promise<{ hosts: Host[]; at: string }>;
  /**
   * What is wrong with what hosts reported, and what they and the catalog say of one another. Without what a workflow that is
   * open now explains, and without instances that changed since `at`.
   */
  compareWithCatalog(input: Comparison): Promise<Finding[]>;
  /**
   * The catalog says what the owner’s records say, outside of any move; a move that it shows as open is closed. Old news change
   * nothing. Only for the workflow that holds the instance’s id.
   *
   * `savedAs`: the package from which it would be continued; null while it runs, or should.
   */
  followOwner(input: {
    instanceId: InstanceId;
    host: HostId;
    generation: number;
    savedAs: PackageId | null;
  }): Promise<void>;
}

export interface Comparison {
  /** Of `beginInspection`. */
  at: string;
  reports: HostReport[];
  silent: { host: HostId; why: string }[];
  /** Only what is about this instance, by the workflow that holds its id. */
  instanceId?: InstanceId;
}

// ---- Activities of a host worker ----

/** What the source learned of a domain before it is touched, and what the destination must offer. */
export interface InstanceFacts {
  instanceId: InstanceId;
  name: string;
  /** By the host's own ownership record. */
  ownedGeneration: number;
  running: boolean;
  memoryBytes: number;
  /** Upper bound of the save file: RAM + device state. */
  saveBytes: number;
  disks: { target: string; bytes: number; virtualBytes: number; imageId: ImageId }[];
  requirements: Requirements;
}

/** Signed into the origin record; compared by the destination before anything is sent and again before restore. */
export interface Requirements {
  architecture: string;
  domainType: 'qemu' | 'kvm';
  /** Versioned, e.g. `pc-q35-7.2`. */
  machine: string;
  /** CPU model and features as libvirt's XML has them; empty when libvirt chose the default. */
  cpu: string;
  qemuVersion: string;
  memoryBytes: number;
  vcpus: number;
  /** Sorted `kind:model` of each device that has state. */
  devices: string[];
}

export interface PackageFacts {
  packageId: PackageId;
  instanceId: InstanceId;
  generation: number;
  source: HostId;
  sealedAt: string;
  /** Bytes of the sealed segments and envelopes. */
  bytes: number;
  streams: { name: string; segments: number; plainBytes: number; sealedBytes: number }[];
}

export interface HostActivities {
  // pool
  describeHost(): Promise<HostDescription>;
  /** Keeps this host's own certified record, so that its statements can be checked by strangers. */
  keepRecord(input: { record: SignedText }): Promise<void>;
  /** Compares what runs here with what this host's records allow, and mends what is provably safe if it may. */
  inspectHost(input: { instanceId: InstanceId | null; mend: boolean }): Promise<HostReport>;

  // images
  addImage(input: Omit<AddImageInput, 'host'>): Promise<Image>;
  /** Fetches an image from the first of `hosts` that answers; verified by its digest. */
  pullImage(input: { image: Image; sources: SignedText[] }): Promise<{ bytes: number }>;
  deleteImage(input: { imageId: ImageId }): Promise<void>;

  // life of an instance
  spawnInstance(input: {
    instanceId: InstanceId;
    spec: InstanceSpec;
    address: Address;
  }): Promise<{ generation: number }>;
  /** Ends the instance for ever: statement first, then domain, disks, network entries. Only by its owner. */
  deleteInstance(input: { instanceId: InstanceId }): Promise<void>;

  // the move, in order
  preflightSource(input: { instanceId: InstanceId; kind: MoveKind }): Promise<InstanceFacts>;
  preflightDestination(input: {
    instanceId: InstanceId;
    facts: InstanceFacts;
    imageId: ImageId;
    source: SignedText;
  }): Promise<{ imageMissing: boolean }>;
  /** DHCP entry and anti-spoofing rule. */
  reserve(input: MoveRef & { name: string; address: Address }): Promise<void>;
  announceMove(input: MoveRef & { destination: HostId }): Promise<{ acknowledged: boolean }>;
  saveInstance(input: MoveRef): Promise<SaveFacts>;
  rebaseOverlay(input: MoveRef): Promise<{ bytes: number }>;
  buildPackage(input: MoveRef & { compressionLevel: number }): Promise<{ plainBytes: number; packedBytes: number }>;
  /** `destination`: its certified record, or null for a package that stays (save). */
  encryptPackage(input: MoveRef & { destination: SignedText | null }): Promise<PackageFacts>;
  /**
   * Lets another host fetch and open a package that this one can read: a new envelope, the bulk stays as it is. Where the
   * other goes on by a fence, this host takes note of it first.
   */
  readdressPackage(input: {
    packageId: PackageId;
    instanceId: InstanceId;
    destination: SignedText;
    fence?: SignedText[];
  }): Promise<void>;
  transferPackage(input: MoveRef & { source: SignedText }): Promise<{ wireBytes: number; packageBytes: number }>;
  openPackage(input: MoveRef & { source: SignedText }): Promise<{ bytes: number }>;
  rewriteXml(input: MoveRef & { address: Address }): Promise<void>;
  /** `last`: the statement by which the package's source owns the instance; a fence of the source would follow it. */
  restoreInstance(
    input: MoveRef,
  ): Promise<{ receipt: SignedText; last: SignedText; diskSha256: Record<string, string> }>;
  releaseInstance(input: MoveRef & { receipt: SignedText; destination: SignedText }): Promise<{ release: SignedText }>;
  /** `source`: who released it, or addressed the package. Without a release the move has a fence. */
  resumeInstance(input: MoveRef & { release?: SignedText; source: SignedText }): Promise<void>;
  /** Removes this move's staging folders and what the source no longer needs. */
  settleMove(input: MoveRef & { role: 'source' | 'destination'; outcome: MoveOutcome }): Promise<void>;

  // the way back
  /** Takes the instance back and runs it again, whatever state it is in. Refused once released. */
  returnInstance(
    input: MoveRef,
  ): Promise<{ generation: number; how: 'never stopped' | 'resumed' | 'restored' | 'rebooted' }>;
  /** Runs an instance that this host owns and that is down or paused; from its saved RAM where there is one. */
  startInstance(input: { instanceId: InstanceId }): Promise<{
    generation: number;
    how: StartResult['how'];
    /** The move that had stopped it; what it left can be removed. */
    move: MoveRef | null;
  }>;
  /** The release that this host has given, for a new owner who has not heard of it. */
  findRelease(input: { instanceId: InstanceId }): Promise<{
    release: SignedText;
    packageId: PackageId;
    /** The new owner’s. */
    generation: number;
    to: HostId;
  }>;
  /** Gives up a paused copy that was never released to this host, and what this move prepared. */
  discardCopy(input: MoveRef): Promise<void>;
  /**
   * Takes note of the move's fence and gives up what it ends here. Not `final`, this host is only asked, and refuses if what
   * it has of the instance is newer than the package.
   */
  obeyFence(input: MoveRef & { final: boolean }): Promise<FenceObeyed>;

  // packages
  /** `gently`: nobody waits for it; it rests as long as it reads. */
  verifyPackage(input: { packageId: PackageId; gently?: boolean }): Promise<PackageFacts>;
  /** Fetches it, or what is damaged of the copy that is there; `instanceId` and `generation` as the catalog has them. */
  pullPackage(input: {
    packageId: PackageId;
    instanceId: InstanceId;
    generation: number;
    source: SignedText;
  }): Promise<{ bytes: number }>;
  deletePackage(input: { packageId: PackageId }): Promise<{ bytes: number }>;
}

export interface FenceObeyed {
  /** What there was of the instance. */
  found: 'nothing' | 'a paused copy' | 'a stopped instance' | 'a running instance';
  /** Folder to which disks were put aside that are newer than the package. */
  kept: string | null;
}

export interface SaveFacts {
  /** Milliseconds from the suspend to the end of the activity, by the source's monotonic clock. */
  stoppedMillis: number;
  saveBytes: number;
}
