/** The activities of the control worker: each is one transaction on the catalog, and may be repeated at any time. */
import { Context } from '@temporalio/activity';
import { WorkflowNotFoundError } from '@temporalio/client';
import type { Comparison, ControlActivities, InstanceId } from '../workflows/contract.ts';
import { workflowId } from '../workflows/contract.ts';
import { FINDINGS, type Finding } from '../workflows/findings.ts';
import type { Catalog } from './catalog/catalog.ts';
import { compare } from './catalog/compare.ts';
import { allHosts, findHost, recordHost } from './catalog/hosts.ts';
import { describeImage, forgetImage, recordImage } from './catalog/images.ts';
import { findInstance, forgetInstance, recordInstance, reserveInstance, toInstance } from './catalog/instances.ts';
import {
  closeMove,
  endOpenMove,
  followOwner,
  planMove,
  recordMove,
  redirectMove,
  reserveMove,
} from './catalog/moves.ts';
import { findPackage, forgetPackage, nextToVerify, recordPackage, recordVerification } from './catalog/packages.ts';
import { now, survey, type Survey } from './catalog/survey.ts';
import { HostRecord } from './trust/pool-key.ts';
import { readUnverified } from './trust/signed-text.ts';

/** Every activity may throw CatalogUnreachable, and InvalidInput for what the schema refuses. */
export function createControlActivities(
  catalog: Catalog,
  workflowRuns: WorkflowRuns = runsInTemporal,
): ControlActivities {
  return {
    planMove: (input) => catalog.read('plan the move', (tx) => planMove(tx, input, isHolder(input.instanceId))),
    reserveMove: (input) => catalog.write('open the move', (tx) => reserveMove(tx, input, isHolder(input.instanceId))),
    redirectMove: (input) => catalog.write('redirect the move', (tx) => redirectMove(tx, input)),
    recordMove: (input) => catalog.write('record the move', (tx) => recordMove(tx, input)),
    closeMove: (input) => catalog.write('close the move', (tx) => closeMove(tx, input)),

    recordPackage: (input) => catalog.write('record the package', (tx) => recordPackage(tx, input)),
    findPackage: ({ packageId }) => catalog.read('find the package', (tx) => findPackage(tx, packageId)),
    forgetPackage: ({ packageId, host }) =>
      catalog.write('forget the package', (tx) => forgetPackage(tx, packageId, host)),
    nextToVerify: (input) => catalog.read('find the next package to verify', (tx) => nextToVerify(tx, input)),
    recordVerification: (input) => catalog.write('record the verification', (tx) => recordVerification(tx, input)),

    reserveInstance: (input) => catalog.write('reserve the instance', (tx) => reserveInstance(tx, input)),
    recordInstance: (input) => catalog.write('record the instance', (tx) => recordInstance(tx, input)),
    forgetInstance: ({ instanceId }) =>
      catalog.write('forget the instance', async (tx) => {
        await endOpenMove(tx, instanceId, isHolder(instanceId));
        await forgetInstance(tx, instanceId);
      }),
    findInstance: ({ instanceId }) =>
      catalog.read('find the instance', async (tx) => {
        const instance = toInstance(await findInstance(tx, instanceId));
        return { instance, host: await findHost(tx, instance.host) };
      }),

    findImage: ({ imageId }) => catalog.read('find the image', (tx) => describeImage(tx, imageId)),
    recordImage: ({ image, host }) => catalog.write('record the image', (tx) => recordImage(tx, image, host)),
    forgetImage: ({ imageId, host }) => catalog.write('forget the image', (tx) => forgetImage(tx, imageId, host)),

    findHost: ({ host }) => catalog.read('find the host', (tx) => findHost(tx, host)),
    recordHost: async ({ record }) => {
      const said = await readUnverified(record, HostRecord);
      return await catalog.write('record the host', (tx) => recordHost(tx, said, record));
    },

    beginInspection: () =>
      catalog.read('begin an inspection', async (tx) => ({ hosts: await allHosts(tx), at: await now(tx) })),
    compareWithCatalog: (input) => compareWithCatalog(catalog, workflowRuns, input),
    followOwner: (input) =>
      catalog.write('follow the owner', (tx) => followOwner(tx, input, isHolder(input.instanceId))),
  };
}

/** Read after the hosts were asked: what was at rest all the while has not changed since `at`, and no workflow of it is open. */
async function compareWithCatalog(catalog: Catalog, workflowRuns: WorkflowRuns, input: Comparison): Promise<Finding[]> {
  // The one that asks does not count: it looks at what it alone may change.
  const own = Context.current().info.workflowExecution?.workflowId;
  const isOpen = async (id: string): Promise<boolean> => id !== own && workflowRuns(id);
  const { at, reports, silent, instanceId } = input;
  const local = reports.flatMap(({ findings }) => findings);
  const asked = {
    moves: local.flatMap(({ moveId }) => moveId ?? []),
    packages: [...local.flatMap(({ packageId }) => packageId ?? []), ...reports.flatMap(({ packages }) => packages)],
    instances: local.flatMap((one) => one.instanceId ?? []),
  };
  const surveyed = await catalog.read('survey the pool', (tx) => survey(tx, at, asked));
  const changed = new Set(surveyed.instances.flatMap((row) => (row.changed ? [row.id] : [])));
  const open = new Map<string, Promise<boolean>>();
  const kept = await Promise.all(
    compare({ survey: surveyed, reports, silent, ...(instanceId !== undefined && { instanceId }) }).map(async (one) => {
      if (!FINDINGS[one.type].explained) return one;
      if (changed.has(one.instanceId ?? '')) return null;
      for (const id of explainers(surveyed, one)) {
        if (!open.has(id)) open.set(id, isOpen(id));
        if (await open.get(id)) return null;
      }
      return one;
    }),
  );
  return kept.filter((one) => one !== null);
}

/** Workflows that leave such a thing behind while they run. */
function explainers({ moves }: Survey, { instanceId, moveId, packageId, imageId, host }: Finding): string[] {
  const ids: string[] = [];
  const move = moves.find(({ id }) => id === moveId);
  for (const id of new Set([instanceId, move?.instanceId])) {
    if (id !== undefined) ids.push(workflowId.instance(id), workflowId.spawn(id));
  }
  if (moveId !== undefined) ids.push(workflowId.discard(moveId, host), workflowId.clearUp(moveId, host));
  if (packageId !== undefined) ids.push(workflowId.package(packageId), workflowId.pull(packageId, host));
  if (imageId !== undefined) ids.push(workflowId.imageDelete(imageId), workflowId.pull(imageId, host));
  return ids;
}

/** Does a workflow of this id run? */
export type WorkflowRuns = (workflowId: string) => Promise<boolean>;

/** As the server that called the running activity knows. */
const runsInTemporal: WorkflowRuns = async (id) => {
  try {
    const { status } = await Context.current().client.workflow.getHandle(id).describe();
    return status.name === 'RUNNING';
  } catch (error) {
    if (error instanceof WorkflowNotFoundError) return false;
    throw error;
  }
};

/** Does the instance's own workflow ask, the one that no second workflow runs beside? See catalog/moves.ts. */
function isHolder(instance: InstanceId): boolean {
  return Context.current().info.workflowExecution?.workflowId === workflowId.instance(instance);
}
