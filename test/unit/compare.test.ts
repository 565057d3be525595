/** Row by row: what hosts report and the catalog says, what is found, and what would be done about it. */
import assert from 'node:assert/strict';
import test from 'node:test';
import { compare, type Accounts } from '../../activities/catalog/compare.ts';
import type { SurveyedInstance, SurveyedMove, SurveyedPackage, Survey } from '../../activities/catalog/survey.ts';
import type { HostId } from '../../workflows/contract.ts';
import {
  finding,
  type Finding,
  type FindingType,
  type HostReport,
  type InstanceReport,
  type Repair,
} from '../../workflows/findings.ts';
import { instanceReport } from '../support/instance-report.ts';

const ID = '5d1f0000-0000-4000-8000-000000000001';
const OTHER = '5d1f0000-0000-4000-8000-000000000002';
const IMAGE = 'ab'.repeat(32);

// ---- What the catalog says ----

const row = (rest: Partial<SurveyedInstance> = {}): SurveyedInstance => ({
  ...{ id: ID, name: 'web', host: 'alpha', generation: 1, state: 'running', imageId: IMAGE, packageId: null },
  ...{ openMove: null, changed: false },
  ...rest,
});
const move = (rest: Partial<SurveyedMove> = {}): SurveyedMove => ({
  ...{ id: 'move-1', kind: 'migrate', instanceId: ID, instanceName: 'web', source: 'alpha', destination: 'beta' },
  ...{ packageId: 'package-1', generation: 2, outcome: 'moved' },
  ...rest,
});
type Place = SurveyedPackage['places'][number];
const copyAt = (host: HostId, rest: Partial<Place> = {}): Place => ({
  ...{ host, changed: false, verifiedAt: null, damage: null },
  ...rest,
});
const SEEN = '2026-11-24T12:00:00Z';
const damagedAt = (host: HostId): Place =>
  copyAt(host, { verifiedAt: SEEN, damage: { type: 'SegmentDamaged', message: 'segment 0 is missing' } });
const listed = (rest: Partial<SurveyedPackage> = {}): SurveyedPackage => ({
  ...{ id: 'package-1', instanceId: ID, instanceName: 'web', generation: 2, needed: false },
  places: [copyAt('alpha')],
  ...rest,
});
const survey = (rest: Partial<Survey> = {}): Survey => ({
  hosts: ['alpha', 'beta', 'gamma'],
  ...{ instances: [row()], moves: [], packages: [], images: [] },
  ...rest,
});

// ---- What a host says ----

const nothing = instanceReport(ID);
const runs = (generation: number, rest: Partial<InstanceReport> = {}): InstanceReport => ({
  ...{ ...nothing, state: 'running', owned: { generation, by: 'spawn' } },
  ...rest,
});
const isDown = (generation: number, rest: Partial<InstanceReport> = {}): InstanceReport =>
  runs(generation, { state: 'shut off', ...rest });
const saved = (generation: number): InstanceReport =>
  isDown(generation, { stopped: { moveId: 'move-1', packageId: 'package-1', saved: true } });
const gaveTo = (to: HostId, generation: number): InstanceReport => ({
  ...nothing,
  decided: { generation, kind: 'release', to },
});
const fencedFor = (to: HostId, generation: number): InstanceReport => ({
  ...nothing,
  decided: { generation, kind: 'fence', to },
});
const hasEnded: InstanceReport = { ...nothing, decided: { generation: 1, kind: 'end', to: null } };

type Said = Partial<Omit<HostReport, 'host' | 'instances'>> & { instances?: InstanceReport[] };
const report = (host: HostId, said: Said): HostReport => ({
  host,
  ...{ instances: [], busy: [], others: [], packages: [], images: [], findings: [] },
  ...said,
});
const hosts = (said: Record<HostId, Said | 'silent'>): Pick<Accounts, 'reports' | 'silent'> => {
  const all: Record<HostId, Said | 'silent'> = { alpha: {}, beta: {}, gamma: {}, ...said };
  return {
    reports: Object.entries(all).flatMap(([host, one]) => (one === 'silent' ? [] : [report(host, one)])),
    silent: Object.entries(all).flatMap(([host, one]) =>
      one === 'silent' ? [{ host, why: 'it does not answer' }] : [],
    ),
  };
};
/** What a host finds by itself. */
const local = (type: FindingType, host: HostId, rest: Partial<Finding> = {}): Finding =>
  finding(type, { host, subject: 'web', found: 'this', expected: 'that', ...rest });
const folder = (host: HostId, rest: Partial<Finding> = { moveId: 'move-1' }): Finding =>
  local('moveFolderLeft', host, { path: 'moves/move-1', mend: null, ...rest });
const ref = { moveId: 'move-1', instanceId: ID, packageId: 'package-1', generation: 2 };
const clear = (host: HostId, as: 'gone' | 'kept' | 'copy'): Repair => ({ kind: 'clearUp', host, move: ref, as });
const follow = (host: HostId, generation: number, savedAs: string | null = null): Repair => ({
  ...{ kind: 'followOwner', instanceId: ID, host, generation, savedAs },
});

type Row = [situation: string, accounts: Accounts, found: [type: FindingType, host: HostId, repair?: Repair][]];
const given = (
  catalog: Partial<Survey>,
  said: Record<HostId, Said | 'silent'>,
  rest: Partial<Accounts> = {},
): Accounts => ({ survey: survey(catalog), ...hosts(said), ...rest });

const ROWS: Row[] = [
  // ---- as it should be ----
  ['it runs where the catalog says', given({}, { alpha: { instances: [runs(1)] } }), []],
  [
    'it moved, and the source remembers',
    given(
      { instances: [row({ host: 'beta', generation: 2 })] },
      { alpha: { instances: [gaveTo('beta', 1)] }, beta: { instances: [runs(2)] } },
    ),
    [],
  ],
  [
    'it is saved, and its package is there',
    given(
      { instances: [row({ state: 'saved', packageId: 'package-1' })], packages: [listed({ needed: true })] },
      { alpha: { instances: [saved(1)], packages: ['package-1'] } },
    ),
    [],
  ],
  ['it was deleted, and the host remembers', given({ instances: [] }, { alpha: { instances: [hasEnded] } }), []],
  [
    'other domains of a host are none of our business',
    given({ instances: [] }, { alpha: { others: [{ instanceId: OTHER, name: 'x', state: 'running' }] } }),
    [],
  ],

  // ---- who owns it ----
  [
    'two own the same generation',
    given({}, { alpha: { instances: [runs(2)] }, beta: { instances: [isDown(2)] } }),
    [['twoOwners', 'alpha']],
  ],
  [
    'one owns an older generation than another',
    given(
      { instances: [row({ host: 'beta', generation: 2 })] },
      { alpha: { instances: [isDown(1)] }, beta: { instances: [runs(2)] } },
    ),
    [['staleOwner', 'alpha']],
  ],
  [
    'the owner’s generation is older than the catalog has seen',
    given({ instances: [row({ host: 'beta', generation: 4 })] }, { alpha: { instances: [isDown(3)] } }),
    [['staleOwner', 'alpha']],
  ],
  ['nobody owns it, and all were asked', given({}, {}), [['noOwner', 'alpha']]],
  ['nobody owns it, and one does not answer', given({}, { gamma: 'silent' }), [['hostSilent', 'gamma']]],
  [
    'it was released, and its new owner never heard of it',
    given({}, { alpha: { instances: [gaveTo('beta', 1)] }, beta: { instances: [{ ...nothing, state: 'paused' }] } }),
    [['releaseNotTaken', 'beta']],
  ],
  [
    'the same, and the new owner does not answer',
    given({}, { alpha: { instances: [gaveTo('beta', 1)] }, beta: 'silent' }),
    [['hostSilent', 'beta']],
  ],
  [
    'the newest of two releases counts',
    given({}, { alpha: { instances: [gaveTo('beta', 1)] }, beta: { instances: [gaveTo('gamma', 2)] } }),
    [['releaseNotTaken', 'gamma']],
  ],
  [
    'a fence that came after the release makes that void',
    given({}, { alpha: { instances: [fencedFor('gamma', 2)] }, beta: { instances: [gaveTo('beta', 1)] } }),
    [['noOwner', 'gamma']],
  ],
  [
    'a fence gives it to a host that does not answer',
    given({}, { alpha: { instances: [fencedFor('gamma', 2)] }, gamma: 'silent' }),
    [['hostSilent', 'gamma']],
  ],
  [
    'a host knows it and the catalog does not',
    given({ instances: [] }, { alpha: { instances: [runs(1)] } }),
    [['notInCatalog', 'alpha']],
  ],
  [
    'a copy runs of which its host has no record',
    given(
      {},
      { alpha: { instances: [runs(1)] }, gamma: { others: [{ instanceId: ID, name: 'web', state: 'running' }] } },
    ),
    [['runsUnknown', 'gamma']],
  ],
  [
    'a step is at work on it: nothing is concluded',
    given({}, { alpha: { busy: [ID] }, beta: { instances: [runs(2)] } }),
    [],
  ],

  // ---- the catalog is behind ----
  [
    'a move was terminated after the new owner ran it',
    given(
      { instances: [row({ state: 'moving', openMove: 'move-1' })], moves: [move({ outcome: null })] },
      { alpha: { instances: [gaveTo('beta', 1)] }, beta: { instances: [runs(2, { hasRun: true })] } },
    ),
    [['moveWithoutWorkflow', 'beta', follow('beta', 2)]],
  ],
  [
    'the catalog was brought back from a backup',
    given({}, { alpha: { instances: [gaveTo('beta', 1)] }, beta: { instances: [runs(2)] } }),
    [['catalogBehind', 'beta', follow('beta', 2)]],
  ],
  [
    'it was taken back, and the catalog knows the generation before',
    given({}, { alpha: { instances: [runs(2)] } }),
    [['catalogBehind', 'alpha', follow('alpha', 2)]],
  ],
  [
    'it is saved, and the catalog does not know',
    given({}, { alpha: { instances: [saved(1)], packages: ['package-1'] } }),
    [
      ['catalogBehind', 'alpha', follow('alpha', 1, 'package-1')],
      ['packageNotInCatalog', 'alpha'],
    ],
  ],
  ['its RAM was saved and never sealed', given({}, { alpha: { instances: [saved(1)] } }), [['down', 'alpha']]],
  [
    'it was spawned, and nobody told the catalog',
    given({ instances: [row({ state: 'spawning' })] }, { alpha: { instances: [runs(1)] } }),
    [['catalogBehind', 'alpha', follow('alpha', 1)]],
  ],
  [
    'it was to be spawned, and nothing came of it',
    given({ instances: [row({ state: 'spawning' })] }, {}),
    [['neverSpawned', 'alpha']],
  ],
  [
    'it has ended, and the catalog shows it',
    given({}, { alpha: { instances: [hasEnded] } }),
    [['endUnfinished', 'alpha']],
  ],

  // ---- packages and images ----
  [
    'a package is not where the catalog says',
    given({ packages: [listed()] }, { alpha: { instances: [runs(1)] } }),
    [['packageMissing', 'alpha', { kind: 'forgetPackage', host: 'alpha', packageId: 'package-1' }]],
  ],
  [
    'the package in which an instance is saved is gone',
    given(
      { instances: [row({ state: 'saved', packageId: 'package-1' })], packages: [listed({ needed: true })] },
      { alpha: { instances: [saved(1)] } },
    ),
    [['neededPackageMissing', 'alpha']],
  ],
  [
    'a package came or went while the hosts were asked',
    given(
      { packages: [listed({ places: [copyAt('alpha', { changed: true })] })] },
      { alpha: { instances: [runs(1)] } },
    ),
    [],
  ],
  [
    'a package was found damaged, and another host has a copy',
    given(
      { packages: [listed({ places: [copyAt('alpha'), damagedAt('beta')] })] },
      { alpha: { instances: [runs(1)], packages: ['package-1'] }, beta: { packages: ['package-1'] } },
    ),
    [['packageDamaged', 'beta']],
  ],
  [
    'the package in which an instance is saved was found damaged',
    given(
      {
        instances: [row({ state: 'saved', packageId: 'package-1' })],
        packages: [listed({ needed: true, places: [damagedAt('alpha'), damagedAt('beta')] })],
      },
      { alpha: { instances: [saved(1)], packages: ['package-1'] }, beta: { packages: ['package-1'] } },
    ),
    [
      ['neededPackageDamaged', 'alpha'],
      ['packageDamaged', 'beta'],
    ],
  ],
  [
    'a damaged package is on a host that does not answer',
    given(
      { packages: [listed({ places: [damagedAt('gamma')] })] },
      { alpha: { instances: [runs(1)] }, gamma: 'silent' },
    ),
    [
      ['hostSilent', 'gamma'],
      ['packageDamaged', 'gamma'],
    ],
  ],
  [
    'a damaged package is gone',
    given({ packages: [listed({ places: [damagedAt('alpha')] })] }, { alpha: { instances: [runs(1)] } }),
    [['packageMissing', 'alpha', { kind: 'forgetPackage', host: 'alpha', packageId: 'package-1' }]],
  ],
  [
    'a host keeps a package that the catalog does not know',
    given({}, { alpha: { instances: [runs(1)] }, gamma: { packages: ['package-9'] } }),
    [['packageNotInCatalog', 'gamma']],
  ],
  [
    'the same of one that is known to be elsewhere',
    given(
      { packages: [listed()] },
      { alpha: { instances: [runs(1)], packages: ['package-1'] }, gamma: { packages: ['package-1'] } },
    ),
    [['packageNotInCatalog', 'gamma', { kind: 'listPackage', host: 'gamma', packageId: 'package-1' }]],
  ],
  [
    'an image is not where the catalog says',
    given(
      { images: [{ id: IMAGE, name: 'debian', hosts: ['alpha', 'beta', 'gamma'] }] },
      { alpha: { instances: [runs(1)], images: [IMAGE] }, beta: {}, gamma: 'silent' },
    ),
    [
      ['hostSilent', 'gamma'],
      ['imageMissing', 'beta'],
    ],
  ],

  // ---- what moves have left ----
  [
    'the source’s folder of a move that moved',
    given(
      { instances: [row({ host: 'beta', generation: 2 })], moves: [move()] },
      { alpha: { instances: [gaveTo('beta', 1)], findings: [folder('alpha')] }, beta: { instances: [runs(2)] } },
    ),
    [['moveFolderLeft', 'alpha', clear('alpha', 'gone')]],
  ],
  [
    'its working copy there',
    given(
      { instances: [row({ host: 'beta', generation: 2 })], moves: [move()] },
      {
        alpha: { instances: [gaveTo('beta', 1)], findings: [local('workingCopyLeft', 'alpha', { instanceId: ID })] },
        beta: { instances: [runs(2)] },
      },
    ),
    [['workingCopyLeft', 'alpha', clear('alpha', 'gone')]],
  ],
  [
    'the same while it has not been taken over',
    given(
      { moves: [move({ outcome: 'failed' })] },
      { alpha: { instances: [gaveTo('beta', 1)], findings: [folder('alpha')] }, beta: { instances: [nothing] } },
    ),
    [
      ['releaseNotTaken', 'beta'],
      ['moveFolderLeft', 'alpha'],
    ],
  ],
  [
    'the same while the move is open',
    given(
      { instances: [row({ state: 'moving', openMove: 'move-1' })], moves: [move({ outcome: null })] },
      { alpha: { instances: [isDown(1)], findings: [folder('alpha')] } },
    ),
    [
      ['moveWithoutWorkflow', 'alpha', follow('alpha', 1)],
      ['moveFolderLeft', 'alpha'],
    ],
  ],
  [
    'the folder of a move that came back, and the instance runs',
    given(
      { instances: [row({ generation: 2 })], moves: [move({ outcome: 'returned' })] },
      { alpha: { instances: [runs(2)], findings: [folder('alpha')] } },
    ),
    [['moveFolderLeft', 'alpha', clear('alpha', 'kept')]],
  ],
  [
    'the same, and the instance is down: it may be restored from there',
    given(
      { instances: [row({ generation: 2 })], moves: [move({ outcome: 'returned' })] },
      { alpha: { instances: [isDown(2)], findings: [folder('alpha')] } },
    ),
    [['moveFolderLeft', 'alpha']],
  ],
  [
    'the folder of a save that was sealed',
    given(
      {
        instances: [row({ state: 'saved', packageId: 'package-1' })],
        moves: [move({ kind: 'save', destination: 'alpha', outcome: 'saved' })],
        packages: [listed({ needed: true })],
      },
      { alpha: { instances: [saved(1)], packages: ['package-1'], findings: [folder('alpha')] } },
    ),
    [['moveFolderLeft', 'alpha', clear('alpha', 'kept')]],
  ],
  [
    'the folder of a save whose package is gone: it is all there is',
    given(
      {
        instances: [row({ state: 'saved', packageId: 'package-1' })],
        moves: [move({ kind: 'save', destination: 'alpha', outcome: 'saved' })],
        packages: [listed({ needed: true })],
      },
      { alpha: { instances: [saved(1)], findings: [folder('alpha')] } },
    ),
    [
      ['moveFolderLeft', 'alpha'],
      ['neededPackageMissing', 'alpha'],
    ],
  ],
  [
    'a paused copy of a move that came back',
    given(
      { instances: [row({ generation: 2 })], moves: [move({ outcome: 'returned' })] },
      {
        alpha: { instances: [runs(2)] },
        beta: { findings: [local('waitingCopy', 'beta', { instanceId: ID, moveId: 'move-1' })] },
      },
    ),
    [['waitingCopy', 'beta', clear('beta', 'copy')]],
  ],
  [
    'the same while the source does not answer: it may have released it',
    given(
      { instances: [row({ generation: 2 })], moves: [move({ outcome: 'returned' })] },
      { alpha: 'silent', beta: { findings: [local('waitingCopy', 'beta', { instanceId: ID, moveId: 'move-1' })] } },
    ),
    [
      ['waitingCopy', 'beta'],
      ['hostSilent', 'alpha'],
    ],
  ],
  [
    'an address that was kept for a move which failed',
    given(
      { moves: [move({ outcome: 'failed' })] },
      {
        alpha: { instances: [runs(1)] },
        beta: { findings: [local('expectedHere', 'beta', { instanceId: ID, moveId: 'move-1' })] },
      },
    ),
    [['expectedHere', 'beta', clear('beta', 'copy')]],
  ],
  [
    'a package on its way for a move that ended',
    given(
      { moves: [move({ outcome: 'failed' })] },
      { alpha: { instances: [runs(1)] }, beta: { findings: [folder('beta', { packageId: 'package-1' })] } },
    ),
    [['moveFolderLeft', 'beta', clear('beta', 'copy')]],
  ],
  [
    'the staged members at the new owner',
    given(
      { instances: [row({ host: 'beta', generation: 2 })], moves: [move()] },
      { alpha: { instances: [gaveTo('beta', 1)] }, beta: { instances: [runs(2)], findings: [folder('beta')] } },
    ),
    [['moveFolderLeft', 'beta', clear('beta', 'kept')]],
  ],
  [
    'the same, and it has not run yet: it is restored from there',
    given(
      { instances: [row({ host: 'beta', generation: 2 })], moves: [move()] },
      {
        alpha: { instances: [gaveTo('beta', 1)] },
        beta: { instances: [isDown(2)], findings: [local('down', 'beta', { instanceId: ID }), folder('beta')] },
      },
    ),
    [
      ['down', 'beta'],
      ['moveFolderLeft', 'beta'],
    ],
  ],
  [
    'a folder of a move that nobody knows',
    given({}, { alpha: { instances: [runs(1)], findings: [folder('alpha')] } }),
    [['moveFolderLeft', 'alpha']],
  ],
  [
    'what is left of an instance that was deleted',
    given(
      { instances: [], moves: [move()] },
      { alpha: { instances: [gaveTo('beta', 1)], findings: [folder('alpha')] }, beta: { instances: [hasEnded] } },
    ),
    [['moveFolderLeft', 'alpha', clear('alpha', 'kept')]],
  ],
  [
    'what is left while two hosts claim it',
    given(
      { moves: [move({ outcome: 'failed' })] },
      { alpha: { instances: [runs(1)], findings: [folder('alpha')] }, beta: { instances: [runs(1)] } },
    ),
    [
      ['twoOwners', 'alpha'],
      ['moveFolderLeft', 'alpha'],
    ],
  ],
];

for (const [situation, accounts, expected] of ROWS) {
  await test(situation, () => {
    const found = compare(accounts);
    assert.deepEqual(
      found.map(({ type, host, repair }) => (repair ? [type, host, repair] : [type, host])),
      expected,
    );
    for (const one of found) {
      // What has no repair and cannot be mended by the host alone is not promised to be mended.
      if (one.mend === 'settle' || one.mend === 'followOwner' || one.mend === 'forgetPackage')
        assert.ok(one.repair, one.type);
      assert.ok(one.found.length > 3 && one.expected.length > 3 && one.advice.length > 10);
    }
  });
}

await test('of one instance nothing is said about others', () => {
  const other = { ...runs(7), instanceId: OTHER };
  const accounts = given(
    { packages: [listed()], images: [{ id: IMAGE, name: 'debian', hosts: ['alpha'] }] },
    { alpha: { instances: [runs(2), other] }, gamma: 'silent' },
    { instanceId: ID },
  );
  assert.deepEqual(
    compare(accounts).map(({ type }) => type),
    ['catalogBehind'],
  );
});
