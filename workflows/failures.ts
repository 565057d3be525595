/**
 * Every way in which vmferry says no, in one table: whether Temporal may try again, the exit code of the CLI, and what
 * the user can do next. Code branches on the type, never on the text of a message.
 *
 * Sandbox-safe: imported by workflows, activities, workers and client alike.
 */

interface FailureKind {
  /** May the same call succeed later without anyone changing its input? Then Temporal's retry policy applies. */
  readonly retry: boolean;
  /** Exit code of the CLI when this failure ends a command. */
  readonly exit: number;
  /** The next thing to try, in one sentence. */
  readonly advice: string;
}

/** Exit codes of the CLI. Scripts must read any other code as failure. */
export const EXIT = {
  ok: 0,
  failure: 1,
  usage: 2,
  notFound: 3,
  conflict: 4,
  unreachable: 5,
  refused: 6,
  untrusted: 7,
  damaged: 8,
  returned: 9,
  parked: 10,
  abandoned: 11,
  interrupted: 130,
} as const;

const kind = (retry: boolean, exit: number, advice: string): FailureKind => ({ retry, exit, advice });

export const FAILURES = {
  // What the caller asked for
  InvalidInput: kind(false, EXIT.usage, 'See `vmferry help COMMAND` for what the command takes.'),
  ProfileInvalid: kind(
    false,
    EXIT.usage,
    'Mend the profile, or name another with --profile; `vmferry help profile` shows its form.',
  ),
  SameHost: kind(false, EXIT.usage, 'Name another host; `vmferry nodes list` shows them.'),
  InstanceNotFound: kind(false, EXIT.notFound, '`vmferry instances list` shows what there is.'),
  HostNotFound: kind(
    false,
    EXIT.notFound,
    '`vmferry nodes list` shows the pool; `vmferry nodes add HOST` adds a host.',
  ),
  ImageNotFound: kind(false, EXIT.notFound, '`vmferry images list` shows what there is.'),
  PackageNotFound: kind(false, EXIT.notFound, '`vmferry packages list` shows what there is.'),
  MoveNotFound: kind(false, EXIT.notFound, '`vmferry moves list` shows the moves.'),
  FileNotFound: kind(false, EXIT.notFound, 'Give the path of a file on the host that is to read it.'),
  AlreadyExists: kind(false, EXIT.conflict, 'Choose another name, or delete the one that is there first.'),
  InUse: kind(false, EXIT.conflict, 'Delete or move what uses it first.'),
  InstanceBusy: kind(true, EXIT.conflict, 'Wait for the other operation; `vmferry moves list` shows it.'),
  InstanceNotRunning: kind(false, EXIT.conflict, '`vmferry instances show ID` tells its state.'),
  InstanceRunning: kind(false, EXIT.conflict, 'It runs already; `vmferry instances migrate ID HOST` moves it.'),

  // The world around
  HostUnreachable: kind(
    true,
    EXIT.unreachable,
    'Check that the host worker runs and reaches the others: `vmferry doctor`.',
  ),
  ServerUnreachable: kind(true, EXIT.unreachable, 'Check the Temporal address in the profile: `vmferry doctor`.'),
  ServerRefused: kind(false, EXIT.refused, '`vmferry doctor` says what the Temporal server lacks.'),
  CatalogUnreachable: kind(true, EXIT.unreachable, 'Check the catalog address in the profile: `vmferry doctor`.'),
  NoSpace: kind(true, EXIT.refused, 'Free space on the named host; the move goes on by itself.'),
  LibvirtFailed: kind(
    true,
    EXIT.failure,
    'The message is libvirt’s own; look into the libvirtd log of the named host.',
  ),
  StepStalled: kind(
    true,
    EXIT.failure,
    'Nothing to do: another attempt has taken the place of the one that stood still.',
  ),
  StepTooLate: kind(false, EXIT.failure, 'Nothing to do: its move had been given up on that host.'),
  CommandFailed: kind(true, EXIT.failure, 'The message ends with what the command printed.'),

  // Known before the VM stops
  IncompatibleHost: kind(false, EXIT.refused, 'Choose a host that offers what the message names.'),
  UnsupportedDevice: kind(false, EXIT.refused, 'Detach the named device, or leave the instance where it is.'),

  // Trust
  HostNotCertified: kind(false, EXIT.untrusted, 'Add the host with `vmferry nodes add`, comparing its fingerprint.'),
  PoolKeyMissing: kind(false, EXIT.untrusted, 'Run this where the pool key is, or make one with `vmferry pool init`.'),
  PoolMismatch: kind(false, EXIT.untrusted, 'Install this pool’s public key on the host and start its worker again.'),
  SignatureInvalid: kind(
    false,
    EXIT.untrusted,
    'Somebody altered a signed record; take the original, and find out who.',
  ),
  WrongDestination: kind(false, EXIT.untrusted, 'Re-address the package: `vmferry moves readdress MOVE HOST`.'),
  StaleGeneration: kind(false, EXIT.untrusted, 'This package was overtaken by a later move; use the newest one.'),
  ChainBroken: kind(false, EXIT.untrusted, 'The package does not continue the instance’s releases; do not run it.'),
  ReceiptMissing: kind(
    false,
    EXIT.untrusted,
    'The destination must restore the instance before the source lets go of it.',
  ),
  ReceiptInvalid: kind(false, EXIT.untrusted, 'The receipt is for something else; retry the restore.'),
  ReleaseMissing: kind(false, EXIT.untrusted, 'The source must release the instance before this host may run it.'),
  ReleaseInvalid: kind(
    false,
    EXIT.untrusted,
    'The release is for something else; this host must not run the instance.',
  ),
  NotOwner: kind(false, EXIT.untrusted, 'Only the host that holds the newest generation may do this.'),
  OwnershipDecided: kind(
    false,
    EXIT.conflict,
    'The instance was given away or taken back already; `vmferry instances show ID`.',
  ),
  OwnershipUnclear: kind(
    false,
    EXIT.untrusted,
    'Start it nowhere until that is clear; `vmferry doctor` tells what each host says.',
  ),
  FenceMissing: kind(
    false,
    EXIT.conflict,
    'Only a fence that the pool key signed lets another host go on: `vmferry moves readdress MOVE HOST`.',
  ),
  FenceInvalid: kind(
    false,
    EXIT.untrusted,
    'The fence is for something else, or of another pool; `vmferry moves readdress MOVE HOST` signs one.',
  ),
  FenceConflict: kind(
    false,
    EXIT.conflict,
    'A generation has one fence only; go on with the host that the first one names.',
  ),
  FenceRefused: kind(
    false,
    EXIT.conflict,
    'The host lives, and what it has of the instance is newer than the package; let it go on there.',
  ),
  SourceStillRunning: kind(
    true,
    EXIT.conflict,
    'The QEMU process of the source has to end before the release; it is waited for.',
  ),
  SourceRanOn: kind(
    false,
    EXIT.conflict,
    'The instance ran on at the source after it was saved; return it there and move again.',
  ),

  // Damage
  SegmentDamaged: kind(true, EXIT.damaged, 'The segment is fetched again; if it stays damaged, the source’s copy is.'),
  SegmentMisplaced: kind(false, EXIT.damaged, 'Segments were exchanged; somebody tampered with the package.'),
  PackageMalformed: kind(false, EXIT.damaged, 'This is no package of a version that this host reads.'),
  ForbiddenMember: kind(
    false,
    EXIT.damaged,
    'The archive holds something that its record does not list; do not use it.',
  ),
  ForeignBackingFile: kind(false, EXIT.damaged, 'The disk names a file that is not its base image; do not use it.'),
  DiskMalformed: kind(false, EXIT.damaged, 'The disk is not a plain qcow2 overlay; do not use it.'),
  ImageDamaged: kind(false, EXIT.damaged, 'The base image is not what its digest says; pull or add it again.'),
  SaveFileMalformed: kind(false, EXIT.damaged, 'The save file is not complete or not one of libvirt’s.'),
  DomainXmlRefused: kind(false, EXIT.damaged, 'The domain XML asks for something that a package may not ask for.'),
  MigrationsAltered: kind(
    false,
    EXIT.failure,
    'The catalog was made by another version; install that version or restore a backup.',
  ),

  // How a move ends without having moved
  MoveReturned: kind(false, EXIT.returned, 'The instance runs at its source again; mend the cause and migrate again.'),
  MoveParked: kind(false, EXIT.parked, '`vmferry moves show MOVE` tells the reason and the choices.'),
  MoveAbandoned: kind(
    false,
    EXIT.abandoned,
    '`vmferry instances restore ID` continues the instance from its package, there or on another host.',
  ),
  Cancelled: kind(false, EXIT.failure, '`vmferry list` shows what there is now.'),
  NotParked: kind(
    false,
    EXIT.conflict,
    'Only a parked move waits for this decision; `vmferry moves show MOVE` tells its state.',
  ),
  PointOfNoReturn: kind(
    false,
    EXIT.conflict,
    'The move can only go forward; `vmferry moves show MOVE` tells what it waits for.',
  ),
  Internal: kind(true, EXIT.failure, 'This is a defect of vmferry; please report it with the move’s history.'),
} as const satisfies Record<string, FailureKind>;

export type FailureType = keyof typeof FAILURES;

/** Is this the `type` of one of our failures? */
export function isFailureType(type: unknown): type is FailureType {
  return typeof type === 'string' && Object.hasOwn(FAILURES, type);
}

/**
 * The one error that mechanisms and steps throw on purpose. The message says what failed and on which object, and is
 * kept under 2 KB (Temporal cuts longer failures); the advice comes from the table. Workers turn it into an
 * ApplicationFailure at the boundary (`workers/failure-interceptor.ts`).
 */
export class VmferryError extends Error {
  override readonly name = 'VmferryError';
  readonly type: FailureType;

  constructor(type: FailureType, message: string, options?: { cause?: unknown }) {
    super(message, options);
    this.type = type;
  }
}
