import { WorkflowExecutionAlreadyStartedError } from '@temporalio/common';
import { ApplicationFailure, continueAsNew, executeChild } from '@temporalio/workflow';
import { workflowId, type HostId, type HostScrubbed, type ScrubHostInput, type Scrubbed } from './contract.ts';
import { isCancellation, reasonOf } from './failing.ts';
import { onControl } from './options.ts';
import { tell } from './tell.ts';
import { verifyAt } from './verifying.ts';

/** Packages that one run of a host’s scrub reads; each takes some twenty events of its history. */
const PACKAGES_PER_RUN = 100;

/**
 * Reads every package on every host, so that damage is known before the package is needed. The hosts work side by side,
 * each at one package after another; one that is absent is told of and holds up nobody.
 */
export async function scrub(): Promise<Scrubbed> {
  tell('Verifies every package where it lies.');
  const { hosts, at } = await onControl({ summary: 'Which hosts are there?', patience: 'for ever' }).beginInspection();
  return { hosts: await Promise.all(hosts.map(({ id }) => scrubbed(id, at))) };
}

async function scrubbed(host: HostId, before: string): Promise<HostScrubbed> {
  try {
    return await executeChild<typeof scrubHost>('scrubHost', {
      workflowId: workflowId.scrubHost(host),
      args: [{ host, before, verified: 0, damaged: 0 }],
      staticSummary: `Verify every package on ${host}`,
    });
  } catch (error) {
    if (isCancellation(error)) throw error;
    const busy = error instanceof WorkflowExecutionAlreadyStartedError;
    const silent = busy ? 'another scrub is at work there' : reasonOf(error).message;
    return { host, verified: 0, damaged: 0, silent };
  }
}

/** The packages of one host, those first that were not verified for the longest time: a scrub that is cut short goes on there. */
export async function scrubHost({ host, before, ...done }: ScrubHostInput): Promise<HostScrubbed> {
  tell(`Verifies every package on **${host}**.`, { source: host });
  let { verified, damaged } = done;
  for (let count = 0; count < PACKAGES_PER_RUN; count++) {
    const asked = onControl({ summary: `What is next on ${host}?`, patience: 'for ever' });
    const next = await asked.nextToVerify({ host, before });
    if (next === null) return { host, verified, damaged, silent: null };
    try {
      const found = await verifyAt({ ...next, host, gently: true });
      verified++;
      if (found instanceof ApplicationFailure) damaged++;
    } catch (error) {
      if (isCancellation(error)) throw error;
      return { host, verified, damaged, silent: reasonOf(error).message };
    }
  }
  return await continueAsNew<typeof scrubHost>({ host, before, verified, damaged });
}
