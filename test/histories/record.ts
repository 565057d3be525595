/**
 * Records the histories that test/workflows/replay.test.ts replays. Without arguments all are made with pretended hosts, with
 * a name that one; with more arguments it is taken from a server where a real move has ended:
 *
 *   node test/histories/record.ts [NAME]
 *   node test/histories/record.ts moved 127.0.0.1:7233 instance:<id> [RUN]
 *
 * Histories are recorded anew only when no workflow of the older form can be running any more.
 */
import { Client, Connection } from '@temporalio/client';
import { readdressUpdate } from '../../workflows/contract.ts';
import { fenceTo } from '../fakes/host-activities.ts';
import { Harness, type Migration } from '../workflows/harness.ts';
import { HISTORIES, isHistory, writeHistory, type HistoryName } from './history-file.ts';

/** One move of each kind, to its end. */
const PRETENDED: Record<HistoryName, (harness: Harness) => Promise<Migration>> = {
  moved: async (harness) => {
    const move = await harness.move(harness.pool.scenario({ name: 'web' }));
    await move.result();
    return move;
  },
  returned: async (harness) => {
    const scenario = harness.pool.scenario({ name: 'web' }).fail('beta.restoreInstance', 'LibvirtFailed');
    const move = await harness.move(scenario);
    await move.failure();
    return move;
  },
  fenced: async (harness) => {
    const scenario = harness.pool.scenario({ name: 'web' }).fail('beta.resumeInstance', 'LibvirtFailed');
    const move = await harness.move(scenario);
    const { fence } = await move.until('parked');
    const input = { destination: 'gamma', fence: { fence: fenceTo('gamma'), after: fence?.last ?? '' } };
    await move.handle.executeUpdate(readdressUpdate, { args: [input] });
    await move.result();
    return move;
  },
};

async function recordPretended(names: readonly HistoryName[]): Promise<void> {
  const harness = await Harness.start(['alpha', 'beta', 'gamma']);
  try {
    for (const name of names) {
      const { handle } = await PRETENDED[name](harness);
      await keep(name, harness.client, handle.workflowId);
    }
  } finally {
    await harness.stop();
  }
}

async function recordReal(name: HistoryName, address: string, workflow: string, run?: string): Promise<void> {
  const connection = await Connection.connect({ address });
  try {
    await keep(name, new Client({ connection }), workflow, run);
  } finally {
    await connection.close();
  }
}

async function keep(name: HistoryName, client: Client, workflow: string, run?: string): Promise<void> {
  const history = await client.workflow.getHandle(workflow, run).fetchHistory();
  console.log(`${await writeHistory(name, history)}: ${history.events?.length} events`);
}

const [name, address, workflow, run] = process.argv.slice(2);
if (name !== undefined && !isHistory(name)) throw new Error(`${name} is none of ${HISTORIES.join(', ')}`);
if (name === undefined) await recordPretended(HISTORIES);
else if (address === undefined) await recordPretended([name]);
else if (workflow !== undefined) await recordReal(name, address, workflow, run);
else throw new Error('usage: record.ts [NAME [ADDRESS WORKFLOW [RUN]]]');
