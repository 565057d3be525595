import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { Output } from '../../client/output.ts';
import type { Format } from '../../client/output.ts';
import { ProgressDisplay, progressLine, stepLine, Tracker } from '../../client/progress.ts';
import type { PendingActivity } from '../../client/api.ts';
import { lines, NOW, progress, snapshot, step } from '../fakes/client-api.ts';

const MB = 1e6;
const transfer = (done: number, values: Partial<PendingActivity> = {}): PendingActivity => ({
  type: 'transferPackage',
  started: true,
  attempt: 1,
  lastFailure: null,
  heartbeat: { step: 'transferPackage', bytesDone: done * MB, bytesTotal: 40 * MB },
  ...values,
});
const moving = (done: number, values: Partial<PendingActivity> = {}) =>
  snapshot({
    progress: progress({ phase: 'blackout', step: 'transferPackage' }),
    activities: [transfer(done, values)],
  });

function display(format: Format, terminal: boolean) {
  const written = { out: '', err: '' };
  const output = new Output({
    format,
    stdout: { write: (text) => (written.out += text) },
    stderr: { write: (text) => (written.err += text), isTTY: terminal, columns: 200 },
  });
  return { display: new ProgressDisplay(output), written };
}

describe('progress', () => {
  it('shows step, bytes, rate and the time left', () => {
    const tracker = new Tracker('counter');
    tracker.update(moving(0), NOW);
    tracker.update(moving(5), NOW + 500);
    const { view } = tracker.update(moving(10), NOW + 1000);
    assert.equal(view.bytesPerSecond, 10 * MB);
    assert.equal(view.etaSeconds, 3);
    assert.equal(
      progressLine(view),
      'counter alpha → beta  transferPackage  10.0 MB of 40.0 MB  25 %  10.0 MB/s  3 s left',
    );
  });

  it('averages the rate over the last seconds only', () => {
    const tracker = new Tracker('counter');
    for (let second = 0; second <= 10; second++) tracker.update(moving(second), NOW + second * 1000);
    for (let second = 11; second <= 20; second++) tracker.update(moving(10 + (second - 10) * 3), NOW + second * 1000);
    const { view } = tracker.update(moving(40), NOW + 20_000);
    assert.ok(view.bytesPerSecond !== null && Math.abs(view.bytesPerSecond / MB - 3) < 0.01);
  });

  it('begins a new rate with a new step, and when a step begins anew', () => {
    const tracker = new Tracker('counter');
    tracker.update(moving(20), NOW);
    assert.notEqual(tracker.update(moving(30), NOW + 1000).view.bytesPerSecond, null);
    assert.equal(tracker.update(moving(2), NOW + 2000).view.bytesPerSecond, null);
    const opening = snapshot({
      progress: progress({ step: 'openPackage' }),
      activities: [
        transfer(1, { type: 'openPackage', heartbeat: { step: 'openPackage', bytesDone: 1, bytesTotal: 9 } }),
      ],
    });
    assert.equal(tracker.update(opening, NOW + 3000).view.bytesPerSecond, null);
  });

  it('tells each step that ended once', () => {
    const tracker = new Tracker('counter');
    const steps = [step('preflight', NOW, NOW + 400, 'both fit'), step('reserve', NOW + 400)];
    assert.deepEqual(tracker.update(snapshot({ progress: progress({ steps }) }), NOW + 500).ended, steps.slice(0, 1));
    assert.deepEqual(tracker.update(snapshot({ progress: progress({ steps }) }), NOW + 600).ended, []);
    const later = [steps[0]!, step('reserve', NOW + 400, NOW + 700)];
    assert.deepEqual(
      tracker.update(snapshot({ progress: progress({ steps: later }) }), NOW + 800).ended,
      later.slice(1),
    );
  });

  it('says what keeps it: a failing try, an absent worker, nobody who answers, the way back', () => {
    const line = (values: Parameters<typeof snapshot>[0]): string =>
      progressLine(new Tracker('counter').update(snapshot(values), NOW).view);
    assert.match(line({ activities: [transfer(0, { attempt: 3, lastFailure: 'no memory' })] }), /try 3: no memory/);
    assert.match(
      line({ progress: progress({ phase: 'waiting', waitingFor: 'beta' }) }),
      /waiting for the worker of host beta/,
    );
    assert.match(line({ trouble: 'no control worker answers' }), /^counter {2}no control worker answers$/);
    assert.match(line({ progress: progress({ phase: 'returning', step: 'returnInstance' }) }), /on the way back/);
  });

  it('keeps what it knew while no worker answers', () => {
    const tracker = new Tracker('counter');
    tracker.update(moving(1), NOW);
    const { view } = tracker.update(snapshot({ trouble: 'no control worker answers' }), NOW + 1000);
    assert.equal(view.title, 'counter alpha → beta');
    assert.equal(view.phase, 'blackout');
  });

  it('writes a step’s line with host, time and what it did', () => {
    const line = stepLine(step('saveInstance', NOW, NOW + 620, 'RAM and CPU saved'));
    assert.equal(line, 'saveInstance      alpha         0.62 s  RAM and CPU saved');
  });

  it('draws one line on a terminal and clears it', () => {
    const { display: shown, written } = display('text', true);
    shown.show(new Tracker('counter').update(moving(10), NOW));
    shown.clear();
    assert.ok(written.err.startsWith('\rcounter alpha → beta  transferPackage'));
    assert.ok(written.err.endsWith('\r\u001b[K'));
    assert.ok(!written.err.includes('\n'));
  });

  it('writes plain lines elsewhere: each step, and each obstacle once', () => {
    const { display: shown, written } = display('text', false);
    const tracker = new Tracker('counter');
    const steps = [step('preflight', NOW, NOW + 400)];
    shown.show(tracker.update(snapshot({ progress: progress({ steps }) }), NOW));
    const waiting = snapshot({ progress: progress({ steps, phase: 'waiting', waitingFor: 'beta' }) });
    shown.show(tracker.update(waiting, NOW + 1000));
    shown.show(tracker.update(waiting, NOW + 2000));
    assert.equal(
      written.err,
      'preflight         alpha         0.40 s\ncounter alpha → beta: waiting for the worker of host beta\n',
    );
  });

  it('tells events in jsonl and nothing on stderr', () => {
    const { display: shown, written } = display('jsonl', true);
    const tracker = new Tracker('counter');
    shown.show(tracker.update(snapshot({ progress: progress({ steps: [step('preflight', NOW, NOW + 400)] }) }), NOW));
    shown.show(tracker.update(moving(10), NOW + 1000));
    assert.equal(written.err, '');
    const [ended, first, second] = lines(written.out);
    assert.deepEqual([ended?.['type'], ended?.['step']], ['step', 'preflight']);
    assert.deepEqual([first?.['type'], first?.['moveId']], ['progress', 'm-1']);
    assert.deepEqual(
      [second?.['bytesDone'], second?.['bytesTotal'], second?.['step']],
      [10 * MB, 40 * MB, 'transferPackage'],
    );
  });

  it('says how to decide when the move is parked, once for each reason', () => {
    const { display: shown, written } = display('text', false);
    const tracker = new Tracker('counter');
    const parked = (reason: string) =>
      snapshot({
        progress: progress({
          phase: 'parked',
          parked: {
            failure: 'HostUnreachable',
            reason,
            since: NOW,
            choices: ['retry', 'return', 'readdress'],
            released: false,
          },
        }),
      });
    shown.show(tracker.update(parked('beta is gone'), NOW));
    shown.show(tracker.update(parked('beta is gone'), NOW + 1000));
    shown.show(tracker.update(parked('beta is full'), NOW + 2000));
    assert.equal(written.err.split('The move is parked: beta is gone').length, 2);
    assert.match(written.err, /The move is parked: beta is full/);
    assert.match(written.err, /vmferry moves readdress m-1 HOST/);
  });
});
