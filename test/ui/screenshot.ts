/**
 * `npm run screenshot`: moves a VM in a testbed and takes a picture of the move in the Temporal UI, for the README.
 * Needs Debian's chromium: `bash infra/setup.sh --with chromium`.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { run } from '../../activities/exec/run.ts';
import { workflowId, type MoveResult } from '../../workflows/contract.ts';
import { Pool } from '../support/pool.ts';

/** Pages of the workflow in the UI, and the pictures of them in docs/. */
const PICTURES = { 'user-metadata': 'temporal-ui-story.png', history: 'temporal-ui-history.png' };

const pool = await Pool.up();
const profile = await mkdtemp(join(tmpdir(), 'vmferry-chromium-'));
try {
  const guest = await pool.spawn('alpha', 'web');
  await pool.testbed.rate('beta', '100mbit');
  const { moveId } = await pool.ok<MoveResult>('instances', 'migrate', guest.id, 'beta');
  const id = encodeURIComponent(workflowId.instance(guest.id));
  for (const [page, file] of Object.entries(PICTURES)) {
    const target = new URL(`../../docs/${file}`, import.meta.url).pathname;
    await run(
      'chromium',
      [
        ...['--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-sync'],
        ...['--disable-background-networking', '--disable-component-update', `--user-data-dir=${profile}`],
        ...['--hide-scrollbars', '--window-size=1500,1150', '--virtual-time-budget=15000', `--screenshot=${target}`],
        `${pool.testbed.uiUrl}/namespaces/default/workflows/${id}/${moveId}/${page}`,
      ],
      { timeout: 120_000 },
    );
    console.log(`wrote ${target}`);
  }
} finally {
  await rm(profile, { recursive: true, force: true });
  await pool.down();
}
