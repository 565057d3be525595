/**
 * What may be found to differ between the three accounts of a pool: what runs on its hosts, what their records say, what the
 * catalog says. One table says of each kind how bad it is, whether an open move explains it, and what may be done about it
 * without asking anybody. Why these and no others: docs/decisions/0006-what-is-mended-and-what-is-told.md.
 *
 * Sandbox-safe: imported by workflows, activities and client alike.
 */
import type { HostId, ImageId, InstanceId, MoveId, MoveRef, PackageId } from './contract.ts';
import { EXIT } from './failures.ts';

/**
 * `critical`: an instance, or its only copy, is in danger. `warning`: something is not as it should be and a person has to
 * decide. `info`: a leftover.
 */
export type Severity = 'critical' | 'warning' | 'info';

/** What vmferry itself may do about a finding, because it is provably safe. */
export type Mend =
  // by the host alone
  | 'suspend' // the vCPUs stop; nothing is lost
  | 'undefine' // libvirt forgets a domain that is shut off and belongs elsewhere
  | 'autostartOff'
  | 'expel' // DHCP entry and anti-spoofing rule
  | 'completeTakeBack' // the second of two files, proved by the first
  | 'remove' // a file or folder that nobody will ever finish
  // with the catalog
  | 'followOwner' // the catalog says what the owner’s records say
  | 'settle' // what the move itself would have removed on its way out
  | 'forgetPackage' // the catalog’s line about a package that is not there
  | 'listPackage'; // another place of a package that the catalog knows

/**
 * What is done with the catalog’s knowledge, once it is certain that no workflow of the instance is open: by a workflow that
 * holds the instance’s id while it does so, and looks again first.
 */
export type Repair =
  | { kind: 'followOwner'; instanceId: InstanceId; host: HostId; generation: number; savedAs: PackageId | null }
  /** The step that the move itself would have ended with on this host. */
  | { kind: 'clearUp'; host: HostId; move: MoveRef; as: 'gone' | 'kept' | 'copy' }
  | { kind: 'forgetPackage' | 'listPackage'; host: HostId; packageId: PackageId };

interface FindingKind {
  readonly severity: Severity;
  /** Exit code of `vmferry doctor` when this is the worst that it finds; those of `info` are never used. */
  readonly exit: number;
  /** A workflow under way explains it: a move leaves things behind on purpose, for its next step. */
  readonly explained: boolean;
  /** Null: a person decides. Where there is one, it may still depend on the case; see the finding’s own. */
  readonly mend: Mend | null;
  /** The next thing to try. */
  readonly advice: (about: Pick<Finding, 'host' | 'instanceId' | 'packageId' | 'imageId' | 'path'>) => string;
}

const kind = (
  severity: Severity,
  options: { explained?: true; mend?: Mend; exit?: number },
  advice: FindingKind['advice'],
): FindingKind => ({
  severity,
  exit: options.exit ?? EXIT.conflict,
  explained: options.explained ?? false,
  mend: options.mend ?? null,
  advice,
});

const MENDS_ITSELF = (): string => '`vmferry doctor --mend` does what is needed.';
const CLEARS_AWAY = (): string => '`vmferry doctor --mend` clears it away, once it is certain that nobody needs it.';

export const FINDINGS = {
  // ---- What runs ----
  runsWithoutRight: kind(
    'critical',
    { mend: 'suspend', exit: EXIT.untrusted },
    ({ instanceId = 'ID' }) =>
      `Find out who started it: autostart, a supervisor, a person. When nothing of it is needed: \`virsh destroy ${instanceId}\` there.`,
  ),
  runsUnknown: kind(
    'critical',
    { exit: EXIT.untrusted },
    ({ host, instanceId = 'ID' }) =>
      `vmferry leaves it alone. Is it a copy that was made by hand? \`virsh -c qemu:///system domstate ${instanceId}\` on ${host}.`,
  ),
  processWithoutDomain: kind(
    'critical',
    {},
    ({ host }) => `libvirt has lost sight of a living QEMU on ${host}: restart libvirtd there, or end that process.`,
  ),
  ranOnAfterSave: kind(
    'warning',
    {},
    ({ instanceId = 'ID' }) =>
      `What was saved is no longer its last state, and no other host will be given it. \`vmferry instances start ${instanceId}\` settles that it stays.`,
  ),
  paused: kind(
    'warning',
    { explained: true },
    ({ instanceId = 'ID' }) => `\`vmferry instances start ${instanceId}\` lets it run.`,
  ),
  down: kind(
    'warning',
    { explained: true },
    ({ instanceId = 'ID' }) => `\`vmferry instances start ${instanceId}\` runs it again.`,
  ),
  pausedWithoutRight: kind(
    'warning',
    {},
    ({ instanceId = 'ID' }) =>
      `It never runs again. When nothing of it is needed: \`virsh destroy ${instanceId}\` there.`,
  ),
  waitingCopy: kind('info', { explained: true, mend: 'settle' }, CLEARS_AWAY),
  stillDefined: kind('info', { mend: 'undefine' }, MENDS_ITSELF),
  startsByItself: kind('warning', { mend: 'autostartOff' }, MENDS_ITSELF),

  // ---- What is recorded ----
  takeBackUnfinished: kind('info', { mend: 'completeTakeBack' }, MENDS_ITSELF),
  recordUnreadable: kind(
    'critical',
    { exit: EXIT.damaged },
    ({ host }) =>
      `Somebody or something changed the named file on ${host}; put it right from a backup. Nothing is done about this instance there.`,
  ),
  baseMissing: kind(
    'critical',
    { exit: EXIT.damaged },
    ({ host }) => `The disk cannot be read without it. Put the image back: \`vmferry images pull IMAGE ${host}\`.`,
  ),
  diskMalformed: kind(
    'critical',
    { exit: EXIT.damaged },
    ({ host, path = 'FILE' }) =>
      `\`qemu-img check ${path}\` on ${host} tells more; its newest package may be all there is.`,
  ),
  strayAddress: kind('info', { mend: 'expel' }, MENDS_ITSELF),
  expectedHere: kind('info', { explained: true, mend: 'settle' }, CLEARS_AWAY),
  strangeDhcpEntry: kind(
    'info',
    {},
    ({ host }) => `No record of vmferry’s asks for it: \`virsh net-edit guests\` on ${host}, if nobody else needs it.`,
  ),
  workingCopyLeft: kind('info', { explained: true, mend: 'settle' }, CLEARS_AWAY),
  moveFolderLeft: kind(
    'info',
    { explained: true, mend: 'settle' },
    ({ host, path = '' }) => `When nothing of it is needed, remove ${path} on ${host}.`,
  ),
  halfWritten: kind('info', { mend: 'remove' }, MENDS_ITSELF),
  unknownLeftover: kind('info', {}, ({ host, path = '' }) => `When nobody needs it, remove ${path} on ${host}.`),

  // ---- Hosts and catalog ----
  hostSilent: kind(
    'warning',
    { exit: EXIT.unreachable },
    ({ host }) => `Start \`vmferry-host\` on ${host}; nothing can be said about what runs there.`,
  ),
  twoOwners: kind(
    'critical',
    { exit: EXIT.untrusted },
    ({ instanceId = 'ID' }) =>
      `Start it nowhere. Compare the files under instances/${instanceId}/ledger on these hosts: their chains tell where they part.`,
  ),
  staleOwner: kind(
    'critical',
    { explained: true, exit: EXIT.untrusted },
    ({ host, instanceId = 'ID' }) =>
      `Do not start it on ${host}. Was its state directory brought back from a backup? \`vmferry instances show ${instanceId}\` shows how the instance went on.`,
  ),
  noOwner: kind(
    'critical',
    { explained: true, exit: EXIT.untrusted },
    ({ instanceId = 'ID' }) =>
      `Look for its packages: \`vmferry packages list\`. Was the state directory of a host lost? \`vmferry instances show ${instanceId}\` shows its history.`,
  ),
  releaseNotTaken: kind(
    'warning',
    { explained: true },
    ({ instanceId = 'ID' }) => `\`vmferry instances start ${instanceId}\` lets the new owner run it.`,
  ),
  catalogBehind: kind('info', { explained: true, mend: 'followOwner' }, MENDS_ITSELF),
  notInCatalog: kind(
    'warning',
    { explained: true },
    ({ host }) => `It runs and cannot be moved. Was the catalog restored from a backup? Its owner is ${host}.`,
  ),
  moveWithoutWorkflow: kind('info', { explained: true, mend: 'followOwner' }, MENDS_ITSELF),
  neverSpawned: kind(
    'info',
    { explained: true },
    ({ instanceId = 'ID' }) => `\`vmferry instances delete ${instanceId}\` frees its name and address.`,
  ),
  endUnfinished: kind(
    'info',
    { explained: true },
    ({ instanceId = 'ID' }) => `\`vmferry instances delete ${instanceId}\` finishes it.`,
  ),
  imageMissing: kind(
    'warning',
    { explained: true, exit: EXIT.damaged },
    ({ host, imageId = 'IMAGE' }) => `\`vmferry images pull ${imageId} ${host}\` brings it there again.`,
  ),
  packageMissing: kind('warning', { explained: true, mend: 'forgetPackage', exit: EXIT.damaged }, MENDS_ITSELF),
  neededPackageMissing: kind(
    'critical',
    { explained: true, exit: EXIT.damaged },
    ({ host, packageId = 'ID' }) =>
      `Bring it back from a host that has it: \`vmferry packages pull ${packageId} ${host}\`.`,
  ),
  packageDamaged: kind(
    'warning',
    { exit: EXIT.damaged },
    ({ host, packageId = 'ID' }) =>
      `\`vmferry packages pull ${packageId} ${host}\` repairs it from a whole copy; what nobody needs, \`vmferry packages delete\` removes. Look after that disk.`,
  ),
  neededPackageDamaged: kind(
    'critical',
    { exit: EXIT.damaged },
    ({ host, packageId = 'ID' }) =>
      `Repair it from a whole copy before it is needed: \`vmferry packages pull ${packageId} ${host}\`. Look after that disk.`,
  ),
  packageNotInCatalog: kind(
    'info',
    { explained: true },
    ({ host, path = '' }) => `When nobody needs it, remove ${path} on ${host}.`,
  ),
} as const satisfies Record<string, FindingKind>;

export type FindingType = keyof typeof FINDINGS;

export interface Finding {
  type: FindingType;
  severity: Severity;
  /** Where it was found. */
  host: HostId;
  /** What it is about, for people. */
  subject: string;
  found: string;
  expected: string;
  advice: string;
  instanceId?: InstanceId;
  moveId?: MoveId;
  packageId?: PackageId;
  imageId?: ImageId;
  /** A file or folder on the host. */
  path?: string;
  bytes?: number;
  mend: Mend | null;
  /** How it would be mended where the host alone cannot. */
  repair?: Repair;
  /** Set once somebody has tried. */
  mended?: boolean;
  /** Why the mend did not come about. */
  mendFailure?: string;
}

/** A finding in the words of the table. `mend: null` where this case is none that may be mended. */
export function finding(
  type: FindingType,
  about: Omit<Finding, 'type' | 'severity' | 'advice' | 'mend'> & Partial<Pick<Finding, 'mend' | 'severity'>>,
): Finding {
  const { severity, mend, advice } = FINDINGS[type];
  return { type, severity, mend, advice: advice(about), ...about };
}

// ---- What a host answers when it is asked how things stand ----

/** As libvirt has it. */
export type DomainState = 'running' | 'paused' | 'shut off' | 'shutting down' | 'crashed';

/** How a host came by the generation that it owns. */
export type CameBy = 'spawn' | 'release' | 'return' | 'fence';

/** All that a host knows of one instance, in short. */
export interface InstanceReport {
  instanceId: InstanceId;
  /** As libvirt, or the record of its address, has it; null if neither does. */
  name: string | null;
  /** Null: libvirt knows no such domain. */
  state: DomainState | null;
  /** By the ledger: owned, and not decided about. */
  owned: { generation: number; by: CameBy } | null;
  /** The newest decision. */
  decided: { generation: number; kind: 'release' | 'return' | 'end' | 'fence'; to: HostId | null } | null;
  /** The move that stopped the owned generation; `saved`: all of its RAM is in a file or package. */
  stopped: { moveId: MoveId; packageId: PackageId; saved: boolean } | null;
  /** The vCPUs have run in the owned generation. */
  hasRun: boolean;
  /** For which move room was made last. */
  reserved: { generation: number; moveId: MoveId } | null;
}

export interface HostReport {
  host: HostId;
  instances: InstanceReport[];
  /** Whose records could not be looked at, because a step was at work on them. */
  busy: InstanceId[];
  /** Domains of which vmferry has no record here; most hosts have some that are none of its business. */
  others: { instanceId: InstanceId; name: string; state: DomainState }[];
  /** Whole ones. */
  packages: PackageId[];
  /** Whole ones. */
  images: ImageId[];
  findings: Finding[];
}
