import type { RepairInput } from './contract.ts';
import { isCancellation, reasonOf } from './failing.ts';
import type { Finding } from './findings.ts';
import { onControl } from './options.ts';
import { carryOut, reportsOf } from './reports.ts';
import { tell } from './tell.ts';

/**
 * Mends what differs about one instance. It holds the instance’s id, so no move of it runs meanwhile; and it looks again
 * first, for one may have run since the inspection that started it.
 *
 * @returns what it tried to mend, with the outcome
 */
export async function repair({ instanceId, left }: RepairInput): Promise<Finding[]> {
  tell(`Puts right what differs about instance \`${instanceId}\`.`, { instance: instanceId });
  const tried: Finding[] = [];
  // What the catalog learns of the owner first tells how a lost move ended, and with that what is left of it.
  for (const turn of ['followOwner', 'clearUp'] as const) {
    const { hosts, at } = await onControl({ summary: 'Which hosts are there?' }).beginInspection();
    const { reports, silent } = await reportsOf(hosts, { instanceId, mend: false, absent: [] });
    for (const report of reports) report.findings.push(...left.filter(({ host }) => host === report.host));
    const findings = await onControl({ summary: 'What differs?' }).compareWithCatalog({
      at,
      reports,
      silent,
      instanceId,
    });
    for (const one of findings) {
      if (one.repair?.kind !== turn) continue;
      try {
        await carryOut(one.repair);
        tried.push({ ...one, mended: true });
      } catch (error) {
        if (isCancellation(error)) throw error;
        tried.push({ ...one, mended: false, mendFailure: reasonOf(error).message });
      }
    }
  }
  return tried;
}
