/**
 * What can go wrong, done for real to a host or to the parts that all hosts share. Each fault begins when the moves of a
 * wave stand at their points, lets them go on at the moment that hurts, and is over when its function returns.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Testbed } from '../../infra/testbed/testbed.ts';
import type { HostId } from '../../workflows/contract.ts';
import type { DisturbanceKind } from './history.ts';

export interface Strike {
  testbed: Testbed;
  /** The struck host; for faults of the shared parts there is none. */
  host: HostId;
  /** Lets the moves go on. */
  go: () => Promise<void>;
  /** Resolves when Temporal has given up every attempt that stands on the struck host. */
  givenUp: () => Promise<void>;
  /** Resolves when the host's worker has taken another attempt of each of them. */
  anotherAttempt: () => Promise<void>;
}

export interface Fault {
  name: string;
  on: 'host' | 'control';
  /** What it does to guests that have done nothing to deserve it; the checker must know. */
  disturbs?: DisturbanceKind;
  strike(strike: Strike): Promise<void>;
  /** Undoes what outlasts the strike, which is over when the struck moves have ended. */
  lift?(testbed: Testbed, host: HostId): Promise<void>;
}

/** Longer than the heartbeat timeout, so that whoever is cut off or frozen is taken for dead meanwhile. */
const LONGER_THAN_A_HEARTBEAT_MS = 13_000;
/** Long enough for a step to fail at least once. */
const SOME_ATTEMPTS_MS = 6_000;

const killed = (what: 'worker' | 'libvirtd'): Fault['strike'] => {
  return async ({ testbed, host, go }) => {
    await testbed.kill(host, what);
    await go();
    await testbed.start(host, what);
  };
};
const frozen = (what: 'libvirtd' | 'qemu'): Fault['strike'] => {
  return async ({ testbed, host, go }) => {
    await testbed.freeze(host, what);
    await go();
    await sleep(LONGER_THAN_A_HEARTBEAT_MS);
    await testbed.thaw(host, what);
  };
};
const diskBad = (spoil: 'fillDisk' | 'readOnly', mend: 'freeDisk' | 'readWrite'): Fault['strike'] => {
  return async ({ testbed, host, go }) => {
    await testbed[spoil](host);
    await go();
    await sleep(SOME_ATTEMPTS_MS);
    await testbed[mend](host);
  };
};
const controlKilled = (what: 'worker' | 'temporal' | 'postgres'): Fault['strike'] => {
  return async ({ testbed, go }) => {
    await testbed.kill('control', what);
    await go();
    await testbed.start('control', what);
  };
};
const controlFrozen = (what: 'worker' | 'temporal' | 'postgres'): Fault['strike'] => {
  return async ({ testbed, go }) => {
    await testbed.freeze('control', what);
    await go();
    await sleep(LONGER_THAN_A_HEARTBEAT_MS);
    await testbed.thaw('control', what);
  };
};

const host = (name: string, strike: Fault['strike'], more: Partial<Fault> = {}): Fault => ({
  ...more,
  name,
  on: 'host',
  strike,
});
const control = (name: string, strike: Fault['strike']): Fault => ({ name, on: 'control', strike });

export const FAULTS: readonly Fault[] = [
  host('host worker killed', killed('worker')),
  // Both attempts go on at the same moment.
  host('host worker frozen', async ({ testbed, host, go, givenUp }) => {
    await testbed.freeze(host, 'worker');
    await givenUp();
    await go();
    await testbed.thaw(host, 'worker');
  }),
  // The attempt that was thought dead wakes inside its step, while the next one is at work.
  host('zombie attempt', async ({ testbed, host, go, givenUp, anotherAttempt }) => {
    await testbed.freeze(host, 'worker');
    await givenUp();
    await testbed.thaw(host, 'worker');
    await anotherAttempt();
    await go();
  }),
  host('libvirtd killed', killed('libvirtd')),
  host('libvirtd frozen', frozen('libvirtd')),
  host(
    'qemu killed',
    async ({ testbed, host, go }) => {
      await testbed.kill(host, 'qemu');
      await go();
    },
    { disturbs: 'qemu-killed' },
  ),
  host('qemu frozen', frozen('qemu')),
  host(
    'host rebooted',
    async ({ testbed, host, go }) => {
      await testbed.kill(host, 'host');
      await go();
      await testbed.start(host, 'host');
    },
    { disturbs: 'power-loss' },
  ),
  host('link cut', async ({ testbed, host, go }) => {
    await testbed.cut(host);
    await go();
    await sleep(LONGER_THAN_A_HEARTBEAT_MS);
    await testbed.join(host);
  }),
  host('link cut, host hears nothing', async ({ testbed, host, go }) => {
    await testbed.cut(host, { way: 'receive' });
    await go();
    await sleep(LONGER_THAN_A_HEARTBEAT_MS);
    await testbed.join(host);
  }),
  host('link cut, host is not heard', async ({ testbed, host, go }) => {
    await testbed.cut(host, { way: 'send' });
    await go();
    await sleep(LONGER_THAN_A_HEARTBEAT_MS);
    await testbed.join(host);
  }),
  host('link flapping', async ({ testbed, host, go }) => {
    await go();
    await testbed.flap(host, { cycles: 6, down: 1500, up: 1500 });
  }),
  host('link at 1 Mbit/s', async ({ testbed, host, go }) => {
    await testbed.rate(host, '1mbit');
    await go();
    await sleep(LONGER_THAN_A_HEARTBEAT_MS);
    await testbed.rate(host, 'none');
  }),
  host('disk full', diskBad('fillDisk', 'freeDisk'), { disturbs: 'disk-full' }),
  host('disk read-only', diskBad('readOnly', 'readWrite'), { disturbs: 'read-only' }),
  host(
    'clock an hour ahead',
    async ({ testbed, host, go }) => {
      await testbed.skewClock(host, 3600);
      await go();
    },
    { lift: (testbed, host) => testbed.skewClock(host, 0) },
  ),
  host(
    'clock an hour behind',
    async ({ testbed, host, go }) => {
      await testbed.skewClock(host, -3600);
      await go();
    },
    { lift: (testbed, host) => testbed.skewClock(host, 0) },
  ),
  control('control worker killed', controlKilled('worker')),
  control('control worker frozen', controlFrozen('worker')),
  control('Temporal killed', controlKilled('temporal')),
  control('Temporal frozen', controlFrozen('temporal')),
  control('PostgreSQL killed', controlKilled('postgres')),
  control('PostgreSQL frozen', controlFrozen('postgres')),
];
