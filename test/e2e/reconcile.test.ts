/**
 * What crashes, power losses, supervisors and terminated workflows leave behind: hosts notice it at their start, `doctor` tells
 * it, mends what is provably safe, and `instances start` runs again what is down.
 */
import assert from 'node:assert/strict';
import { cpSync, existsSync, mkdirSync, readFileSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { Client, Connection } from '@temporalio/client';
import { workflowId } from '../../workflows/contract.ts';
import { EXIT } from '../../workflows/failures.ts';
import type { Finding } from '../../workflows/findings.ts';
import { ConsoleObserver } from '../support/console-observer.ts';
import { cannotRun, Pool, type Guest } from '../support/pool.ts';

describe('hosts, records and catalog are reconciled', { skip: cannotRun }, () => {
  let pool: Pool;
  let guest: Guest;
  let observer: ConsoleObserver;
  let token: string;

  before(async () => {
    pool = await Pool.up();
    guest = await pool.spawn('alpha', 'reconciled');
    ({ token } = await pool.testbed.guestStatus('alpha', guest.ip));
    observer = new ConsoleObserver(pool.testbed, guest.id);
  });
  after(async () => {
    observer.stop();
    await pool.down();
  });

  interface Diagnosis {
    exit: number;
    findings: Finding[];
    /** `type host`, and whether it was mended. */
    told: string[];
  }
  const doctor = async (...options: string[]): Promise<Diagnosis> => {
    const { exitCode, json } = await pool.cli('doctor', ...options);
    const { findings } = json as { findings: Finding[] };
    const told = findings.map(({ type, host, mended }) => `${type} ${host}${mended === true ? ' mended' : ''}`);
    return { exit: exitCode, findings, told: told.sort() };
  };
  const terminate = async (): Promise<void> => {
    const connection = await Connection.connect({ address: pool.testbed.temporalAddress });
    try {
      await new Client({ connection }).workflow.getHandle(workflowId.instance(guest.id)).terminate('by a test');
    } finally {
      await connection.close();
    }
  };
  const state = (host: string): string => pool.testbed.outside(host, '/var/lib/vmferry');
  const virsh = async (host: string, ...args: string[]): Promise<string> =>
    (await pool.testbed.exec(host, ['virsh', '-q', ...args])).stdout.trim();
  /** The move stands there, its workflow is gone, and so is the worker that it was about to ask. */
  const losesItsWorkflow = async (host: string, activity: string): Promise<void> => {
    const destination = (await pool.whereabouts(guest)).runningOn[0] === 'alpha' ? 'beta' : 'alpha';
    const held = await pool.hold(host, activity, 'before');
    const move = pool.cli('instances', 'migrate', guest.id, destination);
    await held.reached();
    await terminate();
    await pool.testbed.kill(host, 'worker');
    await held.release();
    assert.notEqual((await move).exitCode, 0);
    await pool.testbed.start(host, 'worker');
  };
  const unharmed = async (owner: string): Promise<void> => {
    assert.equal((await pool.testbed.guestStatus(owner, guest.ip)).token, token);
    assert.deepEqual(await pool.violations(guest, owner), []);
    assert.deepEqual(observer.violations(), []);
    assert.deepEqual(await doctor(), { exit: EXIT.ok, findings: [], told: [] });
  };

  it('finds nothing where all is well', () => unharmed('alpha'));

  it('a move whose workflow is terminated after the release is brought to its new owner', async () => {
    await losesItsWorkflow('beta', 'resumeInstance');
    const { exit, told } = await doctor();
    const left = ['moveFolderLeft alpha', 'moveFolderLeft beta', 'releaseNotTaken beta', 'waitingCopy beta'];
    const harmless = ['packageNotInCatalog beta', 'strayAddress alpha'];
    assert.deepEqual(told, [...left, ...harmless, 'workingCopyLeft alpha'].sort());
    assert.equal(exit, EXIT.conflict);
    // Nothing else may be removed: beta has yet to run from it.
    const mended = harmless.map((one) => `${one} mended`);
    assert.deepEqual((await doctor('--mend')).told, [...left, ...mended, 'workingCopyLeft alpha'].sort());
    const started = await pool.ok<{ host: string; generation: number }>('instances', 'start', guest.id);
    assert.deepEqual([started.host, started.generation], ['beta', 2]);
    await unharmed('beta');
  });

  it('the catalog follows the owner, and what a lost move left is cleared away', async () => {
    await losesItsWorkflow('beta', 'settleMove');
    const before = await pool.ok<{ state: string; host: string }>('instances', 'show', guest.id);
    assert.deepEqual([before.state, before.host], ['moving', 'beta']);
    const { exit, told } = await doctor();
    assert.ok(told.includes('moveWithoutWorkflow alpha'), told.join());
    assert.equal(exit, EXIT.ok, 'leftovers are hints');
    const mended = await doctor('--mend');
    assert.deepEqual(
      mended.told.filter((one) => !one.endsWith(' mended')),
      [],
    );
    const { state: now, host } = await pool.ok<{ state: string; host: string }>('instances', 'show', guest.id);
    assert.deepEqual([now, host], ['running', 'alpha']);
    const { outcome } = await pool.ok<{ outcome: string }>('moves', 'show', guest.id);
    assert.equal(outcome, 'moved');
    await unharmed('alpha');
  });

  it('a move whose workflow is terminated in its blackout is taken back where it was', async () => {
    await losesItsWorkflow('alpha', 'buildPackage');
    const { told } = await doctor();
    assert.deepEqual(told, ['down alpha', 'expectedHere beta', 'moveFolderLeft alpha', 'moveWithoutWorkflow alpha']);
    const started = await pool.ok<{ how: string }>('instances', 'start', guest.id);
    assert.equal(started.how, 'restored');
    assert.deepEqual((await doctor('--mend')).told, ['expectedHere beta mended']);
    await unharmed('alpha');
  });

  it('f1, f3: a copy that a supervisor starts after the release is suspended when the worker starts', async () => {
    const kept = join(pool.testbed.directory, 'kept');
    const xml = await virsh('alpha', 'dumpxml', '--inactive', '--security-info', guest.id);
    const folder = /source file='(.*)\/vda\.qcow2'/.exec(xml)?.[1] ?? '';
    cpSync(pool.testbed.outside('alpha', folder), kept, { recursive: true });
    await pool.ok('instances', 'migrate', guest.id, 'beta');

    mkdirSync(pool.testbed.outside('alpha', folder), { recursive: true });
    cpSync(kept, pool.testbed.outside('alpha', folder), { recursive: true });
    await writeFile(pool.testbed.outside('alpha', '/var/lib/supervised.xml'), xml);
    await virsh('alpha', 'define', '/var/lib/supervised.xml');
    await virsh('alpha', 'start', guest.id);
    const look = await doctor();
    assert.deepEqual([look.exit, look.told], [EXIT.untrusted, ['runsWithoutRight alpha']]);
    await pool.testbed.kill('alpha', 'worker', 'SIGTERM');
    await pool.testbed.start('alpha', 'worker');
    assert.equal(await virsh('alpha', 'domstate', guest.id), 'paused');
    assert.deepEqual((await pool.whereabouts(guest)).runningOn, ['beta']);
    const log = readFileSync(pool.testbed.outside('alpha', '/var/log/vmferry/worker.log'), 'utf8');
    assert.match(log, /"type":"runsWithoutRight","mended":true/);
    assert.deepEqual((await doctor()).told, ['pausedWithoutRight alpha']);

    // A person has looked, and lets go of it.
    await virsh('alpha', 'destroy', guest.id);
    const { exit, told } = await doctor('--mend');
    assert.deepEqual([exit, told], [EXIT.ok, ['stillDefined alpha mended']]);
    assert.deepEqual((await doctor('--mend')).told, ['workingCopyLeft alpha mended']);
    assert.equal((await pool.testbed.guestStatus('beta', guest.ip)).token, token);
    assert.deepEqual(await pool.violations(guest, 'beta'), []);
    assert.deepEqual(await doctor(), { exit: EXIT.ok, findings: [], told: [] });
  });

  it('an instance that is down after a power loss is told, and boots again on request', async () => {
    await pool.testbed.reboot('beta');
    const { exit, told, findings } = await doctor();
    assert.deepEqual([exit, told], [EXIT.conflict, ['down beta']]);
    assert.match(findings[0]?.advice ?? '', /vmferry instances start/);
    assert.equal((await pool.ok<{ how: string }>('instances', 'start', guest.id)).how, 'booted');
    await pool.answers('beta', guest);
    assert.equal((await pool.ok<{ how: string }>('instances', 'start', guest.id)).how, 'ran already');
    assert.notEqual((await pool.testbed.guestStatus('beta', guest.ip)).token, token);
    assert.deepEqual((await doctor()).told, []);
  });

  it('a saved instance is started from its package', async () => {
    const { token: before } = await pool.testbed.guestStatus('beta', guest.ip);
    await pool.ok('instances', 'save', guest.id);
    assert.deepEqual((await doctor()).told, []);
    assert.equal((await pool.ok<{ how: string }>('instances', 'start', guest.id)).how, 'restored');
    assert.equal((await pool.testbed.guestStatus('beta', guest.ip)).token, before);
    assert.deepEqual((await doctor()).told, []);
    assert.deepEqual(await pool.violations(guest, 'beta'), []);
  });

  it('half-written files of a killed worker are gone when it has started again', async () => {
    const left = join(state('beta'), 'instances', guest.id, 'ledger', '.tmp-4000000.1-0f3f2a52-0000-record.json');
    await writeFile(left, '{');
    await pool.testbed.kill('beta', 'worker');
    await pool.testbed.start('beta', 'worker');
    assert.ok(!existsSync(left));
    assert.deepEqual((await doctor()).told, []);
  });
});
