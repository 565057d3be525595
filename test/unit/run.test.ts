import assert from 'node:assert/strict';
import { test } from 'node:test';
import { run } from '../../activities/exec/run.ts';
import { VmferryError } from '../../workflows/failures.ts';

const failed = (text: RegExp) => (error: unknown) => {
  assert.ok(error instanceof VmferryError);
  assert.equal(error.type, 'CommandFailed');
  assert.match(error.message, text);
  assert.ok(error.message.length < 2000);
  return true;
};

test('a program gets its arguments and its input as they are', async () => {
  const { stdout } = await run('printf', ['%s|', 'a b', '$HOME', "'"]);
  assert.equal(stdout, "a b|$HOME|'|");
  assert.equal((await run('cat', [], { input: 'x\ny' })).stdout, 'x\ny');
  assert.equal((await run('cat', [])).stdout, '');
});

test('a failure tells the command, its exit code and the end of what it printed', async () => {
  await assert.rejects(
    run('sh', ['-c', 'yes long | head -c 5000 >&2; echo the cause >&2; exit 3']),
    failed(/^sh -c .* ended with exit code 3: …(.|\n)*the cause$/),
  );
});

test('an exit code may be an answer', async () => {
  assert.equal((await run('sh', ['-c', 'exit 3'], { okExitCodes: [0, 3] })).exitCode, 3);
});

test('a program that is missing, killed, endless or slow is a failure', async () => {
  await assert.rejects(run('no-such-program-here', []), failed(/could not be started \(ENOENT\)/));
  await assert.rejects(run('sh', ['-c', 'kill -9 $$']), failed(/was ended by SIGKILL/));
  await assert.rejects(run('yes', []), failed(/printed too much/));
  await assert.rejects(run('sleep', ['10'], { timeout: 50 }), failed(/took longer than 50 ms/));
});

test('an aborted signal ends the program and its reason is thrown', async () => {
  const reason = new Error('cancelled by the workflow');
  const controller = new AbortController();
  const started = performance.now();
  setTimeout(() => controller.abort(reason), 50);
  await assert.rejects(run('sleep', ['10'], { signal: controller.signal }), (error) => error === reason);
  assert.ok(performance.now() - started < 2000);
  await assert.rejects(run('true', [], { signal: controller.signal }), (error) => error === reason);
});
