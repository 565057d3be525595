/** What every implementation of the guest network port does. */
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import type { GuestNetwork } from '../../activities/network/guest-network.ts';
import { VmferryError } from '../../workflows/failures.ts';

export interface GuestNetworkHarness {
  network: GuestNetwork;
  close(): Promise<void>;
}

const ONE = '11111111-1111-4111-8111-111111111111';
const TWO = '22222222-2222-4222-8222-222222222222';
const address = (n: number): { ip: string; mac: string } => ({ ip: `10.77.1.${n}`, mac: `52:54:00:00:01:0${n}` });
const isType = (type: string) => (error: unknown) => error instanceof VmferryError && error.type === type;

export function guestNetworkContract(name: string, openHarness: () => Promise<GuestNetworkHarness>): void {
  describe(`The guest network on ${name}`, () => {
    let harness: GuestNetworkHarness;
    let network: GuestNetwork;
    before(async () => {
      harness = await openHarness();
      ({ network } = harness);
      await network.ensure();
    });
    after(() => harness.close());

    test('gives every instance a tap name of its own that Linux accepts', () => {
      assert.match(network.tapName(ONE), /^vf[0-9a-f]{12}$/);
      assert.equal(network.tapName(ONE), network.tapName(ONE));
      assert.notEqual(network.tapName(ONE), network.tapName(TWO));
    });

    test('admits an instance, again, and with another address in place of the first', async () => {
      await network.admit(ONE, 'one', address(1));
      await network.admit(ONE, 'one', address(1));
      assert.deepEqual(await network.admitted(), [{ instanceId: ONE, name: 'one', address: address(1) }]);
      await network.admit(ONE, 'one', address(2));
      assert.deepEqual(await network.admitted(), [{ instanceId: ONE, name: 'one', address: address(2) }]);
    });

    test('gives one address to one instance at a time', async () => {
      await assert.rejects(network.admit(TWO, 'two', { ...address(2), ip: '10.77.1.9' }), isType('AlreadyExists'));
      await assert.rejects(network.admit(TWO, 'two', { ...address(3), ip: '10.77.1.2' }), isType('AlreadyExists'));
      await network.admit(TWO, 'two', address(1));
      assert.equal((await network.admitted()).length, 2);
    });

    test('refuses what is no address', async () => {
      await assert.rejects(network.admit(ONE, 'one', { ...address(5), ip: '10.77.1.5; drop' }), isType('InvalidInput'));
      await assert.rejects(network.admit(ONE, 'one', { ...address(5), mac: '52:54:00' }), isType('InvalidInput'));
    });

    test('is not harmed by doing it again, at once and for unknown instances', async () => {
      await Promise.all([network.ensure(), network.admit(TWO, 'two', address(1)), network.ensure()]);
      await network.expel('33333333-3333-4333-8333-333333333333');
      assert.equal((await network.admitted()).length, 2);
    });

    test('expels an instance, and again', async () => {
      await network.expel(ONE);
      await network.expel(ONE);
      assert.deepEqual(await network.admitted(), [{ instanceId: TWO, name: 'two', address: address(1) }]);
      await network.admit(ONE, 'one', address(2));
      await network.expel(ONE);
      await network.expel(TWO);
      assert.deepEqual(await network.admitted(), []);
    });
  });
}
