import { WorkflowExecutionAlreadyStartedError } from '@temporalio/common';
import { executeChild } from '@temporalio/workflow';
import { workflowId, type InspectInput, type Inspected, type InstanceId } from './contract.ts';
import { isCancellation, reasonOf } from './failing.ts';
import type { Finding } from './findings.ts';
import { onControl } from './options.ts';
import type { repair as repairWorkflow } from './repair.ts';
import { carryOut, reportsOf } from './reports.ts';
import { tell } from './tell.ts';

/**
 * Compares what runs on every host, what the hosts’ records say, and what the catalog says. With `mend`, what is provably safe
 * is done: by each host what it can know alone, the rest by a workflow for each instance that keeps every move of it out.
 */
export async function inspect({ mend, absent = [] }: InspectInput): Promise<Inspected> {
  tell(mend ? 'Compares the hosts with the catalog, and mends.' : 'Compares the hosts with the catalog.');
  const { hosts, at } = await onControl({ summary: 'Which hosts are there?' }).beginInspection();
  const { reports, silent } = await reportsOf(hosts, { instanceId: null, mend, absent });
  const findings = await onControl({ summary: 'What do they and the catalog say of one another?' }).compareWithCatalog({
    at,
    reports,
    silent,
  });
  return { findings: mend ? await mended(findings) : findings };
}

async function mended(findings: Finding[]): Promise<Finding[]> {
  const done: Finding[] = [];
  for (const one of findings) {
    const { repair } = one;
    if (!repair || instanceOf(repair).length > 0) continue;
    try {
      await carryOut(repair);
      one.mended = true;
    } catch (error) {
      if (isCancellation(error)) throw error;
      Object.assign(one, { mended: false, mendFailure: reasonOf(error).message });
    }
  }
  const instances = new Set(findings.flatMap(({ repair }) => (repair ? instanceOf(repair) : [])));
  for (const instanceId of instances) {
    const own = findings.filter((one) => one.repair && instanceOf(one.repair).includes(instanceId));
    try {
      done.push(
        ...(await executeChild<typeof repairWorkflow>('repair', {
          workflowId: workflowId.instance(instanceId),
          args: [{ instanceId, left: findings.filter((one) => isFolderOf(instanceId, one)) }],
          staticSummary: `Put right what differs about ${own[0]?.subject ?? instanceId}`.slice(0, 200),
        })),
      );
    } catch (error) {
      if (isCancellation(error)) throw error;
      const why =
        error instanceof WorkflowExecutionAlreadyStartedError ? 'it is being worked on now' : reasonOf(error).message;
      for (const one of own) Object.assign(one, { mended: false, mendFailure: why });
    }
  }
  const again = new Set(done.map(identity));
  return [...findings.filter((one) => !again.has(identity(one))), ...done];
}

const instanceOf = (repair: NonNullable<Finding['repair']>): InstanceId[] =>
  repair.kind === 'followOwner' ? [repair.instanceId] : repair.kind === 'clearUp' ? [repair.move.instanceId] : [];

/** Also of a move that is open as yet: the first thing that is mended may be to tell its end. */
const isFolderOf = (instanceId: InstanceId, { type, instanceId: about }: Finding): boolean =>
  type === 'moveFolderLeft' && about === instanceId;

/** The same thing, found twice. */
const identity = ({ type, host, instanceId, moveId, path }: Finding): string =>
  JSON.stringify([type, host, instanceId, moveId, path]);
