/**
 * Compares what runs on this host with what its records allow, and mends what is provably safe to mend. At the worker's start,
 * before it takes any step, and whenever somebody asks.
 *
 * Each instance is looked at, judged and mended under its lock, so no step of it runs meanwhile; one that a step is at work
 * on is left out. What an open move left here on purpose is reported like anything else: whether a move is open the
 * catalog knows, and nothing that could disturb one is ever mended here. Can die at any instant: every mend is one act, and
 * what is left is found again.
 */
import { readdir } from 'node:fs/promises';
import type { HostActivities, ImageId, InstanceId, PackageId } from '../workflows/contract.ts';
import { VmferryError, type FailureType } from '../workflows/failures.ts';
import { finding, type Finding, type HostReport, type InstanceReport, type Mend } from '../workflows/findings.ts';
import { endImageDeletion } from './delete-image.ts';
import { endPackageDeletion } from './delete-package.ts';
import { differencesOf, reportOf } from './differences.ts';
import { withHeartbeat } from './heartbeat.ts';
import type { HostContext } from './host-context.ts';
import { readImage } from './images.ts';
import { leftoversOf } from './leftovers.ts';
import { exists, removeDurably } from './records/durable.ts';
import { withInstanceLock } from './records/lock.ts';
import { tracesOf, type Seen } from './traces.ts';
import { uuid } from './trust/statements.ts';

export function createInspectHost(host: HostContext): HostActivities['inspectHost'] {
  return (input) => withHeartbeat('inspectHost', () => inspectHost(host, input));
}

export interface Inspection {
  /** One instance, or all of the host. */
  instanceId: InstanceId | null;
  mend: boolean;
  /** No step of this worker runs yet. */
  alone?: boolean;
}

export async function inspectHost(
  host: HostContext,
  { instanceId, mend, alone = false }: Inspection,
): Promise<HostReport> {
  const { layout, hypervisor, network } = host;
  const report: HostReport = {
    host: host.name,
    instances: [],
    busy: [],
    others: [],
    packages: (await namesIn(layout.packages)).filter(isUuid),
    images: [],
    findings: [],
  };
  for (const id of await namesIn(layout.images)) {
    if (/^[0-9a-f]{64}$/.test(id) && (await readImage(layout, id))) report.images.push(id);
  }
  if (instanceId === null) {
    // First of all: half-written files lie where steps will look.
    report.findings.push(...(await mended(host, await leftoversOf(host, alone), mend)));
    for (const { mac, ip } of await network.strangers()) {
      report.findings.push(
        finding('strangeDhcpEntry', {
          ...{ host: host.name, subject: `DHCP entry of ${mac ?? 'any MAC'}` },
          found: `${ip ?? 'no address'} for ${mac ?? 'any MAC'}`,
          expected: 'entries of instances that are here or expected',
        }),
      );
    }
  }

  const domains = new Map((await hypervisor.list()).map((domain) => [domain.instanceId, domain]));
  const admitted = new Map((await network.admitted()).map(({ instanceId: id, name }) => [id, name]));
  const recorded = new Set([...(await namesIn(layout.instances)).filter(isUuid), ...admitted.keys()]);
  const wanted = instanceId === null ? [...recorded] : recorded.has(instanceId) ? [instanceId] : [];
  for (const id of wanted.sort()) {
    const seen = { domain: domains.get(id) ?? null, admittedAs: admitted.get(id) ?? null };
    const one = await inspectInstance(host, id, seen, mend);
    if (one === 'busy') report.busy.push(id);
    else {
      if (one.report) report.instances.push(one.report);
      report.findings.push(...one.findings);
    }
  }
  for (const { instanceId: id, name, state } of domains.values()) {
    if (!recorded.has(id)) report.others.push({ instanceId: id, name, state });
  }
  return report;
}

/** `report` is null if the instance’s records cannot be read. */
async function inspectInstance(
  host: HostContext,
  instanceId: InstanceId,
  seen: Seen,
  mend: boolean,
): Promise<{ report: InstanceReport | null; findings: Finding[] } | 'busy'> {
  try {
    return await withInstanceLock(
      host.layout,
      instanceId,
      async () => {
        const workingCopy = (generation: number): string => host.layout.generation(instanceId, generation);
        let traces = await tracesOf(host, instanceId, seen);
        if (differencesOf(host.name, traces, workingCopy).length > 0) {
          // A step may have ended between the look at all domains and now; what is said and mended is as it is now.
          const domain = await host.hypervisor.find(instanceId);
          traces = await tracesOf(host, instanceId, { ...seen, domain });
        }
        const findings = await mended(host, differencesOf(host.name, traces, workingCopy), mend);
        return { report: reportOf(traces), findings };
      },
      { wait: 0 },
    );
  } catch (error) {
    if (!(error instanceof VmferryError)) throw error;
    if (error.type === 'InstanceBusy') return 'busy';
    if (!UNREADABLE.includes(error.type)) throw error;
    const subject = `instance ${seen.domain?.name ?? seen.admittedAs ?? instanceId}`;
    const found = error.message;
    const expected = 'records as this host wrote them';
    return {
      report: null,
      findings: [finding('recordUnreadable', { host: host.name, subject, instanceId, found, expected })],
    };
  }
}

/** What the reading of a host’s own records throws when they are not as it wrote them. */
const UNREADABLE: readonly FailureType[] = ['Internal', 'SignatureInvalid', 'ChainBroken', 'NotOwner'];

type Act = (
  host: HostContext,
  found: { instanceId: InstanceId; path: string; imageId: ImageId | undefined; packageId: PackageId | undefined },
) => Promise<unknown>;

/** What a host mends by itself. The others need to know that no move is open, which no host can. */
const ACTS: Partial<Record<Mend, Act>> = {
  suspend: (host, { instanceId }) => host.hypervisor.suspend(instanceId),
  undefine: (host, { instanceId }) => host.hypervisor.undefine(instanceId),
  autostartOff: (host, { instanceId }) => host.hypervisor.setAutostart(instanceId, false),
  expel: (host, { instanceId }) => host.network.expel(instanceId),
  // To read is to write what is missing.
  completeTakeBack: (host, { instanceId }) => host.ledger.owned(instanceId),
  remove: async (host, { path, imageId, packageId }) => {
    if (imageId !== undefined) return endImageDeletion(host, imageId);
    if (packageId !== undefined) return endPackageDeletion(host, packageId);
    await removeDurably(path);
  },
};

async function mended(host: HostContext, findings: Finding[], mend: boolean): Promise<Finding[]> {
  if (!mend) return findings;
  for (const one of findings) {
    const act = one.mend && ACTS[one.mend];
    if (!act) continue;
    try {
      const { instanceId = '', path = '', imageId, packageId } = one;
      await act(host, { instanceId, path, imageId, packageId });
      one.mended = true;
    } catch (error) {
      one.mended = false;
      one.mendFailure = error instanceof Error ? error.message : String(error);
    }
  }
  return findings;
}

const isUuid = (name: string): boolean => uuid.safeParse(name).success;

async function namesIn(folder: string): Promise<string[]> {
  return (await exists(folder)) ? (await readdir(folder)).sort() : [];
}
