/** The client against a real Temporal server with the real workflows, and against a real catalog; hosts are pretended. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { NativeConnection } from '@temporalio/worker';
import { openCatalog } from '../../client/catalog.ts';
import { connect } from '../../client/temporal.ts';
import type { Profile } from '../../client/profile.ts';
import { ensureScrubSchedule } from '../../workers/scrub-schedule.ts';
import type { MoveProgress, MoveResult, Scrubbed } from '../../workflows/contract.ts';
import { searchAttributes, workflowId } from '../../workflows/contract.ts';
import { EXIT } from '../../workflows/failures.ts';
import { command, FakeApi, hostRow, instanceRow, lines } from '../fakes/client-api.ts';
import type { Outcome } from '../fakes/client-api.ts';
import type { Scenario } from '../fakes/scenario.ts';
import { addInstance, addPool, openMove, startCatalogs } from '../support/catalog.ts';
import type { TestCatalog } from '../support/catalog.ts';
import { freePort } from '../support/free-port.ts';
import { postgresMissing } from '../support/postgres.ts';
import type { TestPostgres } from '../support/postgres.ts';
import { temporalMissing } from '../support/temporal.ts';
import { Harness } from '../workflows/harness.ts';

describe('the client and Temporal', { skip: await temporalMissing() }, () => {
  let harness: Harness;

  before(async () => {
    harness = await Harness.start(['alpha', 'beta', 'gamma']);
  });
  after(() => harness.stop());

  const profile = (values: Partial<Profile['temporal']> = {}): Profile => {
    const temporal = { address: harness.temporal.address, namespace: harness.temporal.namespace, ...values };
    const text = `[profile.default]\naddress = "${temporal.address}"\nnamespace = "${temporal.namespace}"\n`;
    return {
      file: '/etc/profile.toml',
      text,
      temporalProfile: 'default',
      temporal,
      catalog: null,
      pool: null,
      ui: null,
    };
  };

  /** Real Temporal, and a catalog that knows the pretended instances. */
  function apiOf(...scenarios: Scenario[]): FakeApi {
    const api = new FakeApi();
    api.rows.hosts = ['alpha', 'beta', 'gamma'].map((id) => hostRow(id));
    api.rows.instances = scenarios.map(({ instanceId, name, source }) =>
      instanceRow(instanceId, { name, host: source }),
    );
    api.profile = profile();
    const opened = connect(api.profile);
    api.temporal = () => opened;
    api.close = async () => (await opened).close();
    return api;
  }
  const vmferry = (line: string, scenario: Scenario, interrupt?: AbortSignal): Promise<Outcome> =>
    command(line, { api: apiOf(scenario), ...(interrupt === undefined ? {} : { interrupt }), clock: 'real' });

  it('moves an instance, and the history begins with the story', async () => {
    const scenario = harness.pool.scenario({ name: 'counter' });
    const { exit, stdout, stderr } = await vmferry('instances migrate counter beta --output jsonl', scenario);
    assert.equal(exit, 0, stderr);
    const result = lines(stdout).at(-1) as unknown as MoveResult & { type: string };
    assert.deepEqual([result.type, result.source, result.destination], ['result', 'alpha', 'beta']);
    assert.equal(scenario.runningOn, 'beta');
    assert.deepEqual(scenario.violations, []);
    assert.ok(lines(stdout).some(({ type, step }) => type === 'step' && step === 'restoreInstance'));

    const description = await harness.client.workflow.getHandle(workflowId.instance(scenario.instanceId)).describe();
    assert.equal(await description.staticSummary(), 'Move counter from alpha to beta');
    assert.match((await description.staticDetails()) ?? '', /- destination: `beta`[\s\S]*- asked by /);
    assert.equal(description.typedSearchAttributes.get(searchAttributes.instance), scenario.instanceId);
    assert.equal(description.typedSearchAttributes.get(searchAttributes.source), 'alpha');
    assert.equal(description.typedSearchAttributes.get(searchAttributes.destination), 'beta');
  });

  it('watches the same request, and names what is in the way of another', async () => {
    const scenario = harness.pool.scenario({ name: 'twice' });
    const held = scenario.hold('beta.transferPackage');
    const first = vmferry('instances migrate twice beta', scenario);
    await held.entered;
    const second = vmferry('instances migrate twice beta --output json', scenario);
    const other = await vmferry('instances migrate twice gamma', scenario);
    assert.equal(other.exit, EXIT.conflict);
    assert.match(other.stderr, /Another operation is under way: Move twice from alpha to beta/);
    const saving = await vmferry('instances save twice --output json', scenario);
    assert.equal((JSON.parse(saving.stderr) as { type: string }).type, 'InstanceBusy');

    const shown = await vmferry('moves show twice --output json', scenario);
    const progress = JSON.parse(shown.stdout) as MoveProgress;
    assert.deepEqual([progress.phase, progress.step], ['blackout', 'transferPackage']);
    held.goOn();
    assert.equal((await first).stdout, `Instance ${scenario.instanceId} migrated to beta\n`);
    const result = JSON.parse((await second).stdout) as MoveResult;
    assert.equal(result.moveId, progress.moveId);
    assert.equal(scenario.count('alpha.saveInstance'), 1);
  });

  it('scrubs by a schedule that a control worker makes and the operator changes', async () => {
    const { address, namespace } = harness.temporal;
    const scenario = harness.pool.scenario({ name: 'kept' });
    scenario.packageId = randomUUID();
    scenario.packageHosts.add('beta');
    const absent = await vmferry('packages scrub', scenario);
    assert.equal(absent.exit, EXIT.refused);
    assert.match(absent.stderr, /Temporal has no schedule vmferry-scrub; a control worker makes it/);

    const connection = await NativeConnection.connect({ address });
    await ensureScrubSchedule(connection, namespace);
    const temporal = await apiOf(scenario).temporal();
    const made = await temporal.scrubSchedule();
    assert.deepEqual([made?.every, made?.off, made?.last], [86_400, false, null]);
    assert.ok((made?.next ?? 0) > Date.now());

    const held = scenario.hold('beta.verifyPackage');
    const first = vmferry('packages scrub --output json', scenario);
    await held.entered;
    const second = vmferry('packages scrub', scenario);
    await sleep(500);
    held.goOn();
    const { hosts } = JSON.parse((await first).stdout) as Scrubbed;
    assert.ok(hosts.some(({ host, verified }) => host === 'beta' && verified > 0));
    assert.match((await second).stdout, /^\d+ packages verified on 3 hosts\nNo damage is known\n$/);
    assert.equal(scenario.count('beta.verifyPackage'), 1, 'the second has joined the first');

    assert.equal((await vmferry('packages scrub --every 12h', scenario)).exit, 0);
    assert.equal((await temporal.scrubSchedule())?.every, 43_200);
    assert.equal((await vmferry('packages scrub --every off', scenario)).exit, 0);
    await ensureScrubSchedule(connection, namespace);
    const off = await temporal.scrubSchedule();
    assert.deepEqual([off?.every, off?.off, off?.next], [43_200, true, null], 'another worker’s start changes nothing');
    assert.ok((off?.last ?? 0) > 0);
    assert.equal((await vmferry('packages scrub', scenario)).exit, 0, 'off, it is still done when asked for');
    assert.equal((await vmferry('packages scrub --every 1d', scenario)).exit, 0);
    const on = await temporal.scrubSchedule();
    assert.deepEqual([on?.every, on?.off], [86_400, false]);
    await connection.close();
  });

  it('leaves a move to itself when interrupted', async () => {
    const scenario = harness.pool.scenario({ name: 'left' });
    const held = scenario.hold('beta.transferPackage');
    const interrupt = new AbortController();
    const watching = vmferry('instances migrate left beta', scenario, interrupt.signal);
    await held.entered;
    interrupt.abort();
    const { exit, stderr } = await watching;
    assert.equal(exit, EXIT.interrupted);
    const [, move] = /vmferry moves watch (\S+)`\.\n$/.exec(stderr) ?? assert.fail(stderr);
    const shown = await vmferry('moves show left --output json', scenario);
    assert.equal((JSON.parse(shown.stdout) as MoveProgress).phase, 'blackout');
    held.goOn();
    assert.match(move ?? '', /^[0-9a-f]{8}-[0-9a-f]{4}$/);
    await harness.client.workflow.getHandle(workflowId.instance(scenario.instanceId)).result();
    assert.equal(scenario.runningOn, 'beta');
  });

  it('says why a move came back', async () => {
    const scenario = harness.pool.scenario({ name: 'back' }).fail('beta.restoreInstance', 'NoSpace');
    const { exit, stdout, stderr } = await vmferry('instances migrate back beta --retry-window 1', scenario);
    assert.equal(exit, EXIT.returned, stderr);
    assert.equal(stdout, '');
    assert.match(stderr, /vmferry: Instance back runs on alpha again [^\n]*\nThe instance runs at its source again/);
    assert.doesNotMatch(stderr, /\n {4}at /);
    assert.equal(scenario.runningOn, 'alpha');
  });

  it('parks, shows the choices, and takes the decision', async () => {
    const scenario = harness.pool.scenario({ name: 'parked' }).fail('beta.restoreInstance', 'NoSpace');
    const line = 'instances migrate parked beta --on-failure park --retry-window 1';
    const left = await vmferry(`${line} --until-parked`, scenario);
    assert.equal(left.exit, EXIT.parked);
    assert.match(left.stderr, /is parked: /);
    const early = await vmferry('moves readdress parked alpha', scenario);
    assert.equal(early.exit, EXIT.usage, early.stderr);
    const again = await vmferry(`${line} --until-parked`, scenario);
    assert.equal(again.exit, EXIT.parked);
    assert.match(again.stderr, /^This is under way already, as move /);
    const { exit, stdout, stderr } = await vmferry('moves readdress parked gamma --watch', scenario);
    assert.equal(exit, 0, stderr);
    assert.equal(stdout, `Instance ${scenario.instanceId} migrated to gamma\n`);
    assert.equal(scenario.runningOn, 'gamma');
  });

  it('refuses a decision that nobody waits for', async () => {
    const scenario = harness.pool.scenario({ name: 'undecided' });
    const held = scenario.hold('beta.transferPackage');
    const moving = vmferry('instances migrate undecided beta', scenario);
    await held.entered;
    const { exit, stderr } = await vmferry('moves retry undecided', scenario);
    assert.equal(exit, EXIT.conflict, stderr);
    const cancelled = await vmferry('moves cancel undecided', scenario);
    assert.equal(cancelled.exit, 0, cancelled.stderr);
    await held.cancelled;
    assert.notEqual((await moving).exit, 0);
    assert.equal(scenario.runningOn, 'alpha');
  });

  it('hands on what a host says of a missing file', async () => {
    harness.pool.common.fail('alpha.addImage', 'FileNotFound', { times: 1 });
    const { exit, stderr } = await vmferry('images add /srv/none.qcow2 --host alpha', harness.pool.common);
    assert.equal(exit, EXIT.notFound);
    assert.match(stderr, /^vmferry: [^\n]+\nGive the path of a file/);
  });

  it('tells who works, and who does not', async () => {
    const { stdout } = await command('doctor --output json', { api: apiOf(), clock: 'real' });
    const { checks } = JSON.parse(stdout) as { checks: { subject: string; status: string; detail: string }[] };
    const of = (subject: string) => checks.find((check) => check.subject === subject);
    for (const subject of ['temporal', 'search attributes', 'control worker']) assert.equal(of(subject)?.status, 'ok');
    // The pretended catalog knows other keys than the pretended hosts have; that is for the doctor to find.
    assert.match(of('host beta')?.detail ?? '', /Its key is/);
    const absent = await command('nodes add delta', {
      api: Object.assign(apiOf(), { profile: profile() }),
      clock: 'real',
    });
    assert.equal(absent.exit, EXIT.untrusted, 'there is no pool key here');
  });

  it('explains a namespace that is not there', async () => {
    await assert.rejects(
      async () => {
        const server = await connect(profile({ namespace: 'nowhere' }));
        try {
          await server.facts();
        } finally {
          await server.close();
        }
      },
      { type: 'ServerRefused', message: /has no namespace nowhere/ },
    );
  });

  it('finds at once that nobody listens', async () => {
    const began = performance.now();
    const address = `127.0.0.1:${await freePort()}`;
    await assert.rejects(connect(profile({ address })), { type: 'ServerUnreachable', message: new RegExp(address) });
    assert.ok(performance.now() - began < 1000);
  });

  it('waits for a control worker that is away, and says so', async () => {
    const api = apiOf();
    const temporal = await api.temporal();
    const running = await harness.client.workflow.start('migrate', {
      taskQueue: 'nobody-polls-this',
      workflowId: workflowId.instance('of nobody'),
      args: [{ instanceId: 'of nobody', destination: 'beta' }],
    });
    const found = await temporal.runningOn('of nobody');
    assert.deepEqual(await found?.snapshot(), { progress: null, activities: [], trouble: 'no control worker answers' });
    await running.terminate();
    await sleep(0);
    assert.equal(await temporal.runningOn('of nobody'), null);
    await api.close();
  });

  it('asks for a decision again that fell to a control worker which does not answer', { timeout: 60_000 }, async () => {
    const api = apiOf();
    const temporal = await api.temporal();
    const { client } = harness;
    const taskQueue = { name: 'taken-and-never-answered' };
    const running = await client.workflow.start('migrate', {
      taskQueue: taskQueue.name,
      workflowId: workflowId.instance('of a silent worker'),
      args: [{ instanceId: 'of a silent worker', destination: 'beta' }],
      workflowTaskTimeout: '1s',
    });
    // The server refuses updates once it has handed out the same task often enough.
    for (let attempt = 0; attempt < 4;) {
      const { namespace } = client.options;
      const poll = () => client.workflowService.pollWorkflowTaskQueue({ namespace, taskQueue, identity: 'silent' });
      attempt = (await client.withDeadline(Date.now() + 30_000, poll)).attempt;
    }
    await sleep(1500);
    const move = await temporal.runningOn('of a silent worker');
    assert.ok(move);
    await assert.rejects(move.retry(), {
      type: 'HostUnreachable',
      message: 'The control worker fell silent over the decision; ask again',
    });
    await running.terminate();
    await api.close();
  });
});

describe('the client and the catalog', { skip: await postgresMissing() }, () => {
  let server: TestPostgres;
  let catalog: TestCatalog;
  let database: string;

  before(async () => {
    const { server: started, open } = await startCatalogs();
    server = started;
    catalog = await open();
    database = /\/(\w+)\?/.exec(catalog.url)?.[1] ?? '';
    await addPool(catalog, 'alpha', 'beta');
  });
  after(async () => {
    await catalog.close();
    await server.stop();
  });

  const profile = (url: string): Profile => ({
    file: '/etc/profile.toml',
    text: '',
    temporalProfile: 'default',
    temporal: { address: '127.0.0.1:1', namespace: 'default' },
    catalog: url,
    pool: null,
    ui: null,
  });
  const lister = (url: string): FakeApi => {
    const api = new FakeApi();
    const opened = openCatalog(profile(url));
    api.catalog = () => Promise.resolve(opened);
    api.close = () => opened.close();
    return api;
  };

  it('lists what is there, with the role that may only read', async () => {
    const id = await addInstance(catalog, 'counter', 'alpha');
    const { moveId } = await openMove(catalog, id, 'beta');
    const url = server.url(database, 'vmferry_reader');
    const shown = async (line: string): Promise<Record<string, unknown>[]> => {
      const { exit, stdout, stderr } = await command(`${line} --output json`, { api: lister(url) });
      assert.equal(exit, 0, stderr);
      return JSON.parse(stdout) as Record<string, unknown>[];
    };
    assert.deepEqual(
      (await shown('nodes list')).map((row) => row['id']),
      ['alpha', 'beta'],
    );
    assert.deepEqual(
      (await shown('instances list')).map((row) => [row['id'], row['state']]),
      [[id, 'moving']],
    );
    assert.deepEqual(
      (await shown('moves list --open --instance counter')).map((row) => row['id']),
      [moveId],
    );
    assert.equal((await shown('images list')).length, 1);
    assert.deepEqual(await shown('packages list'), []);
    const text = await command('list', { api: lister(url) });
    assert.match(text.stdout, /counter +alpha +moving/);

    const facts = await openCatalog(profile(url)).facts();
    assert.deepEqual([facts.role, facts.mayWrite, facts.migrations[0]], ['vmferry_reader', false, '0001_catalog']);
    assert.equal((await openCatalog(profile(catalog.url)).facts()).mayWrite, true);
  });

  it('says which catalog of which profile does not answer', async () => {
    const dead = `postgres://reader@127.0.0.1:${await freePort()}/vmferry`;
    const refused = await command('list', { api: lister(dead) });
    assert.equal(refused.exit, EXIT.unreachable);
    assert.match(
      refused.stderr,
      /^vmferry: The catalog at 127\.0\.0\.1:\d+\/vmferry \(profile \/etc\/profile\.toml\) does not answer: [^\n]+\n/,
    );
    const absent = await command('list', { api: lister(server.url('nowhere')) });
    assert.equal(absent.exit, EXIT.unreachable);
    assert.match(absent.stderr, /database "nowhere" does not exist/);
    assert.doesNotMatch(refused.stderr + absent.stderr, /\n {4}at /);
  });

  it('is a program that Ctrl-C ends with 130 and nothing changed', async () => {
    const folder = await mkdtemp(join(tmpdir(), 'vmferry-cli-'));
    const file = join(folder, 'profile.toml');
    await writeFile(file, `[profile.default]\naddress = "127.0.0.1:1"\n[vmferry]\ncatalog = "${catalog.url}"\n`);
    try {
      const program = fileURLToPath(new URL('../../client/main.ts', import.meta.url));
      const child = spawn(process.execPath, [program, 'delete-all', '--profile', file], {
        env: { ...process.env, XDG_CACHE_HOME: folder },
      });
      let told = '';
      child.stderr.on('data', (chunk: Buffer) => {
        told += chunk.toString();
        // Once: a second one would end the process without a word.
        if (told.endsWith('(yes/no) ')) child.kill('SIGINT');
      });
      const [code] = (await once(child, 'exit')) as [number | null];
      assert.equal(code, EXIT.interrupted, told);
      assert.match(told, /Delete these [^\n]+ for ever\? \(yes\/no\) \nvmferry: Nothing was changed\.\n$/);
    } finally {
      await rm(folder, { recursive: true });
    }
  });

  it('never shows a password', async () => {
    const { stderr } = await command('list', { api: lister('postgres://reader:secret@127.0.0.1:1/vmferry') });
    assert.match(stderr, /127\.0\.0\.1:1\/vmferry/);
    assert.doesNotMatch(stderr, /secret/);
  });
});
