/**
 * The accounts that the hosts give, compared with one another and with the catalog: a pure function. The hosts’ ledgers are
 * believed over the catalog, and where two of them do not fit together nothing is concluded.
 *
 * What a host keeps of a move may be removed only where the ledgers prove that nobody will ever need it: somebody owns the
 * generation that the move was about, or a later one, and is not waiting to be restored from it.
 */
import type { HostId, InstanceId, MoveRef, PackageId } from '../../workflows/contract.ts';
import { finding, type Finding, type HostReport, type InstanceReport, type Repair } from '../../workflows/findings.ts';
import type { Survey, SurveyedInstance, SurveyedMove, SurveyedPackage } from './survey.ts';

export interface Accounts {
  survey: Survey;
  reports: HostReport[];
  silent: { host: HostId; why: string }[];
  /** Only what is about this instance. */
  instanceId?: InstanceId;
}

/** What one host says of one instance. */
type Account = InstanceReport & { host: HostId };

export function compare(accounts: Accounts): Finding[] {
  const { survey, reports, silent, instanceId: only } = accounts;
  const ofOne = only !== undefined;
  const told = new Map<InstanceId, Account[]>();
  for (const { host, instances } of reports) {
    for (const one of instances) told.set(one.instanceId, [...(told.get(one.instanceId) ?? []), { host, ...one }]);
  }
  const ids = ofOne ? [only] : [...new Set([...survey.instances.map(({ id }) => id), ...told.keys()])];
  const findings: Finding[] = [];
  for (const id of ids) findings.push(...ownership(accounts, id, told.get(id) ?? []));
  for (const one of reports.flatMap((report) => report.findings)) findings.push(withRepair(accounts, told, one));
  if (ofOne) return findings;
  for (const { host, why } of silent) {
    const expected = 'an answer about what runs there';
    findings.push(finding('hostSilent', { host, subject: `host ${host}`, found: why, expected }));
  }
  return [...findings, ...strangers(accounts, told), ...packages(accounts), ...images(accounts)];
}

// ---- Who owns an instance ----

function ownership(accounts: Accounts, instanceId: InstanceId, told: Account[]): Finding[] {
  const { survey, reports } = accounts;
  const row = survey.instances.find(({ id }) => id === instanceId);
  // A step is at work on its records somewhere: the others do not make a picture.
  if (reports.some(({ busy }) => busy.includes(instanceId))) return [];
  const owners = told.filter(({ owned }) => owned !== null).sort((a, b) => generationOf(b) - generationOf(a));
  const [owner, ...others] = owners;
  if (!owner) return row ? withoutOwner(accounts, row, told) : [];

  const say = teller(instanceId, row?.name ?? owner.name);
  if (others.length > 0) {
    const equal = others.filter((other) => generationOf(other) === generationOf(owner));
    if (equal.length > 0) {
      const found = `${[owner, ...equal].map(({ host }) => host).join(' and ')} each say that they own generation ${generationOf(owner)}`;
      return [say('twoOwners', owner.host, { found, expected: 'one owner' })];
    }
    return others.map((other) =>
      say('staleOwner', other.host, {
        found: `it says that it owns generation ${generationOf(other)}, and ${owner.host} owns ${generationOf(owner)}`,
        expected: 'the release by which it went on',
      }),
    );
  }
  if (!row) {
    const found = `${owner.host} owns generation ${generationOf(owner)}, and the catalog does not know it`;
    return [say('notInCatalog', owner.host, { found, expected: 'the instance in the catalog' })];
  }
  if (generationOf(owner) < row.generation) {
    const found = `it says that it owns generation ${generationOf(owner)}, and ${row.host} was seen to own ${row.generation}`;
    return [say('staleOwner', owner.host, { found, expected: 'the release by which it went on' })];
  }
  // The package is told of by itself; that the instance is saved in it must not be forgotten with it.
  if (isSavedIn(row, owner) && savedAs(accounts, owner) === null) return [];
  return [...downThoughSaved(say, accounts, owner), ...behind(say, accounts, row, owner)];
}

/** Do the catalog and the owner agree on the package that it is to be continued from? */
function isSavedIn({ state, generation, packageId, openMove }: SurveyedInstance, owner: Account): boolean {
  if (state !== 'saved' || openMove !== null || generation !== generationOf(owner)) return false;
  return owner.stopped?.saved === true && owner.state !== 'running' && owner.stopped.packageId === packageId;
}

/** Its RAM lies in a folder of a move, and no package holds it. */
function downThoughSaved(say: Teller, accounts: Accounts, owner: Account): Finding[] {
  const { stopped, state, host } = owner;
  if (!stopped?.saved || state === 'running' || savedAs(accounts, owner) !== null) return [];
  const found = `it is ${state ?? 'not defined'}; move ${stopped.moveId} saved its RAM and sealed no package`;
  const expected = `running: ${host} owns generation ${generationOf(owner)}`;
  return [say('down', host, { found, expected, moveId: stopped.moveId })];
}

function behind(say: Teller, accounts: Accounts, row: SurveyedInstance, owner: Account): Finding[] {
  const packageId = savedAs(accounts, owner);
  const { host } = owner;
  const generation = generationOf(owner);
  const repair: Repair = { kind: 'followOwner', instanceId: row.id, host, generation, savedAs: packageId };
  if (row.openMove !== null) {
    const found = `the catalog shows move ${row.openMove} as open, and no workflow goes on with it`;
    const expected = 'moves that end';
    return [say('moveWithoutWorkflow', host, { found, expected, moveId: row.openMove, repair })];
  }
  const [says, is] = [
    `${row.state} on ${row.host}, generation ${row.generation}`,
    `${packageId === null ? 'running' : 'saved'} on ${host}, generation ${generation}`,
  ];
  if (says === is && row.packageId === packageId) return [];
  const expected = `what its owner’s records say: ${is}`;
  return [say('catalogBehind', host, { found: `the catalog says ${says}`, expected, repair })];
}

/** The package from which a stopped instance would be continued at its owner; null if it runs, or should. */
export function savedAs({ reports }: Pick<Accounts, 'reports'>, owner: Account): PackageId | null {
  const { stopped, state, host } = owner;
  if (!stopped?.saved || state === 'running') return null;
  const kept = reports.find((report) => report.host === host)?.packages.includes(stopped.packageId) === true;
  return kept ? stopped.packageId : null;
}

function withoutOwner({ silent, reports }: Accounts, row: SurveyedInstance, told: Account[]): Finding[] {
  const say = teller(row.id, row.name);
  const answered = (host: HostId): boolean => reports.some((report) => report.host === host);
  const ended = told.find(({ decided }) => decided?.kind === 'end');
  if (ended) {
    const found = `${ended.host} ended it for ever, and the catalog still shows it`;
    return [say('endUnfinished', ended.host, { found, expected: 'nothing of it' })];
  }
  if (row.state === 'spawning') {
    if (!answered(row.host)) return [];
    const found = 'its name and address are reserved, and nothing of it was ever started';
    return [say('neverSpawned', row.host, { found, expected: 'an instance that runs' })];
  }
  const [last] = told
    .filter(({ decided }) => decided?.kind === 'release' || decided?.kind === 'fence')
    .sort((a, b) => (b.decided?.generation ?? 0) - (a.decided?.generation ?? 0));
  const heir = last?.decided?.to ?? null;
  if (last?.decided?.kind === 'fence' && heir !== null) {
    if (!answered(heir)) return [];
    const found = `a fence gives generation ${last.decided.generation + 1} to ${heir}, which has not taken it over`;
    return [say('noOwner', heir, { found, expected: `running on ${heir}` })];
  }
  if (last && heir !== null) {
    if (!answered(heir)) return [];
    const found = `${last.host} released it to ${heir}, which has not taken it over`;
    return [say('releaseNotTaken', heir, { found, expected: `running on ${heir}` })];
  }
  // A host that does not answer may own it.
  if (silent.length > 0) return [];
  const found = `no host owns it; the catalog says ${row.state} on ${row.host}, generation ${row.generation}`;
  return [say('noOwner', row.host, { found, expected: 'one owner' })];
}

// ---- What runs that no record of its host knows ----

function strangers({ survey, reports }: Accounts, told: Map<InstanceId, Account[]>): Finding[] {
  const known = new Map(survey.instances.map(({ id, name }) => [id, name]));
  return reports.flatMap(({ host, others }) =>
    others
      .filter(({ instanceId, state }) => (known.has(instanceId) || told.has(instanceId)) && state !== 'shut off')
      .map(({ instanceId, name, state }) =>
        teller(instanceId, known.get(instanceId) ?? name)('runsUnknown', host, {
          found: `libvirt has it here, ${state}, and no record of this host says how it came`,
          expected: 'nothing of it here',
        }),
      ),
  );
}

// ---- Packages and images ----

function packages({ survey, reports }: Accounts): Finding[] {
  const findings: Finding[] = [];
  for (const { id, instanceId, instanceName, generation, needed, places } of survey.packages) {
    for (const place of places) {
      const { host, changed } = place;
      const report = reports.find((one) => one.host === host);
      const owner = survey.instances.find((row) => row.id === instanceId);
      const lost = needed && owner?.host === host;
      const subject = { host, subject: `package ${id} of instance ${instanceName}`, instanceId, packageId: id };
      if (!report || report.packages.includes(id)) {
        if (place.damage === null) continue;
        const found = `${place.damage.type}: ${place.damage.message} (${place.verifiedAt}); ${wholeElsewhere(places, host)}`;
        const expected = `every byte as it was sealed${lost ? ': the instance is saved in it' : ''}`;
        findings.push(finding(lost ? 'neededPackageDamaged' : 'packageDamaged', { ...subject, found, expected }));
        continue;
      }
      if (changed) continue;
      const about = {
        ...subject,
        found: `the catalog says that ${host} keeps it, generation ${generation}, and it is not there`,
        expected: lost ? 'the package: the instance is saved in it' : 'the package, or no word of it',
      };
      const repair: Repair = { kind: 'forgetPackage', host, packageId: id };
      findings.push(lost ? finding('neededPackageMissing', about) : finding('packageMissing', { ...about, repair }));
    }
  }
  const listed = new Set(survey.packages.flatMap(({ id, places }) => places.map(({ host }) => `${id} ${host}`)));
  const known = new Set(survey.packages.map(({ id }) => id));
  for (const { host, packages: kept } of reports) {
    for (const id of kept) {
      if (listed.has(`${id} ${host}`)) continue;
      const move = survey.moves.find(({ packageId }) => packageId === id);
      findings.push(
        finding('packageNotInCatalog', {
          ...{ host, subject: `package ${id}`, packageId: id, path: `packages/${id}` },
          ...(move && { instanceId: move.instanceId, moveId: move.id }),
          found: `${host} keeps it, and the catalog does not say so`,
          expected: 'packages that are listed',
          // Size and time are known from its other places.
          ...(known.has(id) && { mend: 'listPackage', repair: { kind: 'listPackage', host, packageId: id } }),
        }),
      );
    }
  }
  return findings;
}

function wholeElsewhere(places: SurveyedPackage['places'], host: HostId): string {
  const others = places.filter((place) => place.damage === null && place.host !== host).map((place) => place.host);
  return others.length > 0 ? `also on ${others.join(', ')}` : 'no other host has a whole copy';
}

function images({ survey, reports }: Accounts): Finding[] {
  const findings: Finding[] = [];
  for (const { id, name, hosts } of survey.images) {
    for (const host of hosts) {
      const report = reports.find((one) => one.host === host);
      if (!report || report.images.includes(id)) continue;
      const users = survey.instances.filter((row) => row.imageId === id && row.host === host);
      findings.push(
        finding('imageMissing', {
          ...{ host, subject: `image ${name}`, imageId: id },
          ...(users.length > 0 && { severity: 'critical' as const }),
          found: `the catalog says that ${host} holds it, and it is not there`,
          expected:
            users.length > 0 ? `the image: ${users.map((row) => row.name).join(', ')} stand on it` : 'the image',
        }),
      );
    }
  }
  return findings;
}

// ---- What moves have left ----

const FROM_MOVES: readonly Finding['type'][] = ['waitingCopy', 'expectedHere', 'workingCopyLeft', 'moveFolderLeft'];

function withRepair(accounts: Accounts, told: Map<InstanceId, Account[]>, one: Finding): Finding {
  if (!FROM_MOVES.includes(one.type) || one.mend === 'remove') return one;
  const move = moveOf(accounts.survey, told, one);
  const repair = move && clearance(accounts, told.get(move.instanceId) ?? [], one.host, move);
  const about = move && {
    ...{ moveId: move.id, instanceId: move.instanceId },
    subject: one.instanceId === undefined ? `${one.subject} of instance ${move.instanceName}` : one.subject,
  };
  // What was right to do when it was found before may not be now.
  const found: Finding = { ...one };
  delete found.repair;
  return { ...found, ...about, mend: repair ? 'settle' : null, ...(repair && { repair }) };
}

/** The move that left this. */
function moveOf(survey: Survey, told: Map<InstanceId, Account[]>, one: Finding): SurveyedMove | null {
  const { moveId, packageId, instanceId, host } = one;
  if (moveId !== undefined) return survey.moves.find(({ id }) => id === moveId) ?? null;
  if (packageId !== undefined) return survey.moves.find((move) => move.packageId === packageId) ?? null;
  const decided = told.get(instanceId ?? '')?.find((account) => account.host === host)?.decided;
  const given = (move: SurveyedMove): boolean =>
    move.instanceId === instanceId && move.source === host && move.generation === (decided?.generation ?? 0) + 1;
  return survey.moves.find((move) => given(move) && move.outcome === 'moved') ?? survey.moves.find(given) ?? null;
}

/** Null unless it is certain that nobody will ever need what this host keeps of the move. */
function clearance({ reports, survey }: Accounts, told: Account[], host: HostId, move: SurveyedMove): Repair | null {
  // What is open ends first, and tells its outcome.
  if (move.outcome === null) return null;
  // Only the source can say whether it has released the instance to this host.
  const source = reports.find((report) => report.host === move.source);
  if (!source || reports.some(({ busy }) => busy.includes(move.instanceId))) return null;
  const owners = told.filter(({ owned }) => owned !== null);
  const [owner] = owners;
  if (owners.length > 1) return null;

  const { id: moveId, instanceId, packageId, generation } = move;
  const ref: MoveRef = { moveId, instanceId, packageId, generation };
  const clear = (as: 'gone' | 'kept' | 'copy'): Repair => ({ kind: 'clearUp', host, move: ref, as });
  if (!owner) {
    const ended = told.some(({ decided }) => decided?.kind === 'end');
    const known = survey.instances.some(({ id }) => id === instanceId);
    return ended && !known ? clear(host === move.source ? 'kept' : 'copy') : null;
  }
  const decided = generationOf(owner) >= generation;
  if (owner.host === host) {
    if (decided && owner.state === 'running') return clear('kept');
    const saved = move.kind === 'save' && move.outcome === 'saved' && source.packages.includes(packageId);
    return saved && owner.stopped?.packageId === packageId ? clear('kept') : null;
  }
  if (host !== move.source) return clear('copy');
  if (!decided) return null;
  return clear(move.outcome === 'moved' ? 'gone' : 'kept');
}

// ---- Words ----

const generationOf = ({ owned }: Account): number => owned?.generation ?? 0;

type Teller = (
  type: Finding['type'],
  host: HostId,
  rest: Pick<Finding, 'found' | 'expected'> & Partial<Finding>,
) => Finding;

function teller(instanceId: InstanceId, name: string | null): Teller {
  const subject = `instance ${name === null ? instanceId : `${name} (${instanceId})`}`;
  return (type, host, rest) => finding(type, { host, subject, instanceId, ...rest });
}
