/** The catalog, pretended: what it knows of an instance is in its scenario. Every name of a host is in the pool but `nowhere`. */
import type { ControlActivities, Host, HostId, Image, Instance } from '../../workflows/contract.ts';
import { fingerprintOf, recordOf, SIZES } from './host-activities.ts';
import { reported, type FakePool, type Scenario } from './scenario.ts';

export const IMAGE: Image = {
  id: 'ab'.repeat(32),
  name: 'debian',
  format: 'qcow2',
  bytes: 90_000_000,
  virtualBytes: 2_000_000_000,
  boot: {},
};
const ADDRESS = { ip: '10.77.0.2', mac: '52:54:00:4d:00:02' };

export function hostOf(id: HostId): Host {
  if (id === 'nowhere') throw reported('HostNotFound', `There is no host ${id} in the pool`);
  return { id, fingerprint: fingerprintOf(id), record: recordOf(id), location: 'lab', architecture: 'x86_64' };
}

export function createFakeControlActivities(pool: FakePool): ControlActivities {
  const inPool = <T>(activity: string, input: unknown, effect: (scenario: Scenario) => T): Promise<T> =>
    pool.common.act('control', activity, input, () => effect(pool.common));
  const on = <T>(activity: string, input: { instanceId: string }, effect: (scenario: Scenario) => T): Promise<T> => {
    const scenario = pool.ofInstance(input.instanceId);
    return scenario.act('control', activity, input, () => effect(scenario));
  };
  const onPackage = <T>(
    activity: string,
    input: { packageId: string },
    effect: (scenario: Scenario) => T,
  ): Promise<T> => {
    const scenario = pool.ofPackage(input.packageId);
    return scenario.act('control', activity, input, () => effect(scenario));
  };
  const onMove = <T>(activity: string, input: { moveId: string }, effect: (scenario: Scenario) => T): Promise<T> => {
    const scenario = pool.ofMove(input.moveId);
    return scenario.act('control', activity, input, () => effect(scenario));
  };

  return {
    planMove: (input) =>
      on('planMove', input, (scenario) => {
        const owner = scenario.recorded.host;
        if (input.kind === 'migrate' && input.destination === owner)
          throw reported('SameHost', `${scenario.name} is on ${owner}`);
        return {
          instance: instanceOf(scenario),
          image: IMAGE,
          source: hostOf(owner),
          destination: hostOf(input.destination ?? owner),
          imageHosts: scenario.imageHosts.map(hostOf),
          packageId: scenario.packageId,
        };
      }),
    reserveMove: (input) =>
      on('reserveMove', input, (scenario) => {
        scenario.openMove = { moveId: input.moveId, destination: input.destination };
        scenario.recorded.state = 'moving';
        scenario.closed = null;
        pool.opened(input.moveId, scenario);
        return { generation: input.ownedGeneration + 1, address: ADDRESS };
      }),
    redirectMove: (input) =>
      onMove('redirectMove', input, (scenario) => {
        const destination = hostOf(input.destination);
        scenario.openMove = { moveId: input.moveId, destination: destination.id };
        return { destination };
      }),
    recordMove: (input) =>
      onMove('recordMove', input, (scenario) => {
        if (scenario.closed !== null) scenario.violations.push(`recordMove ${input.phase} after the move was closed`);
      }),
    recordPackage: (input) =>
      on('recordPackage', input, (scenario) => {
        scenario.packageHosts.add(input.host);
      }),
    closeMove: (input) =>
      (input.outcome === 'failed' || input.outcome === 'saved') && !pool.isOpened(input.moveId)
        ? Promise.resolve()
        : onMove('closeMove', input, (scenario) => {
            scenario.openMove = null;
            scenario.closed = input.outcome;
            scenario.recorded = {
              host: input.owner,
              state: input.outcome === 'saved' ? 'saved' : 'running',
              generation: input.generation,
            };
          }),

    reserveInstance: (input) =>
      on('reserveInstance', input, (scenario) => ({
        image: IMAGE,
        host: hostOf(input.host),
        address: ADDRESS,
        imageHosts: scenario.imageHosts.map(hostOf),
      })),
    recordInstance: (input) =>
      on('recordInstance', input, (scenario) => {
        scenario.recorded = { host: input.host, state: input.state, generation: input.generation };
      }),
    forgetInstance: (input) => on('forgetInstance', input, () => undefined),

    findInstance: (input) =>
      on('findInstance', input, (scenario) => ({
        instance: instanceOf(scenario),
        host: hostOf(scenario.recorded.host),
      })),
    findImage: (input) =>
      inPool('findImage', input, (scenario) => ({
        image: IMAGE,
        hosts: scenario.imageHosts.map(hostOf),
        usedBy: pool.imageUsers,
      })),
    recordImage: (input) => inPool('recordImage', input, () => undefined),
    forgetImage: (input) => inPool('forgetImage', input, () => undefined),
    findPackage: (input) =>
      onPackage('findPackage', input, (scenario) => ({
        packageId: input.packageId,
        instanceId: scenario.instanceId,
        generation: scenario.generation + 1,
        bytes: SIZES.sealed,
        sealedAt: '2026-11-23T12:00:00.000Z',
        hosts: [...scenario.packageHosts].map(hostOf),
        damaged: [...scenario.packageHosts].filter((host) => scenario.verified.get(host)?.damage),
        needed: scenario.recorded.state === 'saved',
        at: new Date().toISOString(),
      })),
    nextToVerify: (input) =>
      inPool('nextToVerify', input, () => {
        const packageId = pool.nextToVerify(input.host, input.before);
        return packageId === null ? null : { packageId, at: input.before };
      }),
    recordVerification: (input) =>
      onPackage('recordVerification', input, (scenario) => {
        scenario.verified.set(input.host, { at: input.at, damage: input.damage });
      }),
    forgetPackage: (input) =>
      onPackage('forgetPackage', input, (scenario) => {
        scenario.packageHosts.delete(input.host);
      }),
    findHost: (input) => inPool('findHost', input, () => hostOf(input.host)),
    beginInspection: () =>
      inPool('beginInspection', undefined, () => ({ hosts: pool.hosts.map(hostOf), at: '2026-11-24T12:00:00.000Z' })),
    compareWithCatalog: (input) => inPool('compareWithCatalog', input, () => pool.compared(input)),
    followOwner: (input) =>
      on('followOwner', input, (scenario) => {
        const { host, generation, savedAs } = input;
        scenario.openMove = null;
        scenario.recorded = { host, generation, state: savedAs === null ? 'running' : 'saved' };
      }),
    recordHost: (input) => inPool('recordHost', input, () => hostOf(input.record.replace('record of ', ''))),
  };
}

function instanceOf(scenario: Scenario): Instance {
  const { instanceId: id, name, recorded } = scenario;
  return { id, name, ...recorded, imageId: IMAGE.id, address: ADDRESS };
}
