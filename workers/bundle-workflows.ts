/**
 * `node workers/bundle-workflows.ts FILE`: writes the workflows as the one script that Temporal's sandbox runs. A program of
 * its own because the bundler takes 200 MB, which a worker would keep for as long as it lives.
 */
import { writeFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { bundleWorkflowCode, DefaultLogger } from '@temporalio/worker';

const [file] = process.argv.slice(2);
if (file === undefined) throw new Error('usage: bundle-workflows.ts FILE');
const { code } = await bundleWorkflowCode({
  workflowsPath: fileURLToPath(new URL(`../workflows/index${import.meta.url.slice(-3)}`, import.meta.url)),
  logger: new DefaultLogger('WARN'),
});
await writeFile(file, code);
