import assert from 'node:assert/strict';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { ApplicationFailure } from '@temporalio/common';
import { WorkflowFailedError } from '@temporalio/client';
import { generateKey } from 'openpgp';
import { createPoolKey } from '../../activities/trust/pool-key.ts';
import { PROFILE } from '../../activities/trust/openpgp-profile.ts';
import type { HostDescription, HostRecord, MoveResult, Parked } from '../../workflows/contract.ts';
import { EXIT, VmferryError } from '../../workflows/failures.ts';
import type { FailureType } from '../../workflows/failures.ts';
import {
  command,
  FakeApi,
  FakeRunning,
  hostRow,
  imageRow,
  instanceRow,
  lines,
  moveRow,
  NOW,
  packageRow,
  progress,
  snapshot,
  step,
} from '../fakes/client-api.ts';
import type { Outcome } from '../fakes/client-api.ts';

const INSTANCE = '7c9e6679-7425-40de-944b-e07fc1f90ae7';
const MOVE = '01a20abf-1234-7000-8000-000000000000';

function pool(): FakeApi {
  const api = new FakeApi();
  api.rows.instances = [instanceRow(INSTANCE)];
  api.rows.images = [imageRow('aa11')];
  return api;
}

const moved: MoveResult = {
  moveId: MOVE,
  instanceId: INSTANCE,
  packageId: 'p-1',
  source: 'alpha',
  destination: 'beta',
  generation: 2,
  address: { ip: '10.77.0.2', mac: '52:54:00:4d:00:02' },
  stepSeconds: { preflight: 0.4 },
  blackoutSeconds: 6.5,
  totalSeconds: 9.1,
  packageBytes: 4e7,
  wireBytes: 4e7,
};

/** What a workflow that failed throws at the client. */
const workflowFailure = (type: FailureType, message: string): Error =>
  new WorkflowFailedError(
    'Workflow execution failed',
    ApplicationFailure.create({ type, message }),
    'NON_RETRYABLE_FAILURE',
  );

/** One sentence and advice, no stack, nothing on stdout. */
function refused({ exit, stdout, stderr }: Outcome, code: number, sentence: RegExp): void {
  assert.equal(exit, code, stderr);
  assert.equal(stdout, '');
  assert.match(stderr, sentence);
  assert.match(stderr, /^vmferry: [^\n]+[.!?)]\n[^\n]*\n?$/);
  assert.doesNotMatch(stderr, /\n {4}at |Error:/);
}

describe('words that the client does not understand', () => {
  it('end with exit code 2 and a suggestion', async () => {
    refused(await command('imges list'), EXIT.usage, /unknown command 'imges'.*Did you mean images/i);
    refused(await command('images lst'), EXIT.usage, /Did you mean list/);
    refused(await command('images list --outptu json'), EXIT.usage, /unknown option '--outptu'.*--output/i);
    refused(
      await command('list', { env: { VMFERRY_OUTPUT: 'xml' } }),
      EXIT.usage,
      /VMFERRY_OUTPUT takes text, json, jsonl/,
    );
    refused(await command('images list --output xml'), EXIT.usage, /Allowed choices are text, json, jsonl/);
    refused(await command('instances migrate counter'), EXIT.usage, /missing required argument 'host'/i);
    refused(await command('help instances migrat'), EXIT.usage, /did you mean migrate/);
  });

  it('show the help of a group that lacks its command', async () => {
    const { exit, stdout, stderr } = await command('instances');
    assert.equal(exit, EXIT.usage);
    assert.equal(stdout, '');
    assert.match(stderr, /Usage: vmferry instances/);
  });

  it('are reported as JSON when JSON was asked for', async () => {
    for (const line of ['imges --output json', '--output=json imges']) {
      const { exit, stderr } = await command(line);
      assert.equal(exit, EXIT.usage);
      assert.equal((JSON.parse(stderr) as { type: string }).type, 'InvalidInput');
    }
    const { stderr } = await command('imges', { env: { VMFERRY_OUTPUT: 'jsonl' } });
    assert.equal((JSON.parse(stderr) as { exit: number }).exit, EXIT.usage);
  });
});

describe('help', () => {
  const COMMANDS = [
    ...['nodes', 'nodes add', 'nodes list', 'hosts add', 'pool init', 'pool show', 'list', 'delete-all', 'doctor'],
    ...['images add', 'images list', 'images delete', 'images pull', 'images spawn'],
    ...[
      'instances list',
      'instances show',
      'instances save',
      'instances start',
      'instances restore',
      'instances migrate',
      'instances delete',
    ],
    ...['packages list', 'packages show', 'packages pull', 'packages delete', 'packages verify', 'packages scrub'],
    ...['moves list', 'moves show', 'moves watch', 'moves retry', 'moves return', 'moves readdress', 'moves cancel'],
  ];

  it('of every command shows exit codes, environment and global options', async () => {
    for (const line of ['', ...COMMANDS]) {
      const { exit, stdout } = await command(`help ${line}`);
      assert.equal(exit, 0, line);
      assert.match(stdout, /Exit codes:\n\s+0 {2}done/);
      for (const code of Object.values(EXIT)) assert.match(stdout, new RegExp(`^ *${code} {2}\\S`, 'm'));
      for (const variable of ['VMFERRY_PROFILE', 'VMFERRY_OUTPUT', 'TEMPORAL_PROFILE'])
        assert.ok(stdout.includes(variable), line);
      assert.match(stdout, /--output/);
    }
  });

  it('of every command that does something has an example', async () => {
    for (const line of COMMANDS.filter((one) => one !== 'nodes')) {
      const { stdout } = await command(`help ${line}`);
      assert.match(stdout, new RegExp(`Example:\\n {2}vmferry ${line.replace('hosts', 'nodes')}`), line);
    }
  });

  it('is the same as --help, and each group has its own', async () => {
    const { stdout } = await command('help images add');
    assert.equal((await command('images add --help')).stdout, stdout);
    assert.equal((await command('images help add')).stdout, stdout);
  });

  it('describes the profile, which needs no profile', async () => {
    const { stdout, exit } = await command('help profile', { env: { VMFERRY_PROFILE: '/nowhere' } });
    assert.equal(exit, 0);
    assert.match(stdout, /\[profile\.default\]/);
  });
});

describe('bad input', () => {
  it('unknown instance', async () => {
    const api = pool();
    refused(await command('instances migrate nobody beta', { api }), EXIT.notFound, /nobody/);
    refused(await command('instances save nobody', { api }), EXIT.notFound, /nobody/);
    refused(await command('instances show nobody', { api }), EXIT.notFound, /nobody/);
    assert.deepEqual(api.started, []);
  });

  it('unknown host', async () => {
    const api = pool();
    refused(await command('instances migrate counter gamma', { api }), EXIT.notFound, /gamma/);
    refused(await command('images spawn debian --host gamma', { api }), EXIT.notFound, /gamma/);
    refused(await command('images pull debian gamma', { api }), EXIT.notFound, /gamma/);
    assert.deepEqual(api.started, []);
  });

  it('same host', async () => {
    const api = pool();
    refused(await command('instances migrate counter alpha', { api }), EXIT.usage, /counter is on alpha already/);
    assert.deepEqual(api.started, []);
  });

  it('missing image file', async () => {
    const api = pool().fails('addImage', workflowFailure('FileNotFound', 'There is no file /srv/none.qcow2 on alpha'));
    refused(
      await command('images add /srv/none.qcow2 --host alpha', { api }),
      EXIT.notFound,
      /no file \/srv\/none\.qcow2 on alpha/,
    );
    refused(await command('images spawn /srv/none.qcow2 --host alpha', { api }), EXIT.notFound, /no file/);
    assert.deepEqual(
      api.started.map(({ type }) => type),
      ['addImage', 'addImage'],
    );
  });

  it('malformed profile', async () => {
    const missing = await command('list', { env: { VMFERRY_PROFILE: '/nowhere/profile.toml' } });
    refused(missing, EXIT.usage, /There is no profile \/nowhere\/profile\.toml/);
    refused(await command(`list --profile ${import.meta.filename}`), EXIT.usage, /client-commands\.test\.ts, line 1/);
    refused(await command('list --temporal-profile office'), EXIT.usage, /no \[profile\.office\]/);
  });

  it('server down', async () => {
    // The profile of these tests names a port where nobody listens.
    const profile = await mkdtemp(join(tmpdir(), 'vmferry-down-'));
    try {
      const { writeFile } = await import('node:fs/promises');
      const file = join(profile, 'p.toml');
      const database = 'postgres://reader@127.0.0.1:1/vmferry';
      await writeFile(file, `[profile.default]\naddress = "127.0.0.1:1"\n[vmferry]\ncatalog = "${database}"\n`);
      refused(
        await command(`list --profile ${file}`),
        EXIT.unreachable,
        /catalog at 127\.0\.0\.1:1\/vmferry \(profile .*p\.toml\)/,
      );
      const api = pool();
      const { connect } = await import('../../client/temporal.ts');
      api.temporal = () => connect({ ...api.profile, temporal: { address: '127.0.0.1:1', namespace: 'default' } });
      const down = await command('instances migrate counter beta', { api });
      refused(down, EXIT.unreachable, /Temporal at 127\.0\.0\.1:1 \(profile \/etc\/profile\.toml\) does not answer/);
    } finally {
      await rm(profile, { recursive: true });
    }
  });

  it('arguments that make no sense', async () => {
    const api = pool();
    for (const [line, sentence] of [
      ['images add image.qcow2 --host alpha', /not an absolute path/],
      ['images add /i.qcow2 --host alpha --initrd /initrd', /need --kernel/],
      ['images add /i.qcow2', /Say with --host which host is meant: alpha, beta/],
      ['images spawn debian --host alpha --memory lots', /--memory takes a size/],
      ['images spawn debian --host alpha --vcpus 0', /--vcpus takes a whole number/],
      ['images spawn debian --host alpha --domain-type xen', /--domain-type takes auto, kvm, qemu/],
      ['images spawn debian --host alpha --kernel /vmlinuz', /an image has its own/],
      ['instances migrate counter beta --on-failure pray', /--on-failure takes park or return/],
      ['instances migrate counter beta --compression-level 20', /--compression-level takes/],
      ['instances migrate counter beta --retry-window soon', /--retry-window takes/],
      ['moves list --limit 0', /--limit takes/],
      ['delete-all hosts', /takes images or instances/],
    ] as const) {
      refused(await command(line, { api }), EXIT.usage, sentence);
    }
    assert.deepEqual(api.started, []);
  });

  it('shows a stack only when debugging', async () => {
    const { stderr } = await command('list --profile /nowhere', { env: { VMFERRY_DEBUG: '1' } });
    assert.match(stderr, /\n {4}at /);
  });
});

describe('images', () => {
  it('adds one from a host’s file', async () => {
    const image = imageRow('cc');
    const api = pool().answers('addImage', image);
    const line = [
      'images',
      'add',
      '/i.qcow2',
      '--host',
      'beta',
      '--name',
      'deb',
      '--kernel',
      '/k',
      '--initrd',
      '/r',
      '--cmdline',
      'a b',
    ];
    const { exit, stdout } = await command(line, { api });
    assert.equal(exit, 0);
    assert.equal(stdout, `Image ${image.id} created\n`);
    const input = { host: 'beta', path: '/i.qcow2', kernelPath: '/k', initrdPath: '/r', cmdline: 'a b', name: 'deb' };
    assert.deepEqual(api.started, [{ type: 'addImage', input, story: undefined }]);
    assert.ok(api.closed);
  });

  it('takes the only host when none is named', async () => {
    const api = pool().answers('addImage', imageRow('cc'));
    api.rows.hosts = [hostRow('alpha')];
    assert.equal((await command('images add /i.qcow2', { api })).exit, 0);
    assert.deepEqual(api.started[0]?.input, { host: 'alpha', path: '/i.qcow2' });
    api.rows.hosts = [];
    refused(await command('images add /i.qcow2', { api }), EXIT.notFound, /The pool has no host yet/);
  });

  it('spawns an instance and says its address', async () => {
    const api = pool();
    api.workflows['spawn'] = () => {
      const { instanceId, host } = api.started[0]?.input as { instanceId: string; host: string };
      return Object.assign(new FakeRunning(), {
        outcome: () => ({ instanceId, host, address: { ip: '10.77.0.9', mac: '' } }),
      });
    };
    const { stdout } = await command('images spawn debian --host alpha --memory 1GiB --vcpus 2 --domain-type qemu', {
      api,
    });
    const { instanceId, name, ...input } = api.started[0]?.input as Record<string, string>;
    assert.equal(stdout, `Instance ${instanceId} spawned with IP 10.77.0.9\n`);
    assert.equal(name, `debian-${instanceId?.slice(0, 4)}`);
    assert.deepEqual(input, {
      host: 'alpha',
      imageId: imageRow('aa11').id,
      memoryBytes: 2 ** 30,
      vcpus: 2,
      domainType: 'qemu',
    });
  });

  it('adds a file before it spawns from it, and names only the instance', async () => {
    const api = pool()
      .answers('addImage', imageRow('cc', { name: 'Guest_1.qcow2' }))
      .answers('spawn', { instanceId: INSTANCE, host: 'beta', address: { ip: '10.77.0.9', mac: '' } });
    assert.equal(
      (await command('images spawn /srv/Guest_1.qcow2 --host beta --kernel /k --name web', { api })).exit,
      0,
    );
    const [added, spawned] = api.started;
    assert.deepEqual(added?.input, { host: 'beta', path: '/srv/Guest_1.qcow2', kernelPath: '/k' });
    assert.equal((spawned?.input as { name: string }).name, 'web');
    assert.equal((spawned?.input as { imageId: string }).imageId, imageRow('cc').id);
  });

  it('pulls and deletes', async () => {
    const api = pool().answers('pull', { id: imageRow('aa11').id, destination: 'beta', bytes: 5 });
    assert.equal(
      (await command('images pull debian beta', { api })).stdout,
      `Image ${imageRow('aa11').id} pulled to beta\n`,
    );
    assert.equal((await command('images delete aa', { api })).stdout, `Image ${imageRow('aa11').id} deleted\n`);
    assert.deepEqual(
      api.started.map(({ type, input }) => ({ type, ...input })),
      [
        { type: 'pull', kind: 'image', id: imageRow('aa11').id, destination: 'beta' },
        { type: 'deleteImage', imageId: imageRow('aa11').id },
      ],
    );
  });
});

describe('instances', () => {
  it('migrates one, with options, and says so plainly', async () => {
    const api = pool().answers('migrate', moved);
    const line = 'instances migrate counter beta --on-failure park --retry-window 600 --compression-level 3';
    const { exit, stdout, stderr } = await command(line, { api });
    assert.equal(exit, 0);
    assert.equal(stdout, `Instance ${INSTANCE} migrated to beta\n`);
    assert.match(stderr, /stood still for 6\.50 s; in all 9\.10 s, 40\.0 MB sent/);
    const options = { onFailure: 'park', retryWindowSeconds: 600, compressionLevel: 3 };
    assert.deepEqual(api.started, [
      {
        type: 'migrate',
        input: { instanceId: INSTANCE, destination: 'beta', options },
        story: { instanceName: 'counter', source: 'alpha' },
      },
    ]);
  });

  it('answers with the whole result as JSON', async () => {
    const api = pool().answers('migrate', moved);
    const { stdout, stderr } = await command('instances migrate counter beta --output json', { api });
    assert.deepEqual(JSON.parse(stdout), moved);
    assert.equal(stderr, '');
  });

  it('tells its steps as lines of JSON while it moves', async () => {
    const steps = [step('preflight', NOW, NOW + 400)];
    const api = pool().runs('migrate', {
      looks: 2,
      snapshots: [
        snapshot({ progress: progress() }),
        snapshot({ progress: progress({ steps, phase: 'blackout', step: 'saveInstance' }) }),
      ],
      outcome: () => moved,
    });
    const { stdout } = await command('instances migrate counter beta --output jsonl', { api });
    const told = lines(stdout);
    assert.deepEqual(
      told.map(({ type }) => type),
      ['progress', 'step', 'progress', 'result'],
    );
    assert.equal(told.at(-1)?.['blackoutSeconds'], 6.5);
  });

  it('watches the same move when the command is repeated', async () => {
    const api = pool().runs('migrate', { joined: true, outcome: () => moved });
    const { exit, stdout, stderr } = await command('instances migrate counter beta', { api });
    assert.equal(exit, 0);
    assert.match(stderr, /under way already, as move 01a20abf-1234; watching it/);
    assert.match(stdout, /migrated to beta/);
  });

  it('asks the running move, not the catalog, about an instance on its way', async () => {
    const api = pool().answers('migrate', moved);
    api.rows.instances = [instanceRow(INSTANCE, { state: 'moving', moveId: MOVE, host: 'beta' })];
    assert.equal((await command('instances migrate counter beta', { api })).exit, 0);
    assert.equal(api.started.length, 1);
  });

  it('reports what is in the way', async () => {
    const api = pool();
    const temporal = await api.temporal();
    temporal.start = () =>
      Promise.reject(new VmferryError('InstanceBusy', 'Another operation is under way: Save counter on alpha'));
    api.temporal = () => Promise.resolve(temporal);
    refused(await command('instances migrate counter beta', { api }), EXIT.conflict, /Save counter on alpha/);
  });

  it('returns at once when detached', async () => {
    const api = pool().runs('migrate', { outcome: () => assert.fail('waited'), looks: 9 });
    const { exit, stdout } = await command('instances migrate counter beta --detach', { api });
    assert.equal(exit, 0);
    assert.match(stdout, /vmferry moves watch 01a20abf-1234/);
  });

  it('ends with 9 when the move returned to its source', async () => {
    const api = pool().fails(
      'migrate',
      workflowFailure('MoveReturned', 'Instance counter runs on alpha again: beta is full'),
    );
    refused(
      await command('instances migrate counter beta', { api }),
      EXIT.returned,
      /runs on alpha again: beta is full/,
    );
  });

  it('stays with a parked move until it is decided, or ends with 10 if told so', async () => {
    const parked = snapshot({
      progress: progress({
        phase: 'parked',
        parked: {
          failure: 'HostUnreachable',
          reason: 'beta is gone',
          since: NOW,
          choices: ['retry', 'return'],
          released: false,
        },
      }),
    });
    const values: Partial<FakeRunning> = {
      snapshots: [parked, parked, snapshot({ progress: progress() })],
      looks: 3,
      outcome: () => moved,
    };
    const stayed = await command('instances migrate counter beta', { api: pool().runs('migrate', values) });
    assert.equal(stayed.exit, 0);
    assert.match(
      stayed.stderr,
      /The move is parked: beta is gone\n {2}vmferry moves retry m-1 {2}\(try again at once\)\n/,
    );
    const left = await command('instances migrate counter beta --until-parked', {
      api: pool().runs('migrate', values),
    });
    assert.equal(left.exit, EXIT.parked);
    assert.match(left.stderr, /vmferry: The move 01a20abf-1234 is parked: beta is gone\.\n/);
  });

  it('lets the move go on when interrupted, and says how to watch it', async () => {
    const interrupt = new AbortController();
    const api = pool().runs('migrate', {
      looks: Infinity,
      snapshot: () => {
        interrupt.abort();
        return Promise.resolve(snapshot({ progress: progress() }));
      },
    });
    const { exit, stdout, stderr } = await command('instances migrate counter beta', {
      api,
      interrupt: interrupt.signal,
    });
    assert.equal(exit, EXIT.interrupted);
    assert.equal(stdout, '');
    assert.equal(stderr, 'vmferry: The move goes on; watch it with `vmferry moves watch 01a20abf-1234`.\n');
    assert.ok(api.closed);
  });

  it('outlives a server that is away for a moment', async () => {
    let asked = 0;
    const api = pool().runs('migrate', {
      result: () =>
        ++asked < 4 ? Promise.reject(new VmferryError('ServerUnreachable', 'away')) : Promise.resolve(moved),
      snapshot: () => Promise.reject(new VmferryError('ServerUnreachable', 'away')),
    });
    const { exit } = await command('instances migrate counter beta', { api });
    assert.equal(exit, 0);
    assert.equal(asked, 4);
  });

  it('gives up a server that stays away, after two minutes', async () => {
    const api = pool().runs('migrate', {
      result: () => Promise.reject(new VmferryError('ServerUnreachable', 'away')),
      snapshot: () => Promise.reject(new VmferryError('ServerUnreachable', 'away')),
    });
    assert.equal((await command('instances migrate counter beta', { api })).exit, EXIT.unreachable);
  });

  it('saves, restores and deletes', async () => {
    const api = pool()
      .answers('save', { instanceId: INSTANCE, packageId: 'p-1', host: 'alpha', packageBytes: 5 })
      .answers('restore', moved);
    assert.equal(
      (await command('instances save 7c9e', { api })).stdout,
      `Instance ${INSTANCE} saved as package p-1 on alpha\n`,
    );
    assert.equal(
      (await command('instances restore counter beta', { api })).stdout,
      `Instance ${INSTANCE} restored on beta\n`,
    );
    assert.equal((await command('instances restore counter', { api })).exit, 0);
    assert.equal((await command('instances delete counter', { api })).stdout, `Instance ${INSTANCE} deleted\n`);
    assert.deepEqual(
      api.started.map(({ type, input }) => ({ type, ...input })),
      [
        { type: 'save', instanceId: INSTANCE },
        { type: 'restore', instanceId: INSTANCE, destination: 'beta' },
        { type: 'restore', instanceId: INSTANCE },
        { type: 'deleteInstance', instanceId: INSTANCE },
      ],
    );
  });

  it('asks at a terminal before it deletes', async () => {
    const api = pool();
    const no = await command('instances delete counter', { api, terminal: true, stdin: 'no\n' });
    assert.equal(no.exit, EXIT.failure);
    assert.match(no.stderr, /for ever\? \(yes\/no\) vmferry: Not confirmed; nothing was changed/);
    assert.deepEqual(api.started, []);
    assert.equal((await command('instances delete counter', { api, terminal: true, stdin: 'yes\n' })).exit, 0);
    assert.equal((await command('instances delete counter --yes', { api, terminal: true })).exit, 0);
    assert.equal(api.started.length, 2);
  });

  it('shows one with what is under way, its packages and moves', async () => {
    const api = pool();
    api.rows.moves = [moveRow(MOVE, { instanceId: INSTANCE })];
    api.rows.packages = [packageRow('5d1f0000', { instanceId: INSTANCE })];
    api.running = new FakeRunning();
    const { stdout } = await command('instances show counter', { api });
    for (const text of [
      INSTANCE,
      '10.77.0.2',
      'migrate (move 01a20abf-1234)',
      '5d1f0000 on alpha beta',
      'transferPackage',
    ]) {
      assert.ok(stdout.includes(text), text);
    }
    const data = JSON.parse((await command('instances show counter --output json', { api })).stdout) as Record<
      string,
      unknown
    >;
    assert.equal(data['id'], INSTANCE);
    assert.deepEqual(data['underWay'], { type: 'migrate', moveId: MOVE });
  });
});

describe('moves', () => {
  function moving(values: Partial<FakeRunning> = {}): FakeApi {
    const api = pool();
    api.rows.moves = [moveRow(MOVE, { instanceId: INSTANCE })];
    api.running = Object.assign(new FakeRunning(), values);
    return api;
  }

  it('are found by id, by the beginning of one, and by their instance', async () => {
    for (const word of [MOVE, '01a20abf', 'counter', INSTANCE]) {
      const api = moving({ outcome: () => moved });
      const { exit, stdout } = await command(`moves watch ${word}`, { api });
      assert.equal(exit, 0);
      assert.equal(stdout, `Instance ${INSTANCE} migrated to beta\n`);
    }
  });

  it('are found before the catalog knows them', async () => {
    const api = moving({ outcome: () => moved });
    api.rows.moves = [];
    assert.equal((await command('moves watch counter', { api })).exit, 0);
    api.running = null;
    refused(await command('moves watch counter', { api }), EXIT.notFound, /No move is called counter/);
  });

  it('are decided by the operator', async () => {
    const running = new FakeRunning();
    const api = moving();
    api.running = running;
    assert.equal((await command('moves retry counter', { api })).stdout, 'Move 01a20abf-1234 tries again\n');
    assert.equal((await command('moves return counter', { api })).stdout, 'Move 01a20abf-1234 returns to its source\n');
    assert.equal((await command('moves readdress counter beta', { api })).stdout, 'Move 01a20abf-1234 goes to beta\n');
    assert.equal((await command('moves cancel counter', { api })).stdout, 'Move 01a20abf-1234 is asked to stop\n');
    assert.equal(
      (await command('moves abandon counter', { api })).stdout,
      'Move 01a20abf-1234 is given up; the instance is kept as a package\n',
    );
    refused(await command('moves readdress counter gamma', { api }), EXIT.notFound, /gamma/);
    assert.deepEqual(running.decisions, ['retry', 'return', 'readdress beta', 'cancel', 'abandon']);
  });

  it('refuse a decision that does not fit', async () => {
    const api = moving({ retry: () => Promise.reject(workflowFailure('NotParked', 'The move is not parked')) });
    refused(await command('moves retry counter', { api }), EXIT.conflict, /not parked/);
  });

  it('show their steps, and why they are parked', async () => {
    const parked = {
      failure: 'HostUnreachable',
      reason: 'beta is gone',
      since: NOW,
      choices: ['retry', 'return'],
      released: false,
    } as const;
    const shown = progress({
      phase: 'parked',
      parked: { ...parked, choices: [...parked.choices] },
      steps: [step('preflight', NOW, NOW + 400, 'both fit')],
    });
    const api = moving({ snapshots: [snapshot({ progress: shown })] });
    const { stdout } = await command('moves show counter', { api });
    for (const text of [
      'parked',
      'beta is gone',
      `vmferry moves retry ${MOVE.slice(0, 13)}`,
      'both fit',
      '0.40 s',
      'http://ui/namespaces/default/workflows/instance%3Ai-1/',
    ]) {
      assert.ok(stdout.includes(text), text);
    }
    const data = JSON.parse((await command('moves show counter --output json', { api })).stdout) as Record<
      string,
      unknown
    >;
    assert.deepEqual([data['moveId'], data['phase'], data['parked']], ['m-1', 'parked', parked]);
  });

  it('show for how long they wait for a host, and what can be done', async () => {
    const waiting = progress({ phase: 'waiting', waitingFor: 'alpha', waitingSince: NOW - 245_000 });
    const { stdout } = await command('moves show counter', {
      api: moving({ snapshots: [snapshot({ progress: waiting })] }),
    });
    assert.match(stdout, /Waiting for: +the worker of alpha\n/);
    assert.match(stdout, /Waiting since: +\S+ \S+ \(4 min 05 s\)\n/);
    assert.match(stdout, /Goes on: +by itself, when the worker of alpha is back\n/);
    assert.match(stdout, /Choices:\n {2}vmferry moves cancel 01a20abf-1234 {2}\(call it off; it runs on alpha then\)/);
  });

  it('show how old the reason is, and each choice with its command', async () => {
    const parked = { failure: 'NoSpace', reason: 'beta is full', since: NOW - 3_600_000 } as const;
    const shown = (values: Partial<Parked>): Promise<Outcome> =>
      command('moves show counter', {
        api: moving({
          snapshots: [
            snapshot({
              progress: progress({ phase: 'parked', parked: { ...parked, choices: [], released: false, ...values } }),
            }),
          ],
        }),
      });
    const before = (await shown({ choices: ['retry', 'return', 'readdress', 'abandon'] })).stdout;
    assert.match(before, /Parked since: +\S+ \S+ \(1 h 00 min\)\n/);
    assert.match(before, /Goes on: +by your decision only\n/);
    assert.match(
      before,
      new RegExp(
        [
          'Choices:',
          '  vmferry moves retry 01a20abf-1234  \\(try again at once\\)',
          '  vmferry moves return 01a20abf-1234  \\(run again on alpha\\)',
          '  vmferry moves readdress 01a20abf-1234 HOST  \\(go to another host\\)',
          '  vmferry moves abandon 01a20abf-1234  \\(stay down, saved on alpha\\)',
        ].join('\n'),
      ),
    );
    const after = (await shown({ choices: ['retry', 'readdress'], released: true })).stdout;
    assert.match(after, /Goes on: +by itself, once the cause is gone\n/);
    assert.match(after, /readdress 01a20abf-1234 HOST {2}\(go on on another host, by a fence that the pool key signs/);
  });

  it('show from the catalog what Temporal has forgotten', async () => {
    const api = pool();
    const ended = {
      outcome: 'moved',
      phase: null,
      owner: 'beta',
      endedAt: new Date(NOW),
      result: { stepSeconds: {}, blackoutSeconds: 6.5, packageBytes: 1, wireBytes: 1 },
    } as const;
    api.rows.moves = [moveRow(MOVE, { instanceId: INSTANCE, ...ended })];
    const { stdout, exit } = await command('moves show counter', { api });
    assert.equal(exit, 0);
    assert.match(stdout, /State: +moved/);
    assert.match(stdout, /Blackout: +6\.50 s/);
    assert.match((await command('moves list', { api })).stdout, /01a20abf-1234 +migrate +counter +alpha +beta +moved/);
  });
});

describe('packages', () => {
  it('are listed, shown, pulled, verified and deleted', async () => {
    const api = pool()
      .answers('pull', { id: '5d1f', destination: 'beta', bytes: 5 })
      .answers('verifyPackage', { packageId: '5d1f', bytes: 4e7, source: 'alpha' });
    api.rows.packages = [packageRow('5d1f')];
    assert.match((await command('packages list', { api })).stdout, /5d1f +counter +2 +40\.0 MB/);
    assert.match((await command('packages show 5d', { api })).stdout, /Needed: +no/);
    assert.equal((await command('packages pull 5d beta', { api })).stdout, 'Package 5d1f pulled to beta\n');
    assert.equal(
      (await command('packages verify 5d', { api })).stdout,
      'Package 5d1f on alpha is whole: 40.0 MB, sealed by alpha\n',
    );
    assert.equal((await command('packages verify 5d --host beta', { api })).exit, 0);
    assert.equal((await command('packages delete 5d', { api })).stdout, 'Package 5d1f deleted\n');
    assert.deepEqual(
      api.started.map(({ type, input }) => ({ type, ...input })),
      [
        { type: 'pull', kind: 'package', id: '5d1f', destination: 'beta' },
        { type: 'verifyPackage', packageId: '5d1f', host: 'alpha' },
        { type: 'verifyPackage', packageId: '5d1f', host: 'beta' },
        { type: 'deletePackage', packageId: '5d1f' },
      ],
    );
  });

  const SEEN = new Date(NOW);
  const damaged = packageRow('5d1f', {
    copies: [
      { host: 'alpha', verifiedAt: SEEN, damage: null },
      { host: 'beta', verifiedAt: SEEN, damage: { type: 'SegmentDamaged', message: 'segment 0 is missing' } },
    ],
  });

  it('are shown with when they were verified and what was found', async () => {
    const api = pool();
    api.rows.packages = [packageRow('aaaa')];
    assert.match((await command('packages list', { api })).stdout, /aaaa .* never\n/);
    assert.match((await command('packages show aaaa', { api })).stdout, /\nCopy: +beta, never verified\n/);
    api.rows.packages = [damaged];
    assert.match((await command('packages list', { api })).stdout, /5d1f .* 2026-11-2[45] \d\d:00:00 +beta\n/);
    const { stdout } = await command('packages show 5d', { api });
    assert.match(stdout, /Copy: +alpha, whole 2026-/);
    assert.match(stdout, /Copy: +beta, damaged, seen 2026-[^ ]+ [^ ]+: SegmentDamaged: segment 0 is missing/);
  });

  it('are scrubbed, with an exit code for damage and one for silence', async () => {
    const host = (name: string, silent: string | null = null): object => ({ host: name, verified: 1, silent });
    const api = pool().answers('scrub', { hosts: [host('alpha'), host('beta')] });
    const whole = await command('packages scrub', { api });
    assert.deepEqual([whole.exit, whole.stdout], [0, '2 packages verified on 2 hosts\nNo damage is known\n']);
    api.answers('scrub', { hosts: [host('alpha'), host('beta', 'its worker is absent')] });
    const silent = await command('packages scrub', { api });
    assert.equal(silent.exit, EXIT.unreachable);
    assert.match(silent.stdout, /^Not all on beta: its worker is absent$/m);
    api.rows.packages = [damaged];
    const found = await command('packages scrub', { api });
    assert.equal(found.exit, EXIT.damaged);
    assert.match(
      found.stdout,
      /^Package 5d1f of counter on beta, damaged, .*\n +Repair it: vmferry packages pull 5d1f beta$/m,
    );
    const json = JSON.parse((await command('packages scrub --output json', { api })).stdout) as { damaged: object[] };
    assert.equal(json.damaged.length, 1);
  });

  it('are scrubbed as often as is said', async () => {
    const api = pool();
    assert.equal((await command('packages scrub --every 12h', { api })).stdout, 'Packages are scrubbed every 12h\n');
    assert.equal(api.scrubSchedule?.every, 43_200);
    assert.equal(
      (await command('packages scrub --every off', { api })).stdout,
      'Packages are scrubbed only when asked\n',
    );
    assert.equal(api.scrubSchedule.off, true);
    for (const word of ['0h', '12', 'daily', '-1d']) {
      refused(
        await command(['packages', 'scrub', `--every=${word}`], { api }),
        EXIT.usage,
        /--every takes a time such as/,
      );
    }
  });

  it('are verified only where they are', async () => {
    const api = pool();
    api.rows.packages = [packageRow('5d1f', { hosts: ['alpha'] })];
    refused(await command('packages verify 5d --host beta', { api }), EXIT.notFound, /5d1f is not on beta/);
  });
});

describe('list and delete-all', () => {
  it('lists instances and images together', async () => {
    const { stdout } = await command('list', { api: pool() });
    assert.match(stdout, /^Instances:\n[\s\S]*counter[\s\S]*\n\nImages:\n[\s\S]*debian/);
    const data = JSON.parse((await command('list --output json', { api: pool() })).stdout) as Record<string, unknown[]>;
    assert.deepEqual([data['instances']?.length, data['images']?.length], [1, 1]);
  });

  it('lists the moves that wait, and why', async () => {
    const api = pool();
    const failure = { type: 'HostUnreachable', message: 'The worker of host beta is absent' } as const;
    api.rows.moves = [
      moveRow('01a20abf-aaaa', { phase: 'parked', failure }),
      moveRow('01a20abf-bbbb', { phase: 'blackout' }),
      moveRow('01a20abf-cccc', { phase: null, outcome: 'moved' }),
    ];
    const { stdout } = await command('list', { api });
    assert.match(
      stdout,
      /\n\nMoves:\n[\s\S]*01a20abf-aaaa +counter +alpha +beta +parked +\S+ \S+ +The worker of host beta is absent\n$/,
    );
    const data = JSON.parse((await command('list --output json', { api })).stdout) as Record<string, unknown[]>;
    assert.equal(data['moves']?.length, 1);
  });

  it('asks, naming what it would delete', async () => {
    const api = pool();
    const no = await command('delete-all', { api, stdin: 'perhaps\nno\n' });
    assert.equal(no.exit, EXIT.failure);
    assert.match(no.stderr, /counter \(7c9e/);
    assert.match(no.stderr, /Type yes or no/);
    const silent = await command('delete-all', { api });
    assert.equal(silent.exit, EXIT.failure);
    assert.deepEqual(api.started, []);
  });

  it('deletes instances before the images that they use', async () => {
    const api = pool();
    const { exit, stdout } = await command('delete-all', { api, stdin: 'yes\n' });
    assert.equal(exit, 0);
    assert.equal(stdout, 'Deleted 1 instances and 1 images\n');
    assert.deepEqual(
      api.started.map(({ type }) => type),
      ['deleteInstance', 'deleteImage'],
    );
  });

  it('goes on past what cannot go, and says so', async () => {
    const api = pool().fails('deleteInstance', workflowFailure('InstanceBusy', 'counter is moving'));
    const { exit, stdout, stderr } = await command('delete-all --yes', { api });
    assert.equal(exit, EXIT.conflict);
    assert.match(stderr, /counter: counter is moving/);
    assert.equal(stdout, 'Deleted 0 instances and 1 images; 1 left: counter\n');
  });

  it('deletes one kind when told so', async () => {
    const api = pool();
    await command('delete-all images --yes', { api });
    assert.deepEqual(
      api.started.map(({ type }) => type),
      ['deleteImage'],
    );
  });
});

describe('instances start', () => {
  it('says from what the instance came to run', async () => {
    const result = { instanceId: 'i-1', host: 'beta', generation: 3 };
    for (const [how, said] of [
      ['ran already', /Instance i-1 runs already on beta/],
      ['resumed', /goes on where it was paused/],
      ['restored', /goes on from its saved RAM/],
      ['booted', /boots from its disk/],
    ] as const) {
      const api = new FakeApi().answers('start', { ...result, how });
      api.rows.instances = [instanceRow('i-1', { name: 'web' })];
      const { exit, stdout } = await command('instances start web', { api });
      assert.equal(exit, 0);
      assert.match(stdout, said);
      assert.deepEqual(api.started, [
        { type: 'start', input: { instanceId: 'i-1' }, story: { instanceName: 'web', source: 'alpha' } },
      ]);
    }
  });
});

describe('nodes, pool and doctor', () => {
  let folder = '';
  let poolFingerprint = '';
  let record: HostRecord;

  before(async () => {
    folder = await mkdtemp(join(tmpdir(), 'vmferry-nodes-'));
    poolFingerprint = (await createPoolKey(join(folder, 'pool'))).fingerprint;
    const { publicKey } = await generateKey({
      type: 'curve25519',
      userIDs: [{ name: 'beta' }],
      format: 'object',
      config: PROFILE,
    });
    record = {
      version: 1,
      name: 'beta',
      fingerprint: publicKey.getFingerprint().toUpperCase(),
      publicKey: publicKey.armor(),
      tlsCertificate: '-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n',
      addresses: ['10.0.0.2:7443'],
      location: 'lab',
      architecture: 'x86_64',
    };
  });
  after(() => rm(folder, { recursive: true }));

  function asked(values: Partial<HostDescription> = {}): FakeApi {
    const api = pool();
    api.rows.hosts = [hostRow('alpha')];
    api.profile = { ...api.profile, pool: join(folder, 'pool') };
    const description = {
      record,
      poolFingerprint,
      vmferryVersion: '0.1.0',
      libvirtVersion: '9.0.0',
      qemuVersion: '7.2.22',
      domainTypes: ['qemu'],
    };
    return api
      .answers('describeNode', { ...description, ...values })
      .answers('addNode', { id: 'beta', fingerprint: record.fingerprint });
  }
  const types = (api: FakeApi): string[] => api.started.map(({ type }) => type);

  it('adds a host once its fingerprint was confirmed, and signs its record here', async () => {
    const api = asked();
    const { exit, stdout, stderr } = await command('nodes add beta', { api, stdin: 'yes\n' });
    assert.equal(exit, 0, stderr);
    assert.equal(stdout, 'Node beta added\n');
    assert.ok(stderr.includes(record.fingerprint.match(/.{4}/g)?.slice(0, 8).join(' ') ?? '-'));
    assert.match(
      stderr,
      /10\.0\.0\.2:7443[\s\S]*lab[\s\S]*Is this the fingerprint that the host printed\? \(yes\/no\)/,
    );
    const input = api.started[1]?.input as { host: string; record: string };
    assert.equal(input.host, 'beta');
    assert.match(input.record, /^-----BEGIN PGP MESSAGE-----/);
    const secret = await readFile(join(folder, 'pool', 'pool.key'), 'utf8');
    assert.ok(!JSON.stringify(api.started).includes(secret.split('\n')[3] ?? '-'));
  });

  it('changes nothing when the answer is no', async () => {
    const api = asked();
    assert.equal((await command('nodes add beta', { api, stdin: 'no\n' })).exit, EXIT.failure);
    assert.deepEqual(types(api), ['describeNode']);
  });

  it('takes a fingerprint for scripts, whatever its blanks and case', async () => {
    const api = asked();
    const spaced = (record.fingerprint.match(/.{4}/g) ?? []).join(' ').toLowerCase();
    assert.equal((await command(['hosts', 'add', 'beta', '--fingerprint', spaced], { api })).exit, 0);
    const wrong = asked();
    const other = `${record.fingerprint.slice(0, -1)}${record.fingerprint.endsWith('0') ? '1' : '0'}`;
    refused(
      await command(['nodes', 'add', 'beta', '--fingerprint', other], { api: wrong }),
      EXIT.untrusted,
      /not the one given; nothing was changed/,
    );
    refused(
      await command(['nodes', 'add', 'beta', '--fingerprint', record.fingerprint.slice(0, 16)], { api: wrong }),
      EXIT.untrusted,
      /not the one given/,
    );
    assert.deepEqual(types(wrong), ['describeNode', 'describeNode']);
  });

  it('refuses a host that obeys no or another pool key', async () => {
    const none = asked({ poolFingerprint: null });
    refused(await command('nodes add beta --yes', { api: none }), EXIT.untrusted, /obeys no pool key yet/);
    const other = asked({ poolFingerprint: 'AB'.repeat(32) });
    refused(await command('nodes add beta --yes', { api: other }), EXIT.untrusted, /obeys another pool key \(ABAB/);
    assert.deepEqual([...types(none), ...types(other)], ['describeNode', 'describeNode']);
  });

  it('refuses a record that is not what it says', async () => {
    const key = asked({ record: { ...record, fingerprint: 'AB'.repeat(32) } });
    refused(await command('nodes add beta --yes', { api: key }), EXIT.untrusted, /beta/);
    const name = asked({ record: { ...record, name: 'gamma' } });
    refused(await command('nodes add beta --yes', { api: name }), EXIT.untrusted, /calls itself gamma/);
    assert.deepEqual([...types(key), ...types(name)], ['describeNode', 'describeNode']);
  });

  it('does not replace a known host’s key without comparing', async () => {
    const api = asked();
    api.rows.hosts = [hostRow('beta')];
    refused(await command('nodes add beta --yes', { api }), EXIT.untrusted, /with another fingerprint/);
    const asking = await command('nodes add beta', { api, stdin: 'no\n' });
    assert.match(asking.stderr, /ANOTHER fingerprint/);
  });

  it('says that nobody works for a host', async () => {
    const api = asked();
    api.pollersOf['beta'] = [];
    refused(await command('nodes add beta', { api }), EXIT.unreachable, /No worker of a host "beta"/);
    assert.deepEqual(types(api), []);
  });

  it('needs the pool key', async () => {
    const api = asked();
    api.profile = { ...api.profile, pool: null };
    refused(await command('nodes add beta', { api }), EXIT.untrusted, /names no folder/);
    api.profile = { ...api.profile, pool: join(folder, 'empty') };
    refused(await command('nodes add beta', { api }), EXIT.untrusted, /There is no pool key in/);
  });

  it('lists the hosts under both names', async () => {
    const { stdout } = await command('nodes list', { api: pool() });
    assert.match(stdout, /^NAME[\s\S]*alpha[\s\S]*beta/);
    assert.equal((await command('hosts list', { api: pool() })).stdout, stdout);
  });

  it('makes a pool key once and shows it', async () => {
    const profile = join(folder, 'profile.toml');
    const { writeFile } = await import('node:fs/promises');
    await writeFile(profile, '[profile.default]\naddress = "127.0.0.1:1"\n[vmferry]\npool = "made"\n');
    const made = await command(`pool init --profile ${profile}`);
    assert.equal(made.exit, 0, made.stderr);
    assert.match(made.stdout, /Pool key created in .*made\n/);
    refused(await command(`pool init --profile ${profile}`), EXIT.conflict, /There is a pool key in .* already/);
    const shown = JSON.parse((await command(`pool show --profile ${profile} --output json`)).stdout) as {
      fingerprint: string;
    };
    assert.ok(made.stdout.replaceAll(/\s/g, '').includes(shown.fingerprint));
  });

  async function healthy(): Promise<FakeApi> {
    const api = asked().answers('inspect', { findings: [] });
    const { loadPoolKey } = await import('../../activities/trust/pool-key.ts');
    const key = await loadPoolKey(join(folder, 'pool'));
    const certified = await key?.certifyHost(record);
    api.rows.hosts = [hostRow('beta', { fingerprint: record.fingerprint, record: certified ?? '' })];
    return api;
  }
  const examined = async (api: FakeApi): Promise<{ exit: number; bad: Record<string, string>; hints: string[] }> => {
    const { exit, stdout } = await command('doctor --output json', { api });
    const { checks } = JSON.parse(stdout) as { checks: { subject: string; status: string; detail: string }[] };
    const bad = Object.fromEntries(
      checks.filter(({ status }) => status === 'failed').map(({ subject, detail }) => [subject, detail]),
    );
    return { exit, bad, hints: checks.filter(({ status }) => status === 'hint').map(({ subject }) => subject) };
  };

  it('the doctor finds a healthy pool healthy', async () => {
    const { exit, stdout } = await command('doctor', { api: await healthy() });
    assert.equal(exit, 0, stdout);
    for (const subject of [
      'profile',
      'pool key',
      'temporal',
      'search attributes',
      'control worker',
      'catalog',
      'host beta',
      'scrub',
      'records',
    ]) {
      assert.match(stdout, new RegExp(`^ok +${subject} `, 'm'));
    }
  });

  it('the doctor names each thing that is wrong, with an exit code', async () => {
    const attributes = await healthy();
    attributes.searchAttributes = ['VmferryInstance'];
    assert.match(
      (await examined(attributes)).bad['search attributes'] ?? '',
      /lacks VmferrySource, VmferryDestination, VmferryPhase/,
    );

    const nobody = await healthy();
    nobody.pollersOf = { control: [{ identity: 'old', lastSeen: Date.now() - 600_000 }] };
    assert.deepEqual(Object.keys((await examined(nobody)).bad), ['control worker']);

    const absent = await healthy();
    absent.pollersOf = { beta: [] };
    const seen = await examined(absent);
    assert.deepEqual([seen.exit, Object.keys(seen.bad)], [EXIT.unreachable, ['host beta']]);

    const schema = await healthy();
    schema.migrations = [];
    assert.match((await examined(schema)).bad['catalog'] ?? '', /lacks the migrations 0001_catalog, 0002_scrub/);
    schema.migrations = ['0001_catalog', '0002_scrub', '9999_future'];
    assert.match((await examined(schema)).bad['catalog'] ?? '', /does not know: 9999_future/);

    const mismatch = await healthy();
    mismatch.answers('describeNode', { record, poolFingerprint: null });
    assert.match((await examined(mismatch)).bad['host beta'] ?? '', /obeys no pool key/);

    const forged = await healthy();
    forged.rows.hosts = [hostRow('beta', { fingerprint: record.fingerprint, record: 'nonsense' })];
    assert.match((await examined(forged)).bad['host beta'] ?? '', /not signed by this pool key/);

    const down = await healthy();
    down.temporal = () => Promise.reject(new VmferryError('ServerUnreachable', 'Temporal at x does not answer'));
    assert.deepEqual(Object.keys((await examined(down)).bad), ['temporal']);
  });

  it('the doctor hints at a scrub that is off or not scheduled', async () => {
    const api = await healthy();
    api.scrubSchedule = { every: 86_400, off: true, last: null, next: null };
    assert.deepEqual((await examined(api)).hints, ['scrub']);
    api.scrubSchedule = null;
    assert.deepEqual((await examined(api)).hints, ['scrub']);
  });

  it('the doctor hints at a role that may write and at the limit of long polls', async () => {
    const api = await healthy();
    api.mayWrite = true;
    assert.deepEqual((await examined(api)).hints, ['catalog role']);
    const many = await healthy();
    many.rows.hosts = Array.from({ length: 400 }, (_, index) => hostRow(`h${index}`));
    many.pollersOf = Object.fromEntries(many.rows.hosts.map(({ id }) => [id, []]));
    assert.deepEqual((await examined(many)).hints, ['poll limit']);
  });

  it('the doctor tells what differs between hosts and catalog, the worst first, and exits by it', async () => {
    const { finding } = await import('../../workflows/findings.ts');
    const about = { host: 'beta', instanceId: 'i-1', subject: 'instance web (i-1)', expected: 'something else' };
    const api = await healthy();
    const findings = [
      finding('moveFolderLeft', { ...about, subject: 'folder moves/m-1', path: 'moves/m-1', found: '1000 bytes' }),
      finding('down', { ...about, found: 'it is shut off' }),
      finding('runsWithoutRight', { ...about, found: 'it runs on beta, which released it' }),
    ];
    api.answers('inspect', { findings });
    const { exit, stdout } = await command('doctor', { api });
    assert.equal(exit, EXIT.untrusted);
    const told = stdout.split('\n').filter((line) => /^(failed|hint) /.test(line));
    assert.deepEqual(
      told.map((line) => line.replaceAll(/ {2,}/g, ' ')),
      ['failed instance web (i-1) on beta', 'failed instance web (i-1) on beta', 'hint folder moves/m-1 on beta'],
    );
    assert.match(stdout, /it is shut off; expected: something else\n +`vmferry instances start i-1` runs it again\./);
    assert.deepEqual(api.started.at(-1), { type: 'inspect', input: { mend: false, absent: [] }, story: undefined });

    const json = JSON.parse((await command('doctor --output json', { api })).stdout) as { findings: object[] };
    assert.deepEqual(json.findings, findings);
    const events = lines((await command('doctor --output jsonl', { api })).stdout);
    assert.equal(events.filter(({ type }) => type === 'finding').length, 3);
  });

  it('the doctor mends when it is asked to, and says what it could not', async () => {
    const { finding } = await import('../../workflows/findings.ts');
    const about = { host: 'beta', instanceId: 'i-1', subject: 'instance web (i-1)', expected: 'something else' };
    const api = await healthy();
    const findings = [
      { ...finding('catalogBehind', { ...about, found: 'the catalog says alpha' }), mended: true },
      { ...finding('runsWithoutRight', { ...about, found: 'it runs on beta' }), mended: true },
      {
        ...finding('strayAddress', { ...about, found: 'its address' }),
        mended: false,
        mendFailure: 'libvirtd is down',
      },
    ];
    api.answers('inspect', { findings });
    const { exit, stdout } = await command('doctor --mend', { api });
    assert.deepEqual(api.started.at(-1)?.input, { mend: true, absent: [] });
    assert.match(stdout, /^mended +instance web \(i-1\) on beta\n +the catalog says alpha/m);
    assert.match(stdout, /It could not be mended: libvirtd is down\. /);
    // Somebody started it: a person has to know, though it stands still now.
    assert.match(stdout, /^failed +instance web[^\n]*\n[^\n]*it runs on beta[^\n]*\n +It is suspended now\./m);
    assert.equal(exit, EXIT.untrusted);
  });

  it('the doctor does not wait for hosts that it has found absent, and tells of them once', async () => {
    const { finding } = await import('../../workflows/findings.ts');
    const api = await healthy();
    api.pollersOf = { beta: [] };
    const expected = 'an answer';
    const silent = finding('hostSilent', { host: 'beta', subject: 'host beta', found: 'no answer', expected });
    api.answers('inspect', { findings: [silent] });
    const { exit, bad } = await examined(api);
    assert.deepEqual(api.started.at(-1)?.input, { mend: false, absent: ['beta'] });
    assert.deepEqual([exit, Object.keys(bad)], [EXIT.unreachable, ['host beta']]);
  });

  it('the doctor reports a broken profile as a check', async () => {
    const { exit, stdout } = await command('doctor --profile /nowhere');
    assert.equal(exit, EXIT.usage);
    assert.match(stdout, /^failed +profile +There is no profile \/nowhere/);
  });
});
