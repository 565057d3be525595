/**
 * What was observed of a pool while instances moved: all that the checker knows. It is plain JSON, so that a verdict can
 * be looked into, and reached again.
 *
 * Times are milliseconds of the machine's CLOCK_MONOTONIC, which all simulated hosts share. Whoever observes makes each
 * window wide enough for what is imprecise about its way of looking; the rules then need no tolerance of their own.
 */
export type Time = number;

/** Something happened after the one and at the latest at the other: what looking from time to time can tell. */
export interface Between {
  /** 0 where it was so before the first look. */
  after: Time;
  by: Time;
}

export interface History {
  version: 1;
  from: Time;
  to: Time;
  hosts: string[];
  instances: WatchedInstance[];
  /** What the campaign did to the pool. Some of it excuses what would otherwise be a violation; see `checker.ts`. */
  disturbances: Disturbance[];
  /** When hosts were off, as the observers saw it. */
  outages: Outage[];
  qemus: QemuLife[];
  events: LibvirtEvent[];
  consoles: ConsoleLog[];
  ledger: LedgerEntry[];
  records: RecordVersion[];
  things: Thing[];
  packages: SealedPackage[];
  checkpoints: Checkpoint[];
  diskChecks: DiskCheck[];
  bystanders: Bystander[];
  /** How the hosts were when the observation ended; only what is settled by then is judged by it. */
  final: HostState[];
  looks: Looks;
}

/**
 * How an instance should be found at the end: `running` on its owner, `stopped` with its state kept, `deleted`, or
 * `moving`, which is also a parked move: then nothing is said about what it leaves.
 */
export type Expectation = 'running' | 'stopped' | 'deleted' | 'moving';

export interface WatchedInstance {
  id: string;
  name: string;
  ip: string;
  from: Time;
  expected: Expectation;
}

/**
 * `power-loss` and `qemu-killed` may cost an instance its RAM; `fenced` is the operator's word that a host will not come
 * back with what it owned, and costs the instances (`ids`) what they did since the package from which they go on;
 * `operator-deleted` names packages, images or instances; `disk-full` and `read-only` may cost a process its console. All
 * others excuse nothing.
 */
export type DisturbanceKind =
  | 'power-loss'
  | 'qemu-killed'
  | 'fenced'
  | 'operator-deleted'
  | 'qemu-stopped'
  | 'qemu-continued'
  | 'worker-killed'
  | 'worker-stopped'
  | 'worker-continued'
  | 'libvirtd-killed'
  | 'libvirtd-stopped'
  | 'libvirtd-continued'
  | 'control-killed'
  | 'link-cut'
  | 'link-joined'
  | 'link-slowed'
  | 'disk-full'
  | 'disk-failed'
  | 'read-only'
  | 'clock-wrong'
  | 'started'
  | 'other';

export interface Disturbance {
  kind: DisturbanceKind;
  at: Time;
  host: string | null;
  /** Instances that it strikes; null: whatever was there. For `operator-deleted` ids of any kind. */
  ids: string[] | null;
  note: string | null;
}

/** While a host is off nothing of its disk can be seen. What is missing at the first look afterwards went with its power. */
export interface Outage {
  host: string;
  /** After the last look. */
  from: Time;
  /** After the first look since; null: it is still off. */
  to: Time | null;
}

/** One QEMU process, from its start to its end. */
export interface QemuLife {
  host: string;
  instance: string;
  pid: number;
  /** Clock ticks since boot, as in /proc/PID/stat. */
  startTime: number;
  /** Of the folder in which its disks lie; null if they lie elsewhere. */
  generation: number | null;
  began: Between;
  /** Null: it lives. */
  ended: Between | null;
  runs: Run[];
}

/**
 * The vCPUs ran at some instant in (after, first] and at some instant in (last, by]. Between `first` and `last`, where the
 * one lies before the other, they ran all the time, but for pauses too short to do anything else in.
 */
export interface Run {
  after: Time;
  first: Time;
  last: Time;
  by: Time;
}

/** libvirt's word, as it came. `event` and `detail` are numbers of VIR_DOMAIN_EVENT_*. */
export interface LibvirtEvent {
  host: string;
  instance: string;
  event: number;
  detail: number;
  /** After the event before it of this domain, or after the connection was opened: what happens without one is not told. */
  at: Between;
}

/** What one file of a guest's serial console held. */
export interface ConsoleLog {
  host: string;
  instance: string;
  generation: number;
  /** Up to its first newline, that included: the end of a line that begins elsewhere, perhaps. At most 400 characters. */
  head: string;
  /** After its last newline: the beginning of a line that ends elsewhere, perhaps. At most 400 characters. */
  tail: string;
  spans: Span[];
}

/** Counts that followed one another without a gap, and when the first and the last of them were seen. */
export interface Span {
  from: number;
  to: number;
  firstAt: Time;
  lastAt: Time;
}

/** A file of an ownership ledger; it is made once and never changed. */
export interface LedgerEntry {
  host: string;
  instance: string;
  kind: 'owned' | 'decision' | 'fence' | 'seen' | 'receipt' | 'sealed';
  generation: number;
  written: Between;
  /** When a power loss took it, which had not been synced: nobody can have acted on it. Null: it is there. */
  gone: Between | null;
  packageId: string | null;
  /** Of a decision. */
  decision: 'release' | 'return' | 'end' | 'fence' | null;
  /** The host to which a release or a fence gives the instance. */
  to: string | null;
}

/** A version of a small record that may be replaced or removed: save-, resumed-, reserved.json, network/. */
export interface RecordVersion {
  host: string;
  /** Below the state directory. */
  path: string;
  at: Between;
  /** Null: it was removed. */
  content: unknown;
}

/** A file or folder of a host, from when to when it was there. */
export interface Thing {
  host: string;
  /** Below the state directory. */
  path: string;
  appeared: Between;
  /** Null: still there. */
  gone: Between | null;
  /** Of a save file: when it held all of RAM. Null: it does not yet. */
  complete: Between | null;
}

export interface SealedPackage {
  host: string;
  id: string;
  appeared: Between;
  gone: Between | null;
  /** As first seen: SHA-256 by name below the package. */
  files: Record<string, string>;
  changes: PackageChange[];
}

export interface PackageChange {
  at: Time;
  file: string;
  what: 'added' | 'written' | 'removed' | 'digest differs';
}

/** What a guest said over HTTP. */
export interface Checkpoint {
  instance: string;
  host: string;
  asked: Time;
  answered: Time;
  token: string;
  counter: number;
  /** Lines of its file that it had synced. */
  synced: number;
}

/** What a guest found in its file, read from its disk. */
export interface DiskCheck {
  instance: string;
  host: string;
  asked: Time;
  answered: Time;
  lines: number;
  first: number;
  last: number;
  gaps: number;
  torn: number;
  boots: number;
}

/** Something planted before the run that no move made. Digests of what it is; null: it is gone. */
export interface Bystander {
  host: string;
  what: string;
  /** Below the state directory, if it lies there. */
  path: string | null;
  before: string;
  after: string | null;
}

export interface HostState {
  host: string;
  at: Time;
  /** Off, or without a libvirtd that answers: then nothing is known of domains, DHCP and rules. */
  domains: { uuid: string; name: string; running: boolean; active: boolean; persistent: boolean }[] | null;
  dhcp: { mac: string; ip: string }[] | null;
  /** Instances that the anti-spoofing rules admit. */
  rules: string[] | null;
  /** Paths below the state directory, folders with a slash at the end; contents of images and packages are left out. */
  files: string[];
}

/** How well the observers could see. */
export interface Looks {
  /** How often at the vCPUs of all QEMUs. */
  count: number;
  /** Longest time between two of them. */
  longestPause: Time;
  /** CPU time that the observers used. */
  cpuMillis: number;
}

export interface Violation {
  /** Of the design's six; 0: the history contradicts itself, so the observers missed something. */
  invariant: 0 | 1 | 2 | 3 | 4 | 5 | 6;
  /** Null where it is about a host as a whole. */
  instance: string | null;
  hosts: string[];
  at: Time;
  text: string;
}
