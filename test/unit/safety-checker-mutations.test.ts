/**
 * Whatever happens to a good instance, in whatever order, is accepted; whatever is then spoilt in what was seen of it is
 * rejected, by the invariant that it breaks.
 */
import assert from 'node:assert/strict';
import { it } from 'node:test';
import fc from 'fast-check';
import { judge } from '../safety/checker.ts';
import type { History, Run } from '../safety/history.ts';
import { INSTANCE, Tale, type Outcome } from '../safety/tale.ts';

const HOSTS = ['alpha', 'beta', 'gamma'];

type Chapter =
  | { what: 'run'; counts: number }
  | { what: 'move'; to: number; outcome: Outcome }
  | { what: 'power-loss' | 'qemu-killed' | 'checkpoint' };

const chapter: fc.Arbitrary<Chapter> = fc.oneof(
  fc.record({ what: fc.constant('run' as const), counts: fc.integer({ min: 1, max: 200 }) }),
  fc.record({
    what: fc.constant('move' as const),
    to: fc.nat(1),
    outcome: fc.constantFrom<Outcome>('moved', 'moved', 'lost', 'resumed', 'restored'),
  }),
  fc.record({ what: fc.constantFrom('power-loss' as const, 'qemu-killed' as const, 'checkpoint' as const) }),
);

/** Begins with a move, so that there is something to spoil. */
function tell(chapters: readonly Chapter[]): History {
  const tale = new Tale(HOSTS).run().checkpoint().move('beta').run();
  for (const step of chapters) {
    if (step.what === 'run') tale.run(step.counts);
    else if (step.what === 'move') tale.move(HOSTS.filter((host) => host !== tale.host)[step.to] ?? '', step.outcome);
    else if (step.what === 'power-loss') tale.powerLoss().checkpoint();
    else if (step.what === 'qemu-killed') tale.killed().checkpoint();
    else tale.checkpoint();
    tale.run(3);
  }
  return tale.run(10).checkpoint().run(10).end();
}

const history = fc.array(chapter, { maxLength: 8 }).map(tell);

/** Spoils a history at a place that `pick` chooses. False: there is no such place in it. */
type Spoiler = (history: History, pick: (count: number) => number) => boolean;

function some<T>(all: readonly T[], pick: (count: number) => number): T | undefined {
  return all.length === 0 ? undefined : all[pick(all.length)];
}

const newRun = (from: number, millis: number): Run => ({
  after: from - 20,
  first: from,
  last: from + millis,
  by: from + millis + 20,
});

/** What breaks, and by which invariant it must be found. */
const SPOILERS: Record<string, readonly [invariant: number, Spoiler]> = {
  'another process runs at the same time': [
    1,
    ({ qemus, hosts }, pick) => {
      const life = some(qemus, pick);
      const run = life?.runs.find(({ first, last }) => last - first > 100);
      if (!life || !run) return false;
      const host = hosts.find((other) => other !== life.host) ?? '';
      qemus.push({ ...life, host, pid: 1, runs: [newRun(run.first + 20, 50)] });
      return true;
    },
  ],
  'a process and all of its copies vanish': [
    2,
    (told, pick) => {
      // Before a power loss there may be a reason.
      if (told.disturbances.length > 0) return false;
      const life = some(
        told.qemus.filter(({ ended }) => ended),
        pick,
      );
      if (!life?.ended) return false;
      life.ended = { after: life.ended.after - 300, by: life.ended.by - 300 };
      const at = life.ended.by;
      for (const run of life.runs) if (run.by > at) Object.assign(run, { last: at - 20, by: at });
      return true;
    },
  ],
  'counts are left out': [
    3,
    ({ consoles }, pick) => {
      const spans = consoles.flatMap((log) => log.spans);
      const span = some(
        spans.filter(({ from, to }, index) => index > 0 && from > 1 && to - from > 2),
        pick,
      );
      if (!span) return false;
      span.from += 2;
      return true;
    },
  ],
  'counts are told again': [
    3,
    ({ consoles }, pick) => {
      const span = some(
        consoles.flatMap((log) => log.spans).filter(({ from }) => from > 3),
        pick,
      );
      if (!span) return false;
      span.from -= 1 + pick(2);
      return true;
    },
  ],
  'a disturbance did not happen': [
    3,
    ({ disturbances }, pick) => {
      const one = some(disturbances, pick);
      if (!one) return false;
      disturbances.splice(disturbances.indexOf(one), 1);
      return true;
    },
  ],
  'a disturbance happened elsewhere': [
    3,
    ({ disturbances, hosts }, pick) => {
      const one = some(disturbances, pick);
      if (!one) return false;
      one.host = hosts[(hosts.indexOf(one.host ?? '') + 1) % hosts.length] ?? null;
      return true;
    },
  ],
  'HTTP told more than was kept': [
    3,
    ({ checkpoints }, pick) => {
      const said = some(
        checkpoints.slice(0, -1).filter(({ token }, index) => checkpoints[index + 1]?.token === token),
        pick,
      );
      if (!said) return false;
      said.counter += 100_000;
      return true;
    },
  ],
  'the disk lacks lines': [
    3,
    ({ diskChecks }, pick) => {
      const check = some(diskChecks, pick);
      if (!check) return false;
      check.gaps += 1 + pick(3);
      return true;
    },
  ],
  'a package is touched': [
    3,
    ({ packages, to }, pick) => {
      const sealed = some(packages, pick);
      const file = some(Object.keys(sealed?.files ?? {}), pick);
      if (!sealed || file === undefined) return false;
      sealed.changes.push({
        at: to,
        file,
        what: some(['written', 'removed', 'digest differs'] as const, pick) ?? 'written',
      });
      return true;
    },
  ],
  'something is left half-made': [
    4,
    ({ final }, pick) => {
      some(final, pick)?.files.push(`instances/${INSTANCE}/ledger/.tmp-0-owned-1.json`);
      return true;
    },
  ],
  'a folder is left': [
    5,
    ({ final, records }, pick) => {
      const moves = records.flatMap(({ content }) => (content as { moveId?: string } | null)?.moveId ?? []);
      const folder = some(['moves', 'staging'], pick);
      some(final, pick)?.files.push(`${folder}/${some(moves, pick)}/`);
      return true;
    },
  ],
  'a bystander is harmed': [
    5,
    ({ bystanders }, pick) => {
      const one = some(bystanders, pick);
      if (one) one.after = pick(2) === 0 ? null : 'other';
      return one !== undefined;
    },
  ],
  'a package is removed': [
    5,
    ({ packages, to }, pick) => {
      const sealed = some(packages, pick);
      if (sealed) sealed.gone = { after: to - 20, by: to };
      return sealed !== undefined;
    },
  ],
  'a host that owned it once lets it run again': [
    6,
    (told, pick) => {
      const decided = some(
        told.ledger.filter(({ decision }) => decision === 'release'),
        pick,
      );
      const life = told.qemus.find(
        ({ host, ended }) => host === decided?.host && ended && ended.by < decided.written.after,
      );
      if (!decided || !life) return false;
      life.ended = { after: decided.written.by + 80, by: decided.written.by + 100 };
      life.runs.push(newRun(decided.written.by + 21, 20));
      return true;
    },
  ],
  'a copy runs before it is owned': [
    6,
    (told, pick) => {
      const owned = some(
        told.ledger.filter(({ kind, generation }) => kind === 'owned' && generation > 1),
        pick,
      );
      const life = told.qemus.find(({ host, generation }) => host === owned?.host && generation === owned.generation);
      // Taken back, it was owned before.
      const releasing = told.ledger.some(({ decision, to }) => decision === 'release' && to === owned?.host);
      if (!owned || !life || !releasing || life.began.by > owned.written.after - 100) return false;
      life.runs.unshift(newRun(owned.written.after - 60, 20));
      return true;
    },
  ],
  'a release is forgotten': [
    6,
    (told, pick) => {
      const decided = some(
        told.ledger.filter(({ decision }) => decision === 'release'),
        pick,
      );
      if (!decided) return false;
      told.ledger.splice(told.ledger.indexOf(decided), 1);
      return true;
    },
  ],
  'nobody looked': [
    0,
    ({ looks }) => {
      looks.count = 0;
      return true;
    },
  ],
};

it('accepts whatever happens as it should', () => {
  fc.assert(
    fc.property(history, (told) => {
      assert.deepEqual(judge(told), []);
    }),
    { numRuns: 300 },
  );
});

for (const [name, [invariant, spoil]] of Object.entries(SPOILERS)) {
  it(`rejects by ${invariant}: ${name}`, () => {
    let spoilt = 0;
    fc.assert(
      fc.property(history, fc.infiniteStream(fc.nat()), (told, numbers) => {
        const pick = (count: number): number => (numbers.next().value ?? 0) % count;
        if (!spoil(told, pick)) return;
        spoilt += 1;
        const found = judge(told);
        assert.ok(
          found.some((violation) => violation.invariant === invariant),
          `found only: ${found.map((violation) => `[${violation.invariant}] ${violation.text}`).join('; ') || 'nothing'}`,
        );
      }),
      { numRuns: 150 },
    );
    assert.ok(spoilt > 20, `there was something to spoil in ${spoilt} histories only`);
  });
}
