/**
 * Records the histories that test/workflows/replay.test.ts replays. Without arguments both are made with pretended hosts;
 * with arguments one is taken from a server where a real move has ended:
 *
 *   node test/histories/record.ts
 *   node test/histories/record.ts moved 127.0.0.1:7233 instance:<id> [RUN]
 *
 * Histories are recorded anew only when no workflow of the older form can be running any more.
 */
import { Client, Connection } from '@temporalio/client';
import { Harness } from '../workflows/harness.ts';
import { writeHistory } from './history-file.ts';

async function recordPretended(): Promise<void> {
  const harness = await Harness.start(['alpha', 'beta']);
  try {
    const good = harness.pool.scenario({ name: 'web' });
    const moved = await harness.move(good);
    await moved.result();
    await keep('moved', harness.client, moved.handle.workflowId);

    const bad = harness.pool.scenario({ name: 'web' }).fail('beta.restoreInstance', 'LibvirtFailed');
    const returned = await harness.move(bad);
    await returned.failure();
    await keep('returned', harness.client, returned.handle.workflowId);
  } finally {
    await harness.stop();
  }
}

async function recordReal(name: string, address: string, workflow: string, run?: string): Promise<void> {
  if (name !== 'moved' && name !== 'returned') throw new Error(`${name} is neither moved nor returned`);
  const connection = await Connection.connect({ address });
  try {
    await keep(name, new Client({ connection }), workflow, run);
  } finally {
    await connection.close();
  }
}

async function keep(name: 'moved' | 'returned', client: Client, workflow: string, run?: string): Promise<void> {
  const history = await client.workflow.getHandle(workflow, run).fetchHistory();
  console.log(`${await writeHistory(name, history)}: ${history.events?.length} events`);
}

const [name, address, workflow, run] = process.argv.slice(2);
if (name === undefined) await recordPretended();
else if (address !== undefined && workflow !== undefined) await recordReal(name, address, workflow, run);
else throw new Error('usage: record.ts [moved|returned ADDRESS WORKFLOW [RUN]]');
