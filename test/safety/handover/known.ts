/**
 * Schedules with a name: the ways in which an instance was doubled, lost or stranded once, or would be if one guard were
 * taken away. Each needs one order of events that chance finds seldom.
 */
import type { Instruction, Schedule } from './campaign.ts';

const ALPHA = 0;
const BETA = 1;
const GAMMA = 2;

const STEPS = [
  'preflightSource',
  'preflightDestination',
  'reserve',
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
  'settleMove',
] as const;

const go: Instruction = { do: 'advance' };
const times = (count: number): Instruction[] => Array<Instruction>(count).fill(go);
/** From the beginning of a move up to this step, which is not taken. */
const before = (step: (typeof STEPS)[number]): Instruction[] => times(STEPS.indexOf(step));
/** A whole move. */
const move = times(STEPS.length);
/** The steps of a save, up to its package. */
const save: Instruction[] = [{ do: 'begin', to: ALPHA }, ...times(5)];

const schedule = (instructions: Instruction[], rest: Partial<Schedule> = {}): Schedule => ({
  hosts: 3,
  finish: 'on',
  instructions,
  ...rest,
});

export const KNOWN: Record<string, Schedule> = {
  // ---- Guards without which an instance is doubled or lost ----

  'a copy that was never released does not run, whatever it is shown as a release': schedule([
    ...before('releaseInstance'),
    { do: 'order', activity: 'resumeInstance', host: BETA, release: 9, record: ALPHA },
    { do: 'order', activity: 'resumeInstance', host: BETA, with: { source: '' } },
    { do: 'back' },
    go,
  ]),
  'a release for one host lets no other run': schedule([
    ...before('restoreInstance'),
    { do: 'order', activity: 'restoreInstance', host: BETA },
    { do: 'elsewhere', to: GAMMA },
    ...times(8),
    { do: 'order', activity: 'resumeInstance', host: BETA, release: 0, record: ALPHA },
  ]),
  'nothing is released to a host that has not restored it': schedule([
    ...before('transferPackage'),
    { do: 'order', activity: 'releaseInstance', host: ALPHA, receipt: 9, record: BETA },
    { do: 'order', activity: 'releaseInstance', host: ALPHA, record: BETA },
  ]),
  'a receipt of an earlier move is none for this one': schedule([
    ...move,
    ...before('transferPackage'),
    { do: 'order', activity: 'releaseInstance', host: BETA, move: 1, receipt: 0, record: BETA },
    { do: 'order', activity: 'releaseInstance', host: BETA, move: 1, receipt: 0, record: ALPHA },
  ]),
  'a libvirtd that dies between the file and the end of QEMU leaves the guest stopped': schedule([
    ...before('saveInstance'),
    { do: 'advance', save: 'libvirtd dies as it ends QEMU' },
    { do: 'start libvirtd', host: ALPHA },
  ]),
  'a restore can be repeated as often as it takes, also after QEMU has opened the disk': schedule([
    ...before('restoreInstance'),
    { do: 'advance', die: 'restored' },
    { do: 'advance', die: 'restored' },
    go,
    { do: 'lose power', host: BETA, loss: 'nothing' },
  ]),
  'a package that arrives damaged is fetched again': schedule([
    ...before('transferPackage'),
    { do: 'damage', host: BETA },
    go,
  ]),
  'a released instance stays released when its source loses power': schedule([
    ...before('releaseInstance'),
    go,
    { do: 'lose power', host: ALPHA, loss: 'everything' },
    go,
    { do: 'order', activity: 'returnInstance', host: ALPHA },
    { do: 'order', activity: 'startInstance', host: ALPHA },
  ]),
  'a host that has taken over stays owner when it loses power': schedule([
    ...before('resumeInstance'),
    go,
    { do: 'lose power', host: BETA, loss: 'everything' },
    { do: 'lose power', host: ALPHA, loss: 'content' },
  ]),
  'an instance that was taken back is not given away by a call that wakes late': schedule([
    ...before('releaseInstance'),
    { do: 'advance', hold: 'find' },
    { do: 'order', activity: 'returnInstance', host: ALPHA },
    { do: 'order', activity: 'resumeInstance', host: BETA, release: 0, record: ALPHA },
  ]),
  'a source that runs again is not given away': schedule([
    ...before('releaseInstance'),
    { do: 'person', host: ALPHA, act: 'start' },
    go,
    go,
  ]),
  'a source that ran again and is down is not given away': schedule([
    ...before('releaseInstance'),
    { do: 'person', host: ALPHA, act: 'start' },
    { do: 'kill qemu', host: ALPHA },
    go,
    go,
  ]),
  'an old package is not opened again when the instance has gone on': schedule([
    ...move,
    ...before('saveInstance'),
    { do: 'order', activity: 'openPackage', host: BETA, record: ALPHA },
    { do: 'order', activity: 'openPackage', host: ALPHA, record: ALPHA },
    { do: 'order', activity: 'resumeInstance', host: BETA, release: 0, record: ALPHA },
  ]),

  // ---- What was found ----

  'a call to resume that wakes late does not boot what was saved since': schedule([
    ...move,
    ...before('transferPackage'),
    { do: 'order', activity: 'resumeInstance', host: BETA, release: 0, record: ALPHA },
  ]),

  'what was saved is not used again once the instance was taken back and ran': schedule([
    ...before('saveInstance'),
    { do: 'advance', save: 'libvirtd dies as it ends QEMU' },
    { do: 'start libvirtd', host: ALPHA },
    { do: 'back' },
    { do: 'advance', unheard: true },
    { do: 'count' },
    { do: 'lose power', host: ALPHA, loss: 'nothing' },
  ]),
  'a save file is not believed that is older than the guest': schedule([
    ...before('saveInstance'),
    { do: 'advance', save: 'libvirtd dies as it ends QEMU', die: 'written' },
    { do: 'start libvirtd', host: ALPHA },
    { do: 'advance', hold: 'suspend' },
    { do: 'lose power', host: ALPHA, loss: 'nothing' },
  ]),
  'a save file is not believed that is older than the guest, were its removal lost': schedule([
    ...before('saveInstance'),
    { do: 'advance', save: 'libvirtd dies as it ends QEMU', die: 'written' },
    { do: 'start libvirtd', host: ALPHA },
    { do: 'advance', hold: 'suspend' },
    { do: 'lose power', host: ALPHA, loss: 'everything' },
  ]),
  'nothing is cleared away that an instance would be continued from': schedule(
    [
      ...before('rebaseOverlay'),
      { do: 'order', activity: 'settleMove', host: ALPHA, with: { role: 'source', outcome: 'returned' } },
      { do: 'order', activity: 'settleMove', host: ALPHA, with: { role: 'destination', outcome: 'moved' } },
    ],
    { finish: 'back' },
  ),
  'nothing is cleared away that an instance is being restored from': schedule(
    [
      ...before('buildPackage'),
      { do: 'back' },
      { do: 'advance', die: 'taken-back' },
      { do: 'order', activity: 'settleMove', host: ALPHA, with: { role: 'source', outcome: 'returned' } },
    ],
    { finish: 'back' },
  ),
  'half a staging folder is not taken for a whole one': schedule([
    ...before('releaseInstance'),
    { do: 'order', activity: 'discardCopy', host: BETA, die: 2 },
    { do: 'order', activity: 'discardCopy', host: BETA, die: 1 },
    { do: 'order', activity: 'discardCopy', host: BETA, die: 0 },
    go,
  ]),
  'an instance that a person starts as it is released does not run twice': schedule([
    ...before('releaseInstance'),
    { do: 'advance', hold: 'released' },
    { do: 'person', host: ALPHA, act: 'start' },
    { do: 'wake', pick: 0 },
    go,
    go,
  ]),
  'an old release that is asked for again does not touch an instance that has come back': schedule([
    ...move,
    { do: 'begin', to: ALPHA },
    ...move,
    { do: 'order', activity: 'releaseInstance', host: ALPHA, receipt: 0, record: BETA },
  ]),
  'an instance that a person started again is returned as it runs': schedule(
    [...before('transferPackage'), { do: 'person', host: ALPHA, act: 'start' }],
    { finish: 'back' },
  ),
  'an instance that ran on by hand is returned from its disk, not from its older RAM': schedule(
    [
      ...before('transferPackage'),
      { do: 'person', host: ALPHA, act: 'start' },
      { do: 'count' },
      { do: 'kill qemu', host: ALPHA },
    ],
    { finish: 'back' },
  ),
  'a disk that was written after the save is not packed with the RAM of before': schedule([
    { do: 'begin', to: ALPHA },
    ...times(2),
    { do: 'person', host: ALPHA, act: 'start' },
    { do: 'kill qemu', host: ALPHA },
  ]),
  'the package that a saved instance waits in is not deleted': schedule([
    ...save,
    { do: 'order', activity: 'deletePackage', host: ALPHA },
  ]),
  'a saved instance is taken back from its package, opened or not': schedule([
    ...save,
    { do: 'order', activity: 'returnInstance', host: ALPHA },
  ]),
  'what another instance was saved in is not cleared away by mistake': schedule(
    [
      ...before('transferPackage'),
      {
        ...{ do: 'order', activity: 'settleMove', host: ALPHA, folder: 'bystander' },
        with: { role: 'source', outcome: 'saved' },
      },
      { do: 'order', activity: 'discardCopy', host: ALPHA, folder: 'bystander' },
      { do: 'order', activity: 'discardCopy', host: BETA, folder: 'bystander' },
    ],
    { bystander: 9 },
  ),
  'what another instance was saved in is not written to by mistake': schedule(
    [
      ...before('saveInstance'),
      { do: 'order', activity: 'saveInstance', host: ALPHA, folder: 'bystander' },
      go,
      { do: 'order', activity: 'rebaseOverlay', host: ALPHA, folder: 'bystander' },
      { do: 'order', activity: 'buildPackage', host: ALPHA, folder: 'bystander', with: { compressionLevel: 1 } },
      { do: 'order', activity: 'encryptPackage', host: ALPHA, folder: 'bystander', record: BETA },
      { do: 'order', activity: 'returnInstance', host: ALPHA, folder: 'bystander' },
    ],
    { bystander: 4 },
  ),
  'an instance is not restored from what an earlier move has brought': schedule([
    ...move,
    { do: 'begin', to: ALPHA },
    ...before('settleMove'),
    // The staging folder of that move is still there.
    { do: 'begin', to: BETA, beside: true },
    ...before('transferPackage'),
    { do: 'order', activity: 'returnInstance', host: ALPHA, move: 2, folder: 1 },
  ]),
  'an instance is not saved by the name of the move that has brought it, and then restored from what that brought':
    schedule([
      ...before('settleMove'),
      { do: 'order', activity: 'saveInstance', host: BETA, later: 1 },
      { do: 'order', activity: 'returnInstance', host: BETA, later: 1 },
    ]),
  'nothing is restored by the XML of the host that it came from': schedule([
    ...before('rewriteXml'),
    { do: 'order', activity: 'restoreInstance', host: BETA },
  ]),
  'a move comes to its end although the instance was to be saved by its name since': schedule([
    ...before('settleMove'),
    { do: 'advance', unheard: true },
    { do: 'order', activity: 'saveInstance', host: BETA, later: 1, die: 'recorded' },
    go,
    { do: 'order', activity: 'returnInstance', host: BETA, later: 1 },
  ]),
  'a package whose transfer died with its last step is there to stay': schedule([
    ...before('transferPackage'),
    { do: 'advance', die: 36 },
    ...times(5),
    { do: 'lose power', host: BETA, loss: 'names' },
  ]),
  'a disk that rots where it was opened is not given to the guest, but opened once more': schedule([
    ...before('resumeInstance'),
    { do: 'lose power', host: BETA, loss: 'nothing' },
    { do: 'rot', host: BETA },
  ]),
  'a generation that came and never ran is not taken back as if it had': schedule([
    ...before('resumeInstance'),
    { do: 'advance', die: 'owned' },
    { do: 'order', activity: 'returnInstance', host: BETA, later: 1 },
    { do: 'count' },
    { do: 'lose power', host: BETA, loss: 'nothing' },
    { do: 'order', activity: 'returnInstance', host: BETA, later: 1 },
  ]),
  'the way back survives a power loss before the copy is restored': schedule(
    [
      ...before('rebaseOverlay'),
      { do: 'back' },
      { do: 'advance', die: 'restorePaused', loss: 'everything' },
      { do: 'advance', die: 'restorePaused', loss: 'content' },
    ],
    { finish: 'back' },
  ),
  'a copy that may have run is bootable after a power loss': schedule([
    ...before('resumeInstance'),
    { do: 'advance', die: 'resume', loss: 'everything' },
  ]),
  'a copy that may have run is bootable after a power loss that leaves the names': schedule([
    ...before('resumeInstance'),
    { do: 'advance', die: 'resume', loss: 'content' },
  ]),
  'a folder that a dead attempt made is there to stay': schedule([
    ...before('reserve'),
    { do: 'advance', die: 1 },
    ...times(STEPS.length - 2),
    { do: 'lose power', host: BETA, loss: 'everything' },
  ]),
  'an instance that was taken back with another package in mind keeps its RAM': schedule([
    ...before('transferPackage'),
    {
      ...{ do: 'order', activity: 'returnInstance', host: ALPHA, die: 'taken-back' },
      with: { packageId: '11111111-1111-4111-8111-111111111111' },
    },
  ]),
  'what arrives has its address, whatever was cleared up meanwhile': schedule([
    ...before('transferPackage'),
    { do: 'order', activity: 'discardCopy', host: BETA },
  ]),
};
