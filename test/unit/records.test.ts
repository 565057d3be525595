import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { z } from 'zod';
import {
  createOnce,
  createRecord,
  exists,
  isOrphan,
  makeDirectory,
  readJson,
  temporaryName,
  writeDurable,
  writeRecord,
} from '../../activities/records/durable.ts';
import { Layout } from '../../activities/records/layout.ts';
import { withImageLock, withInstanceLock, withPackageLock } from '../../activities/records/lock.ts';
import { VmferryError } from '../../workflows/failures.ts';

let folder: string;
before(async () => {
  folder = await mkdtemp(join(tmpdir(), 'vmferry-records-'));
});
after(() => rm(folder, { recursive: true }));

const isType = (type: string) => (error: unknown) => error instanceof VmferryError && error.type === type;

describe('durable files', () => {
  test('a write replaces the file and leaves nothing beside it', async () => {
    const path = join(folder, 'a', 'b', 'record');
    await makeDirectory(join(folder, 'a', 'b'));
    await writeDurable(path, 'one', { mode: 0o600 });
    await writeDurable(path, 'two', { mode: 0o600 });
    assert.equal(await readFile(path, 'utf8'), 'two');
    assert.equal((await stat(path)).mode & 0o777, 0o600);
    assert.deepEqual(await readdir(join(folder, 'a', 'b')), ['record']);
  });

  test('of many that create the same file exactly one is told so, and its content stays', async () => {
    const path = join(folder, 'decision');
    const answers = await Promise.all(
      Array.from({ length: 20 }, async (_, n) => ({ n, answer: await createOnce(path, `by ${n}`) })),
    );
    const winners = answers.filter(({ answer }) => answer === 'created');
    assert.equal(winners.length, 1);
    assert.equal(await readFile(path, 'utf8'), `by ${winners[0]!.n}`);
    assert.deepEqual(
      (await readdir(folder)).filter((name) => name.startsWith('.tmp-')),
      [],
    );
  });

  test('a record is read by its schema, is null when absent and refused when it does not fit', async () => {
    const schema = z.strictObject({ n: z.int() });
    const path = join(folder, 'number.json');
    assert.equal(await readJson(path, schema), null);
    assert.equal(await exists(path), false);
    await writeDurable(path, '{"n":3}');
    assert.deepEqual(await readJson(path, schema), { n: 3 });
    assert.equal(await exists(path), true);
    await writeFile(path, '{"n":3,"m":4}');
    await assert.rejects(readJson(path, schema), isType('Internal'));
    await writeFile(path, '{"n":');
    await assert.rejects(readJson(path, schema), isType('Internal'));
  });

  test('a record begins with a sentence for people, which no reader is given; one without it is read too', async () => {
    const schema = z.strictObject({ n: z.int() });
    const path = join(folder, 'told.json');
    assert.equal(await createRecord(path, 'alpha counted to 3', { n: 3 }), 'created');
    assert.equal(await createRecord(path, 'beta counted to 4', { n: 4 }), 'exists');
    assert.equal(await readFile(path, 'utf8'), '{\n  "about": "alpha counted to 3",\n  "n": 3\n}\n');
    assert.deepEqual(await readJson(path, schema), { n: 3 });
    await writeRecord(path, 'alpha counted to 5', { n: 5 });
    assert.deepEqual(await readJson(path, schema), { n: 5 });
    await writeFile(path, '{"n":6}');
    assert.deepEqual(await readJson(path, schema), { n: 6 });
  });

  test('a temporary file tells whether its writer still lives', async () => {
    const own = `${temporaryName('tmp')}-record`;
    assert.equal(await isOrphan(own), false);
    const child = spawn('true', { stdio: 'ignore' });
    await once(child, 'exit');
    assert.equal(await isOrphan(own.replace(/-[0-9]+\./, `-${child.pid}.`)), true);
    assert.equal(await isOrphan(own.replace(/\.[0-9]+-/, '.7-')), true, 'the pid was given to another process since');
    assert.equal(await isOrphan('.tmp-0f3f2a52-record'), null);
    assert.equal(await isOrphan('owned-1.json'), null);
  });
});

describe('the lock of an instance', () => {
  test('lets one task run at a time and loses none', async () => {
    const layout = new Layout(folder);
    let inside = 0;
    let most = 0;
    let done = 0;
    await Promise.all(
      Array.from({ length: 20 }, () =>
        withInstanceLock(layout, 'one', async () => {
          most = Math.max(most, ++inside);
          await sleep(5);
          inside--;
          done++;
        }),
      ),
    );
    assert.deepEqual({ most, done }, { most: 1, done: 20 });
  });

  test('is one per instance and per state directory', async () => {
    await withInstanceLock(new Layout(folder), 'one', async () => {
      await withInstanceLock(new Layout(folder), 'two', () => Promise.resolve(), { wait: 0 });
      await withInstanceLock(new Layout(join(folder, 'other')), 'one', () => Promise.resolve(), { wait: 0 });
    });
  });

  test('gives up with InstanceBusy after the wait', async () => {
    const layout = new Layout(folder);
    await withInstanceLock(layout, 'one', () =>
      assert.rejects(
        withInstanceLock(layout, 'one', () => Promise.resolve(), { wait: 50 }),
        isType('InstanceBusy'),
      ),
    );
  });

  test('is released when the task fails', async () => {
    const layout = new Layout(folder);
    await assert.rejects(
      withInstanceLock(layout, 'one', () => Promise.reject(new Error('task'))),
      /task/,
    );
    assert.equal(await withInstanceLock(layout, 'one', () => Promise.resolve('next'), { wait: 0 }), 'next');
  });

  test('f12: ends with the process that holds it, however that ends', async () => {
    const holder = spawn(process.execPath, ['--input-type=module', '-e', holding('killed')], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    await once(holder.stdout, 'data');
    const next = withInstanceLock(new Layout(folder), 'killed', () => Promise.resolve(performance.now()));
    await sleep(50);
    const killed = performance.now();
    holder.kill('SIGKILL');
    assert.ok((await next) - killed < 2000);
  });

  test('tells who holds it, and whether that one will go on by itself', async () => {
    const holder = spawn(process.execPath, ['--input-type=module', '-e', holding('frozen')], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    await once(holder.stdout, 'data');
    const layout = new Layout(folder, 'alpha');
    const refusal = async (): Promise<string> => {
      const error: unknown = await withInstanceLock(layout, 'frozen', () => Promise.resolve(), { wait: 20 }).catch(
        (reason: unknown) => reason,
      );
      assert.ok(error instanceof VmferryError && error.type === 'InstanceBusy', String(error));
      return error.message;
    };
    const busy = `another step is at work on instance frozen on host alpha: process ${holder.pid} holds it`;
    assert.equal(await refusal(), busy);
    holder.kill('SIGSTOP');
    const stopped = `${busy} and is stopped; let it go on (\`kill -CONT ${holder.pid}\`), or end it`;
    for (let tries = 0; (await refusal()) !== stopped; tries++) assert.ok(tries < 50, await refusal());
    holder.kill('SIGCONT');
    for (let tries = 0; (await refusal()) !== busy; tries++) assert.ok(tries < 50, await refusal());
    holder.kill('SIGKILL');
    await withInstanceLock(layout, 'frozen', () => Promise.resolve());
  });

  test('of an instance, of a package and of an image are three, of the longest id too', async () => {
    const layout = new Layout(folder);
    const id = 'f'.repeat(64);
    await withInstanceLock(layout, id, () =>
      withPackageLock(layout, id, () => withImageLock(layout, id, () => Promise.resolve(), { wait: 0 }), {
        wait: 0,
      }),
    );
  });
});

/** A program that takes the lock of an instance, says so, and keeps it. */
function holding(instanceId: string): string {
  const [lock, layout] = ['lock', 'layout'].map(
    (name) => new URL(`../../activities/records/${name}.ts`, import.meta.url).href,
  );
  return `
    const { withInstanceLock } = await import(${JSON.stringify(lock)});
    const { Layout } = await import(${JSON.stringify(layout)});
    await withInstanceLock(new Layout(${JSON.stringify(folder)}), ${JSON.stringify(instanceId)}, () => {
      process.stdout.write('held');
      return new Promise(() => setInterval(() => {}, 1000));
    });`;
}
