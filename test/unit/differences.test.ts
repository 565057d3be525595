/** Row by row: what there is of an instance on a host, and what is found to be wrong with it. */
import assert from 'node:assert/strict';
import test from 'node:test';
import { differencesOf } from '../../activities/differences.ts';
import type { Domain } from '../../activities/hypervisor/hypervisor.ts';
import type { SaveRecord } from '../../activities/save-record.ts';
import type { Traces } from '../../activities/traces.ts';
import type { LedgerView } from '../../activities/trust/ledger.ts';
import type { FindingType, Mend } from '../../workflows/findings.ts';

const ID = '5d1f0000-0000-4000-8000-000000000001';
const qemu = { pid: 4711, startTime: 99 };

const domain = (state: Domain['state'], rest: Partial<Domain> = {}): Domain => ({
  instanceId: ID,
  name: 'counter',
  state,
  persistent: true,
  autostart: false,
  process: state === 'running' || state === 'paused' ? qemu : null,
  ...rest,
});

const ledger = (rest: Partial<LedgerView>): LedgerView => ({
  owned: null,
  decided: null,
  accepted: 0,
  takeBackUnfinished: false,
  ...rest,
});
const spawned = ledger({ owned: { generation: 1, by: 'spawn' } });
const arrived = ledger({ owned: { generation: 2, by: 'release' }, accepted: 2 });
const released = ledger({ decided: { generation: 1, kind: 'release', to: 'beta' } });
const ended = ledger({ decided: { generation: 3, kind: 'end', to: null } });
/** Released generation 1, and accepted a package for generation 3. */
const comingBack = ledger({ decided: { generation: 1, kind: 'release', to: 'beta' }, accepted: 3 });
/** Never owned any generation. */
const accepting = ledger({ accepted: 2 });

const save = (saved: boolean): SaveRecord => ({
  moveId: 'move-1',
  packageId: 'package-1',
  process: qemu,
  autostart: false,
  disks: [],
  saved: saved ? { bytes: 1, stoppedMillis: 1 } : null,
});
const reservedFor = (generation: number): Traces['reserved'] => ({ generation, moveId: 'move-2' });

const nothing: Traces = {
  instanceId: ID,
  name: 'counter',
  domain: null,
  ledger: null,
  save: null,
  hasRun: false,
  reserved: null,
  admitted: false,
  copies: [],
  unreadable: [],
  restoredBy: null,
};

type Row = [situation: string, traces: Partial<Traces>, found: [FindingType, Mend | null][]];

const ROWS: Row[] = [
  // ---- as it should be ----
  ['there is nothing', {}, []],
  ['it runs where it was spawned', { ledger: spawned, domain: domain('running'), admitted: true, copies: [1] }, []],
  [
    'it runs where it came to',
    { ledger: arrived, domain: domain('running'), hasRun: true, reserved: reservedFor(2) },
    [],
  ],
  ['it is saved', { ledger: spawned, domain: domain('shut off'), save: save(true) }, []],
  ['it was released and nothing is left', { ledger: released, reserved: reservedFor(1) }, []],
  ['a save is about to begin', { ledger: spawned, domain: domain('running'), save: save(false) }, []],

  // ---- a copy without right ----
  ['it runs after the release', { ledger: released, domain: domain('running') }, [['runsWithoutRight', 'suspend']]],
  ['it runs after its end', { ledger: ended, domain: domain('running') }, [['runsWithoutRight', 'suspend']]],
  [
    'somebody resumed the copy that waits for its release',
    { ledger: accepting, domain: domain('running', { persistent: false }), restoredBy: 'move-2' },
    [['runsWithoutRight', 'suspend']],
  ],
  [
    'the same on a host that owned it once',
    { ledger: comingBack, domain: domain('running', { persistent: false }), restoredBy: 'move-2' },
    [['runsWithoutRight', 'suspend']],
  ],
  [
    'it runs, a package was accepted, and nobody can say that the move restored it',
    { ledger: comingBack, domain: domain('running') },
    [['runsUnknown', null]],
  ],
  ['it runs and no ledger knows it', { domain: domain('running') }, [['runsUnknown', null]]],
  [
    'it stands paused after the release',
    { ledger: released, domain: domain('paused') },
    [['pausedWithoutRight', null]],
  ],
  [
    'a restored copy waits for its release',
    {
      ledger: accepting,
      domain: domain('paused', { persistent: false }),
      restoredBy: 'move-2',
      admitted: true,
      copies: [2],
    },
    [['waitingCopy', 'settle']],
  ],
  [
    'the same on a host that owned it once',
    { ledger: comingBack, domain: domain('paused', { persistent: false }), reserved: reservedFor(3) },
    [['waitingCopy', 'settle']],
  ],
  [
    'libvirt still knows what was released',
    { ledger: released, domain: domain('shut off') },
    [['stillDefined', 'undefine']],
  ],
  ['libvirt still knows what has ended', { ledger: ended, domain: domain('shut off') }, [['stillDefined', 'undefine']]],
  ['libvirt still knows what no ledger knows', { domain: domain('shut off') }, []],
  [
    'a released domain whose QEMU lives on unseen',
    { ledger: released, domain: domain('shut off', { process: qemu }) },
    [['processWithoutDomain', null]],
  ],
  [
    'an owned domain whose QEMU lives on unseen',
    { ledger: spawned, domain: domain('shut off', { process: qemu }) },
    [['processWithoutDomain', null]],
  ],

  // ---- an owner that does not run it ----
  ['it is down after a power loss', { ledger: spawned, domain: domain('shut off') }, [['down', null]]],
  ['it crashed', { ledger: spawned, domain: domain('crashed') }, [['down', null]]],
  ['libvirt forgot it', { ledger: arrived }, [['down', null]]],
  [
    'power was lost between suspend and the end of the save',
    { ledger: spawned, domain: domain('shut off'), save: save(false) },
    [['down', null]],
  ],
  ['a move has suspended it', { ledger: spawned, domain: domain('paused'), save: save(false) }, [['paused', null]]],
  ['a person has paused it', { ledger: spawned, domain: domain('paused') }, [['paused', null]]],
  ['it was taken over and not yet resumed', { ledger: arrived, domain: domain('paused') }, [['paused', null]]],
  [
    'it runs though its RAM was saved',
    { ledger: spawned, domain: domain('running'), save: save(true) },
    [['ranOnAfterSave', null]],
  ],
  [
    'it is saved and would start with the host',
    { ledger: spawned, domain: domain('shut off', { autostart: true }), save: save(true) },
    [['startsByItself', 'autostartOff']],
  ],
  ['it runs and starts with the host', { ledger: spawned, domain: domain('running', { autostart: true }) }, []],

  // ---- records and files ----
  [
    'a crash between the two files of a return',
    {
      ledger: ledger({
        owned: { generation: 2, by: 'return' },
        decided: { generation: 1, kind: 'return', to: null },
        takeBackUnfinished: true,
      }),
      domain: domain('running'),
    },
    [['takeBackUnfinished', 'completeTakeBack']],
  ],
  [
    'the base image of its disk is gone',
    {
      ledger: spawned,
      domain: domain('running'),
      unreadable: [{ disk: '/d/vda.qcow2', path: '/i/disk.img', why: 'missing' }],
    },
    [['baseMissing', null]],
  ],
  [
    'its disk is no disk',
    {
      ledger: spawned,
      domain: domain('shut off'),
      save: save(true),
      unreadable: [{ disk: '/d/vda.qcow2', path: '/d/vda.qcow2', why: 'malformed' }],
    },
    [['diskMalformed', null]],
  ],
  ['its address stayed after the release', { ledger: released, admitted: true }, [['strayAddress', 'expel']]],
  [
    'the same, where room was made for the generation that has gone',
    { ledger: released, admitted: true, reserved: reservedFor(1) },
    [['strayAddress', 'expel']],
  ],
  ['its address is here and nothing else', { admitted: true }, [['strayAddress', 'expel']]],
  ['it is expected', { admitted: true, reserved: reservedFor(2) }, [['expectedHere', 'settle']]],
  ['it is expected back', { ledger: released, admitted: true, reserved: reservedFor(3) }, [['expectedHere', 'settle']]],
  ['its disk stayed after the release', { ledger: released, copies: [1] }, [['workingCopyLeft', null]]],
  [
    'its disks stayed after its end',
    { ledger: ended, copies: [1, 3] },
    [
      ['workingCopyLeft', 'remove'],
      ['workingCopyLeft', 'remove'],
    ],
  ],
];

for (const [situation, traces, expected] of ROWS) {
  await test(situation, () => {
    const findings = differencesOf('alpha', { ...nothing, ...traces }, (generation) => `/copies/g${generation}`);
    assert.deepEqual(
      findings.map(({ type, mend }) => [type, mend]),
      expected,
    );
    for (const one of findings) {
      assert.equal(one.instanceId, ID);
      assert.equal(one.host, 'alpha');
      assert.match(one.subject, /counter/);
      for (const text of [one.found, one.expected, one.advice]) assert.ok(text.length > 5, text);
      if (one.mend === 'remove') assert.match(one.path ?? '', /^\/copies\/g[13]$/);
    }
  });
}

await test('nothing is ever mended of an instance that this host owns but a flag and a missing record', () => {
  for (const [, traces] of ROWS) {
    if (!traces.ledger?.owned) continue;
    for (const { mend } of differencesOf('alpha', { ...nothing, ...traces }, String)) {
      assert.ok(mend === null || mend === 'autostartOff' || mend === 'completeTakeBack', String(mend));
    }
  }
});
