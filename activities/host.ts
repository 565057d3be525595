/** All activities of a host worker, in the order of a move. */
import type { HostActivities, InstanceId } from '../workflows/contract.ts';
import { createAddImage } from './add-image.ts';
import { createAnnounceMove } from './announce-move.ts';
import { createBuildPackage } from './build-package.ts';
import { createDeleteImage } from './delete-image.ts';
import { createDeleteInstance } from './delete-instance.ts';
import { createDeletePackage } from './delete-package.ts';
import { createDescribeHost, createKeepRecord, type HostIdentity } from './describe-host.ts';
import { createDiscardCopy } from './discard-copy.ts';
import { createEncryptPackage } from './encrypt-package.ts';
import { createFindRelease } from './find-release.ts';
import { requirePulse, withHeartbeat } from './heartbeat.ts';
import type { HostContext } from './host-context.ts';
import type { Hypervisor } from './hypervisor/hypervisor.ts';
import { createInspectHost } from './inspect-host.ts';
import { createObeyFence } from './obey-fence.ts';
import { createOpenPackage } from './open-package.ts';
import { createPreflightDestination, createPreflightSource } from './preflight.ts';
import { createPullImage } from './pull-image.ts';
import { createPullPackage } from './pull-package.ts';
import { createReaddressPackage } from './readdress-package.ts';
import { createRebaseOverlay } from './rebase-overlay.ts';
import { createReleaseInstance } from './release-instance.ts';
import { createReserve } from './reserve.ts';
import { createRestoreInstance } from './restore-instance.ts';
import { createResumeInstance } from './resume-instance.ts';
import { createReturnInstance } from './return-instance.ts';
import { createRewriteXml } from './rewrite-xml.ts';
import { createSaveInstance } from './save-instance.ts';
import { createSettleMove } from './settle-move.ts';
import { createSpawnInstance } from './spawn-instance.ts';
import { createStartInstance } from './start-instance.ts';
import { createTransferPackage } from './transfer-package.ts';
import { createVerifyPackage } from './verify-package.ts';

export function createHostActivities(context: HostContext, identity: HostIdentity): HostActivities {
  const host = { ...context, hypervisor: withPulse(context.hypervisor) };
  return beating({
    describeHost: createDescribeHost(host, identity),
    keepRecord: createKeepRecord(host),
    inspectHost: createInspectHost(host),

    addImage: createAddImage(host),
    pullImage: createPullImage(host),
    deleteImage: createDeleteImage(host),

    spawnInstance: createSpawnInstance(host),
    deleteInstance: createDeleteInstance(host),

    preflightSource: createPreflightSource(host),
    preflightDestination: createPreflightDestination(host),
    reserve: createReserve(host),
    announceMove: createAnnounceMove(),
    saveInstance: createSaveInstance(host),
    rebaseOverlay: createRebaseOverlay(host),
    buildPackage: createBuildPackage(host),
    encryptPackage: createEncryptPackage(host),
    readdressPackage: createReaddressPackage(host),
    transferPackage: createTransferPackage(host),
    openPackage: createOpenPackage(host),
    rewriteXml: createRewriteXml(host),
    restoreInstance: createRestoreInstance(host),
    releaseInstance: createReleaseInstance(host),
    resumeInstance: createResumeInstance(host),
    settleMove: createSettleMove(host),

    returnInstance: createReturnInstance(host),
    discardCopy: createDiscardCopy(host),
    startInstance: createStartInstance(host),
    findRelease: createFindRelease(host),
    obeyFence: createObeyFence(host),

    verifyPackage: createVerifyPackage(host),
    pullPackage: createPullPackage(host),
    deletePackage: createDeletePackage(host),
  });
}

/** An attempt that was frozen, in the middle of its work or before, lets no vCPU run when it wakes. */
function withPulse(hypervisor: Hypervisor): Hypervisor {
  const asking =
    (name: 'start' | 'resume') =>
    async (instanceId: InstanceId): Promise<void> => {
      requirePulse();
      await hypervisor[name](instanceId);
    };
  const guarded: Partial<Hypervisor> = { start: asking('start'), resume: asking('resume') };
  return new Proxy(hypervisor, {
    // Bound, because the methods reach for private fields of the object that they belong to.
    get: (_, name: keyof Hypervisor) => guarded[name] ?? (hypervisor[name] as () => unknown).bind(hypervisor),
  });
}

/** Each activity tells that it lives for as long as it runs. */
function beating<A extends object>(activities: A): A {
  const wrap = ([name, run]: [string, (input: unknown) => Promise<unknown>]): [string, unknown] => [
    name,
    (input: unknown) => withHeartbeat(name, () => run(input)),
  ];
  return Object.fromEntries(Object.entries(activities).map(wrap)) as A;
}
