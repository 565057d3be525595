/** Asks the hosts how things stand, and does what follows from it. Shared by the workflows that look at the whole pool. */
import type { Host, HostId, InstanceId } from './contract.ts';
import { isCancellation, reasonOf } from './failing.ts';
import type { HostReport, Repair } from './findings.ts';
import { onControl, onHost } from './options.ts';

/** Seconds. Whoever asks has often seen a worker of each host a moment ago, and always somebody waits for the answer. */
const ABSENT_AFTER = 10;

/** What each host says of itself, or why it says nothing. `absent` ones are not asked. */
export async function reportsOf(
  hosts: readonly Host[],
  { absent, ...question }: { instanceId: InstanceId | null; mend: boolean; absent: readonly HostId[] },
): Promise<{ reports: HostReport[]; silent: { host: HostId; why: string }[] }> {
  const reports: HostReport[] = [];
  const silent: { host: HostId; why: string }[] = [];
  await Promise.all(
    hosts.map(async ({ id: host }) => {
      if (absent.includes(host)) {
        silent.push({ host, why: 'its worker has not called in the last minutes' });
        return;
      }
      try {
        const summary = `How do things stand on ${host}?`;
        reports.push(await onHost(host, { summary, patience: 5, absentAfter: ABSENT_AFTER }).inspectHost(question));
      } catch (error) {
        if (isCancellation(error)) throw error;
        silent.push({ host, why: reasonOf(error).message });
      }
    }),
  );
  return { reports, silent };
}

export async function carryOut(repair: Repair): Promise<void> {
  switch (repair.kind) {
    case 'followOwner': {
      const { instanceId, host, generation, savedAs } = repair;
      const summary = `By the hosts’ records it is ${host}’s, generation ${generation}`;
      return onControl({ summary }).followOwner({ instanceId, host, generation, savedAs });
    }
    case 'clearUp': {
      const { host, move, as } = repair;
      const at = onHost(host, { summary: `Remove what move ${move.moveId} left on ${host}` });
      if (as === 'copy') return at.discardCopy(move);
      return at.settleMove({ ...move, role: 'source', outcome: as === 'gone' ? 'moved' : 'returned' });
    }
    case 'forgetPackage': {
      const { host, packageId } = repair;
      return onControl({ summary: `There is no package ${packageId} on ${host}` }).forgetPackage({ host, packageId });
    }
    case 'listPackage': {
      const { host, packageId } = repair;
      const catalog = onControl({ summary: `Package ${packageId} is on ${host} too` });
      return catalog.recordPackage({ ...(await catalog.findPackage({ packageId })), host });
    }
  }
}
