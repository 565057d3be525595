import type { InstanceId } from '../../workflows/contract.ts';
import type { InstanceReport } from '../../workflows/findings.ts';

/** What a host says of an instance of which it knows nothing but what is given. */
export const instanceReport = (instanceId: InstanceId, rest: Partial<InstanceReport> = {}): InstanceReport => ({
  ...{ instanceId, name: 'web', state: null, owned: null, decided: null },
  ...{ stopped: null, hasRun: false, reserved: null },
  ...rest,
});
