/**
 * The activities of a host worker, pretended: they obey the rules of ownership that the real ones obey and touch nothing.
 */
import { createHash } from 'node:crypto';
import type {
  HostActivities,
  HostId,
  InstanceFacts,
  InstanceId,
  PackageFacts,
  PackageId,
} from '../../workflows/contract.ts';
import { reported, type FakePool, type Scenario } from './scenario.ts';

export const SIZES = { save: 98_200_000, overlay: 1_100_000, packed: 41_000_000, sealed: 41_200_000 };

export const fingerprintOf = (host: HostId): string => createHash('sha256').update(host).digest('hex').toUpperCase();
/** Stands for a fence by which a host goes on. */
export const fenceTo = (host: HostId): string => `fence to ${host}`;
/** Stands for a certified host record. */
export const recordOf = (host: HostId): string => `record of ${host}`;

export function createFakeHostActivities(host: HostId, pool: FakePool): HostActivities {
  const inPool = <T>(activity: string, input: unknown, effect: () => T): Promise<T> =>
    pool.common.act(host, activity, input, effect);
  const on = <T>(
    activity: string,
    input: { instanceId: InstanceId },
    effect: (scenario: Scenario) => T,
  ): Promise<T> => {
    const scenario = pool.ofInstance(input.instanceId);
    return scenario.act(host, activity, input, () => effect(scenario));
  };
  const onPackage = <T>(
    activity: string,
    input: { packageId: PackageId },
    effect: (scenario: Scenario) => T,
  ): Promise<T> => {
    const scenario = pool.ofPackage(input.packageId);
    return scenario.act(host, activity, input, () => effect(scenario));
  };
  const mustOwn = (scenario: Scenario): void => {
    if (scenario.owner !== host) throw reported('NotOwner', `${host} does not own ${scenario.name}`);
  };

  return {
    describeHost: () =>
      inPool('describeHost', undefined, () => ({
        record: {
          version: 1 as const,
          name: host,
          fingerprint: fingerprintOf(host),
          publicKey: '',
          tlsCertificate: '',
          addresses: ['10.0.0.1:7443'],
          location: 'lab',
          architecture: 'x86_64',
        },
        poolFingerprint: fingerprintOf('pool'),
        vmferryVersion: '0.1.0',
        libvirtVersion: '9.0.0',
        qemuVersion: '7.2.22',
        domainTypes: ['qemu'],
      })),
    keepRecord: (input) =>
      inPool('keepRecord', input, () => {
        if (input.record !== recordOf(host))
          throw reported('HostNotCertified', `${host} was given the ${input.record}`);
      }),

    inspectHost: (input) =>
      inPool('inspectHost', input, () => ({
        ...{ host, instances: [], busy: [], others: [], packages: [], images: [], findings: [] },
        ...pool.reports.get(host),
      })),

    addImage: (input) =>
      inPool('addImage', input, () => ({
        id: createHash('sha256').update(input.path).digest('hex'),
        name: input.name ?? 'debian',
        format: 'qcow2' as const,
        bytes: 1000,
        virtualBytes: 2000,
        boot: {},
      })),
    pullImage: (input) => inPool('pullImage', input, () => ({ bytes: input.image.bytes })),
    deleteImage: (input) => inPool('deleteImage', input, () => undefined),

    spawnInstance: (input) =>
      on('spawnInstance', input, (scenario) => {
        scenario.owner = host;
        scenario.run(host);
        return { generation: 1 };
      }),
    deleteInstance: (input) =>
      on('deleteInstance', input, (scenario) => {
        mustOwn(scenario);
        scenario.stop(host);
        scenario.owner = null;
      }),

    preflightSource: (input) => on('preflightSource', input, (scenario) => factsOf(scenario)),
    preflightDestination: (input) =>
      on('preflightDestination', input, (scenario) => ({ imageMissing: !scenario.imageHosts.includes(host) })),
    reserve: (input) => on('reserve', input, () => undefined),
    announceMove: (input) => on('announceMove', input, () => ({ acknowledged: true })),
    saveInstance: (input) =>
      on('saveInstance', input, (scenario) => {
        mustOwn(scenario);
        scenario.packageId = input.packageId;
        scenario.stop(host);
        return { stoppedMillis: 250, saveBytes: SIZES.save };
      }),
    rebaseOverlay: (input) => on('rebaseOverlay', input, () => ({ bytes: SIZES.overlay })),
    buildPackage: (input) =>
      on('buildPackage', input, () => ({ plainBytes: SIZES.save + SIZES.overlay, packedBytes: SIZES.packed })),
    encryptPackage: (input) => on('encryptPackage', input, (scenario) => packageOf(scenario, host, input.generation)),
    readdressPackage: (input) => on('readdressPackage', input, () => undefined),
    transferPackage: (input) =>
      on('transferPackage', input, () => ({ wireBytes: SIZES.sealed + 5000, packageBytes: SIZES.sealed })),
    openPackage: (input) => on('openPackage', input, () => ({ bytes: SIZES.save + SIZES.overlay })),
    rewriteXml: (input) => on('rewriteXml', input, () => undefined),
    restoreInstance: (input) =>
      on('restoreInstance', input, (scenario) => {
        scenario.pausedOn.add(host);
        return {
          receipt: `receipt of ${host} for ${input.packageId}`,
          last: `spawn on ${scenario.source}`,
          diskSha256: {},
        };
      }),
    releaseInstance: (input) =>
      on('releaseInstance', input, (scenario) => {
        const to = input.destination.replace('record of ', '');
        if (scenario.releasedTo === null) {
          mustOwn(scenario);
          if (input.receipt !== `receipt of ${to} for ${input.packageId}`)
            throw reported('ReceiptInvalid', `${host} got ${input.receipt}`);
          if (scenario.runningOn === host) throw reported('SourceRanOn', `${scenario.name} runs on ${host}`);
          scenario.owner = null;
          scenario.releasedTo = to;
        }
        return { release: `release of ${input.packageId} to ${scenario.releasedTo}` };
      }),
    resumeInstance: (input) =>
      on('resumeInstance', input, (scenario) => {
        const fence = input.fence?.at(-1);
        if (fence === undefined && scenario.fencedHosts.has(host))
          throw reported('StaleGeneration', `${host} was fenced`);
        if (fence !== undefined && fence !== fenceTo(host)) throw reported('FenceInvalid', `${host} got ${fence}`);
        if (fence === undefined && input.release !== `release of ${input.packageId} to ${host}`)
          throw reported('ReleaseInvalid', `${host} got ${input.release}`);
        if (fence !== undefined && !scenario.pausedOn.has(host) && scenario.runningOn !== host)
          throw reported('ReceiptMissing', `${host} has not restored ${scenario.name}`);
        scenario.owner = host;
        scenario.generation = input.generation;
        scenario.run(host);
      }),
    settleMove: (input) => on('settleMove', input, () => undefined),

    returnInstance: (input) =>
      on('returnInstance', input, (scenario) => {
        if (scenario.releasedTo !== null) throw reported('OwnershipDecided', `${host} released ${scenario.name}`);
        mustOwn(scenario);
        const how = scenario.runningOn === host ? ('never stopped' as const) : ('restored' as const);
        scenario.generation = input.generation;
        scenario.run(host);
        return { generation: input.generation, how };
      }),
    startInstance: (input) =>
      on('startInstance', input, (scenario) => {
        mustOwn(scenario);
        scenario.run(host);
        return { generation: scenario.generation, how: 'booted' as const, move: null };
      }),
    findRelease: (input) =>
      on('findRelease', input, (scenario) => {
        if (scenario.releasedTo === null)
          throw reported('ReleaseMissing', `${host} has released ${scenario.name} to nobody`);
        return {
          release: `release of ${scenario.packageId ?? ''} to ${scenario.releasedTo}`,
          packageId: scenario.packageId ?? '',
          generation: scenario.generation + 1,
          to: scenario.releasedTo,
        };
      }),
    discardCopy: (input) =>
      on('discardCopy', input, (scenario) => {
        if (scenario.owner === host) throw reported('OwnershipDecided', `${host} owns ${scenario.name}`);
        scenario.pausedOn.delete(host);
      }),
    obeyFence: (input) =>
      on('obeyFence', input, (scenario) => {
        const running = scenario.runningOn === host;
        if (running && !input.final) throw reported('FenceRefused', `${host} runs ${scenario.name}`);
        scenario.stop(host);
        const paused = scenario.pausedOn.delete(host);
        scenario.fencedHosts.add(host);
        if (scenario.owner === host) scenario.owner = null;
        const found = running ? 'a running instance' : paused ? 'a paused copy' : 'nothing';
        return { found, kept: null } as const;
      }),

    verifyPackage: (input) => onPackage('verifyPackage', input, (scenario) => packageOf(scenario, host, 2)),
    pullPackage: (input) => onPackage('pullPackage', input, () => ({ bytes: SIZES.sealed })),
    deletePackage: (input) => onPackage('deletePackage', input, () => ({ bytes: SIZES.sealed })),
  };
}

function factsOf(scenario: Scenario): InstanceFacts {
  return {
    instanceId: scenario.instanceId,
    name: scenario.name,
    ownedGeneration: scenario.generation,
    running: scenario.runningOn !== null,
    memoryBytes: 268_435_456,
    saveBytes: SIZES.save,
    disks: [],
    requirements: {
      architecture: 'x86_64',
      domainType: 'qemu',
      machine: 'pc-q35-7.2',
      cpu: 'qemu64',
      qemuVersion: '7.2.22',
      memoryBytes: 268_435_456,
      vcpus: 1,
      devices: [],
    },
  };
}

function packageOf(scenario: Scenario, source: HostId, generation: number): PackageFacts {
  return {
    packageId: scenario.packageId ?? '',
    instanceId: scenario.instanceId,
    generation,
    source,
    sealedAt: '2026-11-23T12:00:00.000Z',
    bytes: SIZES.sealed,
    streams: [],
  };
}
