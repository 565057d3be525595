/** The checker itself: what it must accept, and for each invariant what it must reject, for the right reason. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { judge } from '../safety/checker.ts';
import type { History, LedgerEntry, QemuLife, Thing } from '../safety/history.ts';
import { INSTANCE, IP, Tale } from '../safety/tale.ts';

/** Of an array that must have it. */
function at<T>(all: readonly T[], index: number): T {
  const one = all.at(index);
  assert.ok(one !== undefined);
  return one;
}

const there = <T>(one: T | null | undefined): T => {
  assert.ok(one !== null && one !== undefined);
  return one;
};

const texts = (history: History): string[] => judge(history).map(({ invariant, text }) => `[${invariant}] ${text}`);

/** Rejected by this invariant and no other, and by a text that names the cause. */
function rejects(history: History, invariant: number, cause: RegExp, also: number[] = []): void {
  const violations = judge(history);
  assert.ok(
    violations.some((violation) => violation.invariant === invariant && cause.test(violation.text)),
    `not rejected by ${invariant} for ${cause}:\n${texts(history).join('\n') || 'no violation'}`,
  );
  const others = violations.filter((violation) => ![invariant, ...also].includes(violation.invariant));
  assert.deepEqual(others, [], 'other invariants have nothing to do with it');
}

/** From alpha to beta and back; beta's process is the second, alpha's last the third. */
const thereAndBack = (): History =>
  new Tale().run().checkpoint().move('beta').run().checkpoint().move('alpha').run().end();

const oneMove = (): History => new Tale().run().checkpoint().move('beta').run().checkpoint().end();

const decisionOf = (history: History, host: string): LedgerEntry =>
  there(history.ledger.find((entry) => entry.kind === 'decision' && entry.host === host));

const thing = (history: History, path: RegExp): Thing => there(history.things.find((one) => path.test(one.path)));

describe('good histories', () => {
  it('a move there and back', () => assert.deepEqual(texts(thereAndBack()), []));

  it('moves that were taken back, with the process and from the save file', () => {
    assert.deepEqual(texts(new Tale().run().move('beta', 'resumed').run().move('beta', 'restored').run().end()), []);
  });

  it('a power loss, after which the guest boots', () => {
    assert.deepEqual(texts(new Tale().run().checkpoint().powerLoss().run().checkpoint().move('beta').run().end()), []);
  });

  it('a power loss just before the guest would have run where it was moved, and a move back later', () => {
    assert.deepEqual(texts(new Tale().run().move('beta', 'lost').run().move('alpha').run().end()), []);
  });

  it('a line that a move has cut in two', () => {
    const history = oneMove();
    const [before, after] = [at(history.consoles, 0), at(history.consoles, 1)];
    const cut = at(after.spans, 0).from++;
    before.tail = `ram=${cut} disk=${cut - 1} upt`;
    after.head = `ime=12.345 wall=1795634053185\r\n`;
    assert.deepEqual(texts(history), []);
  });

  it('a paused process that is discarded at the destination, and its instance that runs at the source', () => {
    const history = new Tale().run().move('beta', 'resumed').run().end();
    const life: QemuLife = {
      ...{ host: 'beta', instance: INSTANCE, pid: 99, startTime: 5, generation: 2, runs: [] },
      began: { after: history.from + 6_500, by: history.from + 6_520 },
      ended: { after: history.from + 7_000, by: history.from + 7_020 },
    };
    history.qemus.push(life);
    assert.deepEqual(texts(history), []);
  });

  it('a save file, a package and a decision that a power loss took before they were synced', () => {
    // The source is told to save, and loses its power just after the file was complete: the guest boots there again.
    const tale = new Tale().run();
    const { at: begun, history: told } = tale;
    tale.powerLoss();
    const history = tale.run().end();
    const { by } = there(at(told.qemus, 0).ended);
    const outage = { host: 'alpha', from: by + 50, to: by + 3_000 };
    history.outages = [outage];
    const gone = { after: by + 40, by: by + 2_990 };
    history.records.push({
      host: 'alpha',
      path: `instances/${INSTANCE}/save-1.json`,
      at: { after: begun - 20, by: begun },
      content: { moveId: 'lost', packageId: 'lost-package', saved: null },
    });
    const complete = { after: by - 20, by: by + 5 };
    history.things.push({
      host: 'alpha',
      path: 'moves/lost/snapshot',
      appeared: { after: begun, by: begun + 20 },
      gone,
      complete,
    });
    history.packages.push({
      host: 'alpha',
      id: 'lost-package',
      appeared: { after: by, by: by + 20 },
      gone,
      files: {},
      changes: [],
    });
    const decision = {
      kind: 'decision',
      generation: 1,
      decision: 'return',
      packageId: 'lost-package',
      to: null,
    } as const;
    history.ledger.push({ ...decision, host: 'alpha', instance: INSTANCE, written: { after: by, by: by + 10 }, gone });
    assert.deepEqual(texts(history), []);

    // Had it said that the file is synced, it would have had to be there.
    const synced = structuredClone(history);
    at(synced.records, -1).content = { moveId: 'lost', packageId: 'lost-package', saved: {} };
    rejects(synced, 3, /booted anew/, [2]);
    // So would a package that is an hour old.
    const old = structuredClone(history);
    at(old.packages, -1).appeared = { after: 0, by: 1 };
    rejects(old, 5, /package lost-package was removed from alpha/, [3]);
  });

  it('a console that fell silent when its host’s disk was full, and that only by the operator’s word', () => {
    const [end, whole] = [-1, 0];
    for (const [tale, part] of [
      [new Tale().run(50).move('beta'), end],
      [new Tale().run(50).killed().run(50).move('beta'), whole],
    ] as const) {
      const history = tale.run().end();
      const [{ firstAt } = { firstAt: 0 }] = at(history.consoles, -2).spans.splice(part);
      assert.notDeepEqual(texts(history), []);
      history.disturbances.push({ kind: 'disk-full', host: 'alpha', at: firstAt, ids: null, note: null });
      assert.deepEqual(texts(history), []);
    }
  });

  it('a guest that told more before it booted anew than where it was moved afterwards', () => {
    const history = new Tale().run(50).checkpoint().run(5).killed().run(5).move('beta').run().end();
    // It is told in the file in which it told the boot before.
    const [before, after] = [at(history.consoles, 0), at(history.consoles, 1)];
    before.spans.push(...after.spans);
    history.consoles.splice(1, 1);
    assert.deepEqual(texts(history), []);
  });

  it('a move that is still going on, as long as it is not said to be settled', () => {
    const history = oneMove();
    at(history.final, 0).files.push('moves/move-000000000001/', 'staging/move-000000000001/');
    assert.notDeepEqual(texts(history), []);
    at(history.instances, 0).expected = 'moving';
    assert.deepEqual(texts(history), []);
  });

  it('one instance, judged while another is in the middle of its move', () => {
    const history = oneMove();
    at(history.final, 0).files.push('moves/of-another/');
    history.instances.push({
      id: 'another',
      name: 'another',
      ip: '10.77.0.3',
      from: history.from,
      expected: 'running',
    });
    assert.deepEqual(judge(history, { instances: [INSTANCE] }), []);
    assert.notDeepEqual(judge(history), []);
    assert.throws(() => judge(history, { instances: ['nobody'] }), /does not watch nobody/);
  });

  it('a package that got another envelope', () => {
    const history = oneMove();
    const change = { at: history.to - 5, what: 'added' as const };
    const envelope = `to-${'AB'.repeat(32)}.pgp`;
    at(history.packages, 0).changes.push(
      { ...change, file: `${envelope}.partial` },
      { ...change, file: `${envelope}.partial`, what: 'removed' },
      { ...change, file: envelope },
    );
    assert.deepEqual(texts(history), []);
  });
});

describe('invariant 1: never two', () => {
  it('the source runs on for 50 ms while the destination runs', () => {
    const history = oneMove();
    const [source, destination] = [at(at(history.qemus, 0).runs, 0), at(at(history.qemus, 1).runs, 0)];
    Object.assign(source, { last: destination.first + 50, by: destination.first + 70 });
    at(history.qemus, 0).ended = { after: destination.first + 80, by: destination.first + 100 };
    rejects(history, 1, /ran twice for 50 ms .* on alpha .* and on beta/, [2, 6]);
  });

  it('two processes on one host', () => {
    const history = oneMove();
    const destination = at(history.qemus, 1);
    history.qemus.push({ ...destination, pid: 77, ended: { after: history.to - 40, by: history.to - 20 } });
    rejects(history, 1, /ran twice/);
  });

  it('the source wakes up for a moment while the destination runs', () => {
    const history = oneMove();
    const source = at(history.qemus, 0);
    const from = at(at(history.qemus, 1).runs, 0).first + 500;
    source.runs.push({ after: from, first: from + 20, last: from + 60, by: from + 80 });
    source.ended = { after: from + 100, by: from + 120 };
    rejects(history, 1, /ran twice for 40 ms/, [5, 6]);
  });
});

describe('invariant 2: never none', () => {
  it('the source’s process ends before the save file is complete', () => {
    const history = oneMove();
    const snapshot = thing(history, /snapshot$/);
    const { by } = there(at(history.qemus, 0).ended);
    snapshot.complete = { after: by + 300, by: by + 320 };
    rejects(history, 2, /for 300 ms .* there was nothing from which guest could go on/);
  });

  it('the save file is removed before there is a package', () => {
    const history = oneMove();
    const sealed = at(history.packages, 0).appeared.after;
    thing(history, /snapshot$/).gone = { after: sealed - 200, by: sealed - 180 };
    rejects(history, 2, /nothing from which guest could go on/);
  });

  it('the save file is there, its disk is not', () => {
    const history = oneMove();
    const sealed = at(history.packages, 0).appeared.after;
    thing(history, /g1\/vda.qcow2$/).gone = { after: sealed - 200, by: sealed - 180 };
    rejects(history, 2, /nothing from which guest could go on/);
  });

  it('it ends with nobody, though nothing had killed it', () => {
    const history = oneMove();
    const end = history.to - 2_000;
    const life = at(history.qemus, 1);
    life.ended = { after: end - 20, by: end };
    Object.assign(at(life.runs, 0), { last: end - 40, by: end - 20 });
    rejects(history, 2, /for good .* its process on beta had ended/, [4]);
  });

  it('after a power loss its disk is gone too', () => {
    const history = new Tale().run().powerLoss().run().end();
    const { by } = there(at(history.qemus, 0).ended);
    thing(history, /g1\/vda.qcow2$/).gone = { after: by + 100, by: by + 120 };
    const { after } = at(history.qemus, 1).began;
    history.things.push({
      ...thing(history, /g1\/vda.qcow2$/),
      appeared: { after: after - 500, by: after },
      gone: null,
    });
    rejects(history, 2, /nothing from which guest could go on/);
  });

  it('all packages of it are gone while it is nowhere else', () => {
    const history = oneMove();
    const last = at(history.packages, 1).appeared.by + 100;
    for (const sealed of history.packages) sealed.gone = { after: last - 20, by: last };
    thing(history, /snapshot$/).gone = { after: last - 20, by: last };
    rejects(history, 2, /of no use any more: the save file on alpha, package .* on alpha, package .* on beta/, [5]);
  });
});

describe('invariant 3: nothing of a guest is lost or happens twice', () => {
  it('a count that was told twice, though no two processes ran together', () => {
    const history = oneMove();
    const span = at(at(history.consoles, 1).spans, 0);
    span.from -= 1;
    rejects(history, 3, /told count \d+ twice: again on beta/);
  });

  it('a count that was never told', () => {
    const history = oneMove();
    at(at(history.consoles, 1).spans, 0).from += 1;
    rejects(history, 3, /never told count \d+, between alpha .* and beta/);
  });

  it('a gap within one console', () => {
    const history = oneMove();
    const log = at(history.consoles, 1);
    at(log.spans, 1).from += 3;
    log.head = log.tail = '';
    rejects(history, 3, /never told counts \d+ to \d+, between beta .* and beta/);
  });

  it('a gap within a line that was cut in two', () => {
    const history = oneMove();
    const [before, after] = [at(history.consoles, 0), at(history.consoles, 1)];
    const cut = at(after.spans, 0).from++;
    before.tail = `ram=${String(cut).slice(0, 1)}`;
    after.head = `${String(cut + 7).slice(1)} disk=10 uptime=12.345 wall=1795634053185\r\n`;
    rejects(history, 3, /never told count/);
  });

  it('a value that was told over HTTP and lost, though the consoles show no gap', () => {
    const history = oneMove();
    // The console of the source lost its last lines, and the saved state was older than them.
    const said = at(history.checkpoints, 0);
    said.counter += 40;
    said.synced += 40;
    said.answered = at(at(history.consoles, 1).spans, 0).firstAt - 500;
    rejects(history, 3, /had told \d+ over HTTP on alpha .* on beta it went on from \d+/);
  });

  it('HTTP goes back', () => {
    const history = oneMove();
    at(history.checkpoints, 1).counter = at(history.checkpoints, 0).counter - 1;
    rejects(history, 3, /had told \d+ on alpha .* and \d+ on beta/);
  });

  it('a reboot without a disturbance', () => {
    const history = new Tale().run().checkpoint().powerLoss().run().checkpoint().end();
    history.disturbances = history.outages = [];
    rejects(history, 3, /booted anew on alpha .* though nothing had cost it its RAM/, [2, 4]);
    rejects(history, 3, /has another token/, [2, 4]);
  });

  it('a reboot with a disturbance that struck another host', () => {
    const history = new Tale().run().powerLoss().run().end();
    at(history.disturbances, 0).host = 'beta';
    rejects(history, 3, /booted anew/, [0, 2]);
  });

  it('a reboot with a disturbance that struck another instance', () => {
    const history = new Tale().run().killed().run().end();
    at(history.disturbances, 0).ids = ['22222222-1111-4111-8111-111111111111'];
    rejects(history, 3, /booted anew/, [2]);
  });

  it('two reboots for one disturbance', () => {
    const history = new Tale().run().powerLoss().run().killed().run().end();
    history.disturbances.pop();
    rejects(history, 3, /booted anew/, [2]);
  });

  it('a reboot after a power loss, though its state lay in a save file', () => {
    const history = oneMove();
    // It was saved, the source lost power, and instead of the saved state its disk was started at the destination.
    const { by } = there(at(history.qemus, 0).ended);
    history.disturbances.push({ kind: 'power-loss', host: 'alpha', ids: null, note: null, at: by + 100 });
    const log = at(history.consoles, 1);
    const shift = at(log.spans, 0).from - 1;
    for (const span of log.spans) Object.assign(span, { from: span.from - shift, to: span.to - shift });
    rejects(history, 3, /booted anew/);
  });

  it('a boot that was over is back', () => {
    const history = new Tale().run().checkpoint().powerLoss().run().checkpoint().end();
    at(history.checkpoints, -1).token = at(history.checkpoints, 0).token;
    at(history.checkpoints, -1).counter = 5_000;
    rejects(history, 3, /an earlier boot of guest is back/);
  });

  it('lines of its disk are missing', () => {
    for (const [change, cause] of [
      [{ gaps: 1 }, /has 1 gaps/],
      [{ torn: 1 }, /has 1 torn lines/],
      [{ boots: 2 }, /shows 2 boots, its console 1/],
      [{ last: 20, lines: 20 }, /ends with 20, though the guest had told \d+/],
      [{ lines: 20 }, /has 20 lines from 1 to/],
    ] as const) {
      const history = oneMove();
      Object.assign(at(history.diskChecks, 0), change);
      rejects(history, 3, cause);
    }
  });

  it('a power loss tears one line, and loses none that was synced', () => {
    const history = new Tale().run().powerLoss().run().end();
    const check = at(history.diskChecks, 0);
    check.torn = 1;
    check.lines -= 1;
    assert.deepEqual(texts(history), []);
    check.torn = 2;
    rejects(history, 3, /has 2 torn lines, of which 1 may be/);
    check.torn = 0;
    check.lines -= 20;
    rejects(history, 3, /has \d+ lines, though \d+ had been synced/);
  });

  it('a sealed package is altered, also if it is altered back', () => {
    for (const [what, file] of [
      ['written', 'disk-vda/000000.seg'],
      ['digest differs', 'snapshot/000000.seg'],
      ['removed', `to-${'AB'.repeat(32)}.pgp`],
      ['added', 'snapshot/000001.seg'],
      ['written', `to-${'AB'.repeat(32)}.pgp`],
    ] as const) {
      const history = oneMove();
      at(history.packages, 1).changes.push({ at: history.to - 100, file, what });
      rejects(history, 3, /package .* on beta is not what was sealed: /);
    }
  });
});

describe('invariant 4: what was begun is finished', () => {
  it('half-written files', () => {
    for (const path of [
      `instances/${INSTANCE}/ledger/.tmp-1-decision-1.json`,
      `network/.tmp-1-${INSTANCE}.json`,
      'packages/22222222-2222-4222-8222-000000000001.partial/',
      'incoming/22222222-2222-4222-8222-000000000001/disk-vda/000000.seg.part',
    ]) {
      const history = oneMove();
      at(history.final, 0).files.push(path);
      rejects(history, 4, /keeps .*, which was never finished/);
    }
  });

  it('a decision to take the instance back without the record of it', () => {
    const history = new Tale().run().move('beta', 'resumed').run().end();
    history.ledger = history.ledger.filter(({ kind, generation }) => kind !== 'owned' || generation === 1);
    rejects(history, 4, /alpha took it back as generation 2 and did not write down/);
  });

  it('nobody owns it at the end', () => {
    const history = oneMove();
    history.ledger.push({
      ...decisionOf(history, 'alpha'),
      host: 'beta',
      generation: 2,
      to: 'gamma',
      written: { after: history.to - 1, by: history.to },
    });
    rejects(history, 4, /no host owns it at the end/, [5]);
  });

  it('it stands still, or libvirt does not know it', () => {
    const paused = new Tale().run().move('beta').run(100).end();
    Object.assign(at(at(paused.qemus, 1).runs, 0), { last: paused.to - 5_000, by: paused.to - 4_900 });
    rejects(paused, 4, /its vCPUs on beta stand still/);

    const transient = oneMove();
    there(at(transient.final, 1).domains?.[0]).persistent = false;
    rejects(transient, 4, /would forget it/);

    const unknown = oneMove();
    at(unknown.final, 1).domains = [];
    rejects(unknown, 4, /does not know that it runs/);
  });

  it('a record that cannot be read', () => {
    const history = oneMove();
    history.records.push({
      host: 'beta',
      path: `instances/${INSTANCE}/resumed-2.json`,
      at: { after: 0, by: 1 },
      content: { unreadable: '{' },
    });
    assert.match(texts(history).join('\n'), /\[4\] guest: the record .* cannot be read/);
  });

  it('its address is not admitted where it runs', () => {
    for (const spoil of [
      (history: History) => (at(history.final, 1).dhcp = []),
      (history: History) => (at(history.final, 1).rules = []),
      (history: History) =>
        (at(history.final, 1).files = at(history.final, 1).files.filter((file) => !file.startsWith('network/'))),
    ]) {
      const history = oneMove();
      spoil(history);
      rejects(history, 4, /beta (lacks its DHCP entry|has no record of its address)|rules on beta do not admit it/);
    }
  });
});

describe('invariant 5: nothing is left over, nothing of others is deleted', () => {
  it('a folder of the move', () => {
    for (const [host, path] of [
      [0, 'moves/move-000000000001/'],
      [1, 'staging/move-000000000001/'],
      [1, 'incoming/22222222-2222-4222-8222-000000000001/'],
    ] as const) {
      const history = oneMove();
      at(history.final, host).files.push(path);
      rejects(history, 5, /(alpha|beta) keeps (moves|staging|incoming)\//);
    }
  });

  it('a working copy, beside another host’s or its own', () => {
    const away = oneMove();
    at(away.final, 0).files.push(`instances/${INSTANCE}/g1/`);
    rejects(away, 5, /alpha keeps the working copy instances\/.*\/g1\//);

    const beside = oneMove();
    at(beside.final, 1).files.push(`instances/${INSTANCE}/g1/`);
    rejects(beside, 5, /beta keeps the working copy .* beside that of generation 2/);
  });

  it('a process, a domain, network entries', () => {
    const process = oneMove();
    process.qemus.push({ ...at(process.qemus, 1), host: 'gamma', pid: 5, runs: [] });
    rejects(process, 5, /a QEMU process \(5\) is left on gamma; beta owns it/);

    for (const spoil of [
      (history: History) =>
        at(history.final, 0).domains?.push({
          uuid: INSTANCE,
          name: 'guest',
          running: false,
          active: false,
          persistent: true,
        }),
      (history: History) => at(history.final, 0).dhcp?.push({ mac: '52:54:00:4d:00:02', ip: IP }),
      (history: History) => at(history.final, 0).rules?.push(INSTANCE),
      (history: History) => at(history.final, 0).files.push(`network/${INSTANCE}.json`),
    ]) {
      const history = oneMove();
      spoil(history);
      rejects(
        history,
        5,
        /libvirt on alpha still knows it|alpha keeps its DHCP entry|rules on alpha still admit it|alpha still admits it/,
      );
    }
  });

  it('something that no record knows', () => {
    for (const path of ['moves/nobody/', 'packages/33333333-2222-4222-8222-000000000001/', 'instances/unknown/']) {
      const history = oneMove();
      at(history.final, 2).files.push(path);
      rejects(history, 5, /gamma keeps .*, which no record knows/);
    }
    const history = oneMove();
    at(history.final, 2).domains?.push({ uuid: 'x', name: 'x', running: false, active: false, persistent: true });
    rejects(history, 5, /knows domain x/);
  });

  it('a bystander is deleted, or changed', () => {
    for (const after of [null, 'b']) {
      const history = oneMove();
      at(history.bystanders, 2).after = after;
      rejects(history, 5, /a file of mine, on gamma, (is gone|was changed)/);
    }
  });

  it('a package is removed, unless somebody has asked for it', () => {
    const history = oneMove();
    const sealed = at(history.packages, 0);
    sealed.gone = { after: history.to - 100, by: history.to - 80 };
    rejects(history, 5, /package .* was removed from alpha .* though nobody had asked/);
    history.disturbances.push({
      kind: 'operator-deleted',
      at: history.to - 200,
      host: null,
      ids: [sealed.id],
      note: null,
    });
    assert.deepEqual(texts(history), []);
  });

  it('the disk of a running guest is removed', () => {
    const history = oneMove();
    const disk = thing(history, /g2\/vda.qcow2$/);
    disk.gone = { after: history.to - 1_000, by: history.to - 980 };
    rejects(history, 5, /g2\/vda.qcow2 on beta was removed while QEMU used it/);
  });

  it('a base image is removed', () => {
    const history = oneMove();
    history.things.push({
      host: 'beta',
      path: `images/${'ab'.repeat(32)}`,
      appeared: { after: 0, by: 1 },
      gone: { after: 2, by: 3 },
      complete: null,
    });
    rejects(history, 5, /images\/.* on beta, is gone/);
  });

  it('a deleted instance leaves something', () => {
    const history = oneMove();
    at(history.instances, 0).expected = 'deleted';
    rejects(history, 5, /a QEMU process is left on beta, though it was deleted/);
  });
});

describe('invariant 6: who runs an instance owns it', () => {
  it('ownership was decided, and it ran on for a second', () => {
    const history = oneMove();
    const source = at(history.qemus, 0);
    const { by } = decisionOf(history, 'alpha').written;
    const destination = at(history.qemus, 1);
    source.ended = { after: by + 1_020, by: by + 1_040 };
    // The destination waits, so that nothing runs twice.
    Object.assign(at(source.runs, 0), { last: by + 1_000, by: by + 1_020 });
    Object.assign(at(destination.runs, 0), { after: by + 1_010, first: by + 1_030 });
    rejects(history, 6, /ran on alpha for 1000 ms .* while alpha did not own it/, [2, 5]);
  });

  it('a copy ran before it was released', () => {
    const history = oneMove();
    const destination = at(history.qemus, 1);
    const { after } = there(history.ledger.find(({ kind, host }) => kind === 'owned' && host === 'beta')).written;
    destination.runs.unshift({ after: after - 300, first: after - 280, last: after - 300, by: after - 280 });
    rejects(history, 6, /ran on beta for a moment .* while beta did not own it/);
  });

  it('libvirt let it run, for too short a time to see', () => {
    const history = oneMove();
    const { by } = at(history.qemus, 1).began;
    history.events.push({ host: 'beta', instance: INSTANCE, event: 4, detail: 0, at: { after: by + 50, by: by + 60 } });
    rejects(history, 6, /libvirt on beta let guest run/);
  });

  it('two generations are owned', () => {
    const history = oneMove();
    history.ledger = history.ledger.filter((entry) => entry !== decisionOf(history, 'alpha'));
    rejects(history, 6, /two hosts own guest .*: alpha generation 1, beta generation 2/, [4]);
  });

  it('two hosts own one generation', () => {
    const history = oneMove();
    history.ledger.push({
      ...at(
        history.ledger.filter(({ kind }) => kind === 'owned'),
        1,
      ),
      host: 'gamma',
    });
    rejects(history, 6, /two hosts own guest .*: beta generation 2, gamma generation 2/, [4]);
  });

  it('it was released to another host', () => {
    const history = oneMove();
    decisionOf(history, 'alpha').to = 'gamma';
    rejects(
      history,
      6,
      /beta owns generation 2 .* though neither an owner of generation 1 nor the operator had given it to beta/,
    );
  });

  it('it was owned before it was released', () => {
    const history = oneMove();
    const decision = decisionOf(history, 'alpha');
    decision.written = { after: decision.written.after + 500, by: decision.written.by + 500 };
    rejects(history, 6, /two hosts own guest|neither an owner of generation 1/);
  });

  it('a fence gives it to a third host, and that only by the operator’s word', () => {
    const history = new Tale().run().move('beta').run().fence('gamma').run().end();
    assert.deepEqual(texts(history), []);

    const nobodysWord = structuredClone(history);
    nobodysWord.disturbances = nobodysWord.disturbances.filter(({ kind }) => kind !== 'fenced');
    rejects(
      nobodysWord,
      6,
      /gamma owns generation 3 .* though neither an owner of generation 2 nor the operator/,
      [2, 3],
    );

    // It is back, and runs what is not its own any more.
    const back = structuredClone(history);
    const from = at(at(back.qemus, -1).runs, 0).first + 1_000;
    back.qemus.push({
      ...{ host: 'beta', instance: INSTANCE, pid: 6, startTime: 6, generation: 2 },
      ...{ began: { after: from - 20, by: from }, ended: { after: from + 500, by: from + 520 } },
      runs: [{ after: from + 80, first: from + 100, last: from + 400, by: from + 420 }],
    });
    rejects(back, 6, /ran on beta for 300 ms .* while beta did not own it/, [1]);
  });
});

describe('what the observers cannot have seen', () => {
  it('counts without a vCPU that ran', () => {
    const history = new Tale().run().end();
    const life = at(history.qemus, 0);
    at(life.runs, 0).by = at(life.runs, 0).last = at(life.runs, 0).first + 100;
    const told = at(history.consoles, 0);
    told.spans = [{ from: 1, to: at(told.spans, -1).to, firstAt: history.to - 4_000, lastAt: history.to - 100 }];
    life.runs.push({
      after: history.to - 300_000,
      first: history.to - 299_000,
      last: history.to - 298_000,
      by: history.to - 297_000,
    });
    life.runs.reverse();
    assert.match(
      texts(history).join('\n'),
      /\[0\] guest: it told counts 1 to \d+ on alpha .*, while no vCPU was seen to run/,
    );
  });

  it('nothing at all', () => {
    const history = oneMove();
    Object.assign(history, { qemus: [], ledger: [], consoles: [] });
    const found = texts(history).join('\n');
    assert.match(found, /\[0\] guest: no QEMU process of it was ever seen/);
    assert.match(found, /\[0\] guest: no ledger that knows it was ever seen/);
  });

  it('a host that went off by itself', () => {
    const history = oneMove();
    history.outages.push({ host: 'gamma', from: history.from + 500, to: history.from + 900 });
    rejects(history, 0, /gamma went off at 0.500 s, and nobody had said so/);
  });

  it('too few looks', () => {
    const history = oneMove();
    history.looks.longestPause = 60_000;
    rejects(history, 0, /nobody looked at the vCPUs for 60000 ms/);
  });
});
