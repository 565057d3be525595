/** The activities of the control worker: each is one transaction on the catalog, and may be repeated at any time. */
import { Context } from '@temporalio/activity';
import type { ControlActivities, InstanceId } from '../workflows/contract.ts';
import { workflowId } from '../workflows/contract.ts';
import type { Catalog } from './catalog/catalog.ts';
import { findHost, recordHost } from './catalog/hosts.ts';
import { describeImage, forgetImage, recordImage } from './catalog/images.ts';
import { findInstance, forgetInstance, recordInstance, reserveInstance, toInstance } from './catalog/instances.ts';
import { closeMove, endOpenMove, planMove, recordMove, redirectMove, reserveMove } from './catalog/moves.ts';
import { findPackage, forgetPackage, recordPackage } from './catalog/packages.ts';
import { HostRecord } from './trust/pool-key.ts';
import { readUnverified } from './trust/signed-text.ts';

/** Every activity may throw CatalogUnreachable, and InvalidInput for what the schema refuses. */
export function createControlActivities(catalog: Catalog): ControlActivities {
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
  };
}

/** Does the instance's own workflow ask, the one that no second workflow runs beside? See catalog/moves.ts. */
function isHolder(instance: InstanceId): boolean {
  return Context.current().info.workflowExecution?.workflowId === workflowId.instance(instance);
}
