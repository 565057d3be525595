/** The libvirt binding, against libvirt's own test driver, which lives in this process and needs no daemon. */
import assert from 'node:assert/strict';
import { execFile, execFileSync } from 'node:child_process';
import { lookup } from 'node:dns/promises';
import { once } from 'node:events';
import { mkdtemp, open, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { Worker } from 'node:worker_threads';
import * as libvirt from 'libvirt';
import { Connection, ErrorCode, ErrorDomain, LibvirtError, SharedConnection, isLibvirtError } from 'libvirt';
import type { Lifecycle } from 'libvirt';

const DEFAULT = 'test:///default';
const UNKNOWN = '00000000-0000-4000-8000-000000000000';
const NODE = `<node><domain type='test'>
  <name>one</name><uuid>6695eb01-f6a4-8304-79aa-97f2502e1930</uuid><memory>8388608</memory><os><type>hvm</type></os>
</domain></node>`;
const ONE = '6695eb01-f6a4-8304-79aa-97f2502e1930';

let directory: string;
before(async () => {
  directory = await mkdtemp(join(tmpdir(), 'vmferry-binding-'));
  await writeFile(join(directory, 'node.xml'), NODE);
});
after(() => rm(directory, { recursive: true, force: true }));

/** Of the test driver too, a save opens its file: into a pipe that nobody reads, it blocks for as long as a test likes. */
async function blockingPath(name: string): Promise<{ path: string; unblock: () => Promise<void> }> {
  const path = join(directory, name);
  await promisify(execFile)('mkfifo', [path]);
  const unblock = async (): Promise<void> => {
    const reader = await open(path, 'r');
    await reader.readFile();
    await reader.close();
  };
  return { path, unblock };
}

async function milliseconds(run: () => Promise<unknown>): Promise<number> {
  const begun = performance.now();
  await run();
  return performance.now() - begun;
}

describe('The libvirt binding on the test driver', () => {
  let connection: Connection;
  let uuid: string;
  before(async () => {
    connection = await Connection.open(DEFAULT);
    uuid = (await connection.domainByName('test')).uuid;
  });
  after(() => connection.close());

  test('lists, finds and describes domains and the host', async () => {
    assert.deepEqual(await connection.domains(), [{ uuid, name: 'test' }]);
    assert.deepEqual(await connection.domains(libvirt.ListDomains.INACTIVE), []);
    assert.deepEqual(await connection.domainByUUID(uuid), { uuid, name: 'test' });
    assert.equal((await connection.domainState(uuid)).state, libvirt.DomainState.RUNNING);
    assert.equal((await connection.domainInfo(uuid)).vcpus, 2);
    assert.equal(await connection.domainIsActive(uuid), true);
    assert.equal(await connection.domainIsPersistent(uuid), true);
    assert.match(await connection.domainXML(uuid), /<uuid>/);
    assert.match(await connection.capabilities(), /<capabilities>/);
    assert.equal(await connection.isAlive(), true);
    assert.equal(await connection.uri(), DEFAULT);
    assert.ok((await connection.libVersion()) >= 9_000_000);
    assert.equal((await connection.nodeInfo()).cpus, 16);
    assert.ok((await connection.nodeFreeMemory()) > 0);
  });

  test('defines, starts, saves, restores, destroys and undefines a domain', async () => {
    const xml = NODE.slice('<node>'.length, -'</node>'.length).replaceAll('one', 'two').replaceAll(ONE, UNKNOWN);
    assert.deepEqual(await connection.domainDefine(xml), { uuid: UNKNOWN, name: 'two' });
    await connection.domainSetAutostart(UNKNOWN, true);
    assert.equal(await connection.domainAutostart(UNKNOWN), true);
    await connection.domainSetAutostart(UNKNOWN, false);
    await connection.domainCreate(UNKNOWN);
    const file = join(directory, 'two.save');
    await connection.domainSave(UNKNOWN, file);
    assert.equal(await connection.domainIsActive(UNKNOWN), false);
    await connection.domainRestore(file);
    assert.equal(await connection.domainIsActive(UNKNOWN), true);
    await connection.domainDestroy(UNKNOWN);
    await connection.domainUndefine(UNKNOWN);
    await assert.rejects(connection.domainState(UNKNOWN), (error) => isLibvirtError(error, ErrorCode.NO_DOMAIN));
  });

  test('keeps metadata under a namespace, and says so when there is none', async () => {
    const { ELEMENT } = libvirt.DomainMetadataType;
    const space = 'https://vmferry.example/1';
    await assert.rejects(connection.domainMetadata(uuid, ELEMENT, space), (error) =>
      isLibvirtError(error, ErrorCode.NO_DOMAIN_METADATA),
    );
    await connection.domainSetMetadata(uuid, ELEMENT, "<move id='ä&amp;1'/>", 'vmferry', space);
    assert.match(await connection.domainMetadata(uuid, ELEMENT, space), /id="(ä|&#xE4;)&amp;1"/);
    await connection.domainSetMetadata(uuid, ELEMENT, null, null, space);
  });

  test('handles networks', async () => {
    const [network] = await connection.networks();
    assert.ok(network);
    assert.deepEqual(await connection.networkByName(network.name), network);
    assert.equal(await connection.networkIsActive(network.uuid), true);
    assert.match(await connection.networkXML(network.uuid), /<network/);
    await connection.networkDestroy(network.uuid);
    await connection.networkCreate(network.uuid);
    await connection.networkSetAutostart(network.uuid, true);
    assert.equal(await connection.networkAutostart(network.uuid), true);
    await assert.rejects(connection.networkByName('none'), (error) => isLibvirtError(error, ErrorCode.NO_NETWORK));
  });

  test('rejects with libvirt’s code, domain, level and message, and names the call', async () => {
    const error = await connection.domainByName('none').catch((thrown: unknown) => thrown);
    assert.ok(error instanceof LibvirtError);
    assert.ok(error instanceof Error);
    const { name, call, code, domain, level, message } = error;
    assert.deepEqual(
      { name, call, code, domain, level, message },
      {
        name: 'LibvirtError',
        call: 'domainByName',
        code: ErrorCode.NO_DOMAIN,
        domain: ErrorDomain.TEST,
        level: 2,
        message: 'Domain not found',
      },
    );
    assert.equal(error.connectionLost, false);
    assert.match(error.stack ?? '', /libvirt-binding\.test\.ts/);
  });

  test('keeps the errors of calls that run at once apart from their results', async () => {
    const calls = Array.from({ length: 1000 }, (_, i) =>
      i % 2 ? connection.domainState(uuid) : connection.domainState(UNKNOWN),
    );
    const settled = await Promise.allSettled(calls);
    for (const [i, result] of settled.entries()) {
      if (i % 2) assert.equal(result.status, 'fulfilled');
      else assert.ok(result.status === 'rejected' && isLibvirtError(result.reason, ErrorCode.NO_DOMAIN));
    }
  });

  test('refuses arguments of the wrong kind before libvirt sees them', async () => {
    const wrong = [
      () => connection.domainState(1 as unknown as string),
      () => connection.domainXML(uuid, 1.5),
      () => connection.domainXML(uuid, -1),
      () => connection.domains(2 ** 32),
      () => connection.domainByName('a\0b'),
      () => connection.domainSaveParams(uuid, { file: null as unknown as string }),
      () => Connection.open(7 as unknown as string),
    ];
    for (const call of wrong) await assert.rejects(call, TypeError);
  });

  test('says that a closed connection is closed, and closes twice without harm', async () => {
    const closed = await Connection.open(DEFAULT);
    await closed.close();
    await closed.close();
    await assert.rejects(closed.hostname(), (error) => isLibvirtError(error) && error.connectionLost);
  });

  test('delivers lifecycle events in order, and none after close', async () => {
    const seen: Lifecycle[] = [];
    const watching = await Connection.open(DEFAULT, { onLifecycle: (event) => seen.push(event) });
    await connection.domainSuspend(uuid);
    await connection.domainResume(uuid);
    await until(() => seen.length === 2);
    assert.deepEqual(
      seen.map(({ name, event }) => ({ name, event })),
      [
        { name: 'test', event: libvirt.LifecycleEvent.SUSPENDED },
        { name: 'test', event: libvirt.LifecycleEvent.RESUMED },
      ],
    );
    await watching.close();
    await connection.domainSuspend(uuid);
    await connection.domainResume(uuid);
    await sleep(50);
    assert.equal(seen.length, 2);
  });

  test('leaves files and name look-ups alone while eight calls block', async () => {
    const uri = `test://${join(directory, 'node.xml')}`;
    const blocked = await Promise.all(
      Array.from({ length: 8 }, async (_, i) => {
        const own = await Connection.open(uri);
        const pipe = await blockingPath(`blocked-${i}`);
        return { own, pipe, saved: own.domainSave(ONE, pipe.path) };
      }),
    );
    await sleep(100);
    assert.ok((await milliseconds(() => readFile(join(directory, 'node.xml')))) < 1000);
    assert.ok((await milliseconds(() => lookup('localhost'))) < 1000);
    assert.ok((await milliseconds(() => connection.domains())) < 1000);
    for (const { own, pipe, saved } of blocked) {
      await pipe.unblock();
      await saved;
      await own.close();
    }
  });

  test('lets a connection be closed while it is at work: the call still ends', async () => {
    const own = await Connection.open(`test://${join(directory, 'node.xml')}`);
    const pipe = await blockingPath('closed');
    const saved = own.domainSave(ONE, pipe.path);
    await sleep(50);
    await own.close();
    await pipe.unblock();
    await saved;
  });

  test('survives worker threads that end while a call is under way', async () => {
    for (let i = 0; i < 5; i++) {
      const pipe = await blockingPath(`worker-${i}`);
      const worker = new Worker(
        `import { Connection } from ${JSON.stringify(import.meta.resolve('libvirt'))};
         import { parentPort } from 'node:worker_threads';
         const connection = await Connection.open('test://${join(directory, 'node.xml')}', { onLifecycle() {} });
         connection.domainSave('${ONE}', '${pipe.path}');
         setTimeout(() => parentPort.postMessage('saving'), 50);`,
        { eval: true, execArgv: ['--input-type=module'] },
      );
      await once(worker, 'message');
      await worker.terminate();
      await pipe.unblock();
    }
    await sleep(200);
    assert.equal((await connection.domains()).length, 1);
  });

  test('survives worker threads that end while results and events come in', async () => {
    for (let i = 0; i < 10; i++) {
      const worker = new Worker(
        `import { Connection } from ${JSON.stringify(import.meta.resolve('libvirt'))};
         import { parentPort } from 'node:worker_threads';
         const connection = await Connection.open('${DEFAULT}', { onLifecycle() {} });
         parentPort.postMessage('busy');
         for (;;) await Promise.all(Array.from({ length: 50 }, () => connection.domains()));`,
        { eval: true, execArgv: ['--input-type=module'] },
      );
      await once(worker, 'message');
      await connection.domainSuspend(uuid);
      await connection.domainResume(uuid);
      await worker.terminate();
    }
    assert.equal((await connection.domains()).length, 1);
  });

  test('lets the process end when only a listener is left, and not while a call is under way', async () => {
    const pipe = await blockingPath('exit');
    const program = (more: string): string =>
      `import { Connection } from ${JSON.stringify(import.meta.resolve('libvirt'))};
       const connection = await Connection.open('test://${join(directory, 'node.xml')}', { onLifecycle() {} });
       ${more}`;
    const node = (more: string): Promise<{ stdout: string }> =>
      promisify(execFile)(process.execPath, ['--input-type=module', '--eval', program(more)], { timeout: 20_000 });
    await node('');
    const waiting = node(`await connection.domainSave('${ONE}', '${pipe.path}'); console.log('saved');`);
    await sleep(500);
    await pipe.unblock();
    assert.equal((await waiting).stdout, 'saved\n');
  });

  test('does not swallow what a handler throws', async () => {
    const program = `import { Connection } from ${JSON.stringify(import.meta.resolve('libvirt'))};
      const connection = await Connection.open('${DEFAULT}', { onLifecycle() { throw new Error('from the handler'); } });
      await connection.domainSuspend('${uuid}');
      setTimeout(() => {}, 10_000);`;
    await assert.rejects(
      promisify(execFile)(process.execPath, ['--input-type=module', '--eval', program], { timeout: 20_000 }),
      /Error: from the handler/,
    );
  });

  test('opens a shared connection when it is first used, and again after close', async () => {
    const shared = new SharedConnection(DEFAULT);
    const names = await Promise.all([shared.use((c) => c.domains()), shared.use((c) => c.networks())]);
    assert.deepEqual(
      names.map((list) => list.length),
      [1, 1],
    );
    await shared.close();
    assert.equal((await shared.use((c) => c.domains())).length, 1);
    await shared.close();
  });

  test('does not hold on to a shared connection that could not be opened', async () => {
    const shared = new SharedConnection(`qemu+unix:///system?socket=${join(directory, 'no-such-socket')}`);
    for (let attempt = 0; attempt < 2; attempt++) {
      await assert.rejects(
        shared.use((c) => c.domains()),
        (error) => isLibvirtError(error, ErrorCode.SYSTEM_ERROR) && error.connectionLost && error.call === 'open',
      );
    }
  });

  test('runs 10,000 calls without growing', async () => {
    const many = async (): Promise<void> => {
      for (let i = 0; i < 5; i++) {
        await Promise.all(Array.from({ length: 1000 }, () => connection.domainXML(uuid)));
      }
    };
    await many();
    const before = process.memoryUsage.rss();
    await many();
    assert.ok(process.memoryUsage.rss() - before < 50e6);
  });
});

test('Every constant has the value that the headers of this machine give it', async () => {
  const source = await readFile(new URL('../../infra/libvirt/constants.ts', import.meta.url), 'utf8');
  const prefixes = source.matchAll(/\/\*\* (VIR_[A-Z_]+_)\*[^]*?export const (\w+)/g);
  const names: string[] = [];
  const ours: number[] = [];
  for (const [, prefix, object] of prefixes) {
    for (const [name, value] of Object.entries(libvirt[object as keyof typeof libvirt] as object)) {
      names.push(`${prefix}${name}`);
      ours.push(value as number);
    }
  }
  assert.ok(names.length > 150);
  const headers = ['libvirt/libvirt.h', 'libvirt/libvirt-qemu.h', 'libvirt/virterror.h'];
  const theirs = values(headers, names);
  assert.deepEqual(
    Object.fromEntries(names.map((name, i) => [name, ours[i]])),
    Object.fromEntries(names.map((name, i) => [name, theirs[i]])),
  );
});

/** A static assertion cannot print, so a small program does. */
function values(headers: string[], names: string[]): number[] {
  const program = `#include <cstdio>\n${headers.map((name) => `#include <${name}>\n`).join('')}
    int main() { ${names.map((name) => `std::printf("%d\\n", int(${name}));`).join('\n')} }`;
  const binary = join(directory, 'values');
  execFileSync('g++', ['-x', 'c++', '-', '-o', binary], { input: program });
  return execFileSync(binary, { encoding: 'utf8' }).trim().split('\n').map(Number);
}

async function until(condition: () => boolean): Promise<void> {
  for (let attempt = 0; !condition(); attempt++) {
    assert.ok(attempt < 200, 'waited 10 s in vain');
    await sleep(50);
  }
}
