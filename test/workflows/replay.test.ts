/**
 * Recorded moves are replayed with the workflows of today: a change that running moves would not survive is seen here.
 * Such a change goes behind `patched()`; see test/histories/record.ts for the rest.
 */
import assert from 'node:assert/strict';
import { cp, mkdtemp, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { bundleWorkflowCode, DefaultLogger, Worker, type WorkflowBundle } from '@temporalio/worker';
import { DeterminismViolationError } from '@temporalio/workflow';
import { HISTORIES, readHistory } from '../histories/history-file.ts';
import { quietRuntime } from '../support/quiet-runtime.ts';
import { WORKFLOWS } from './harness.ts';

const ROOT = fileURLToPath(new URL('../..', import.meta.url));

const bundle = async (workflowsPath: string): Promise<WorkflowBundle> =>
  bundleWorkflowCode({ workflowsPath, logger: new DefaultLogger('ERROR') });

async function replay(workflowBundle: WorkflowBundle, history: string): Promise<void> {
  await Worker.runReplayHistory({ workflowBundle }, await readHistory(history));
}

/** The workflows with one thing changed, in a folder of their own. */
async function changedWorkflows(file: string, change: (source: string) => string): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'vmferry-replay-'));
  after(() => rm(folder, { recursive: true, force: true }));
  await cp(dirname(WORKFLOWS), join(folder, 'workflows'), { recursive: true });
  await cp(join(ROOT, 'package.json'), join(folder, 'package.json'));
  await symlink(join(ROOT, 'node_modules'), join(folder, 'node_modules'));
  const path = join(folder, 'workflows', file);
  const source = await readFile(path, 'utf8');
  const changed = change(source);
  assert.notEqual(changed, source, `nothing was changed in ${file}`);
  await writeFile(path, changed);
  return join(folder, 'workflows', 'index.ts');
}

describe('recorded moves', () => {
  let today: WorkflowBundle;
  before(async () => {
    quietRuntime();
    today = await bundle(WORKFLOWS);
  });

  for (const history of HISTORIES) {
    test(`the ${history} one goes the same way today`, async () => {
      await replay(today, history);
    });
  }

  test('a move whose steps were exchanged is found out', async () => {
    const exchanged = await changedWorkflows('migrate.ts', (source) =>
      source.replace(/( *await rebaseOverlay.*\n)( *await buildPackage.*\n)/, '$2$1'),
    );
    await assert.rejects(replay(await bundle(exchanged), 'moved'), DeterminismViolationError);
  });
});
