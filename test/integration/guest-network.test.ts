import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import { after, before, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { run } from '../../activities/exec/run.ts';
import type { GuestNetwork } from '../../activities/network/guest-network.ts';
import { createGuestNetwork } from '../../activities/network/libvirt-guest-network.ts';
import { Layout } from '../../activities/records/layout.ts';
import { guestNetworkContract } from '../contracts/guest-network.ts';
import { GATEWAY, METADATA, NamespaceGuest } from '../support/namespace-guest.ts';
import { inSimulatedHost } from '../support/in-host.ts';

const URI = 'qemu:///system';

inSimulatedHost('The guest network holds on libvirt and nftables in a simulated host', import.meta.url, () => {
  guestNetworkContract('libvirt and nftables', async () => {
    const folder = await mkdtemp('/var/lib/vmferry/network-');
    return {
      network: createGuestNetwork({ uri: URI, layout: new Layout(folder) }),
      close: () => rm(folder, { recursive: true }),
    };
  });

  describe('A guest on the bridge', () => {
    let folder: string;
    let network: GuestNetwork;
    const one = new NamespaceGuest('11111111-1111-4111-8111-111111111111', {
      ip: '10.77.0.5',
      mac: '52:54:00:77:00:05',
    });
    const two = new NamespaceGuest('22222222-2222-4222-8222-222222222222', {
      ip: '10.77.0.6',
      mac: '52:54:00:77:00:06',
    });
    const stranger = new NamespaceGuest('33333333-3333-4333-8333-333333333333', {
      ip: '10.77.0.7',
      mac: '52:54:00:77:00:07',
    });
    before(async () => {
      folder = await mkdtemp('/var/lib/vmferry/network-');
      network = createGuestNetwork({ uri: URI, layout: new Layout(folder) });
      await network.ensure();
      for (const guest of [one, two, stranger]) await guest.plug();
      for (const { id, address } of [one, two]) await network.admit(id, `guest-${address.ip.slice(-1)}`, address);
    });
    after(async () => {
      for (const guest of [one, two, stranger]) await guest.unplug();
      await rm(folder, { recursive: true });
    });

    test('gets its address by DHCP, again after others came and went', async () => {
      assert.equal(await one.dhcp(), one.address.ip);
      await network.expel(two.id);
      await network.expel(one.id);
      await network.admit(one.id, 'guest-5', one.address);
      await network.admit(two.id, 'guest-6', two.address);
      assert.equal(await one.dhcp(), one.address.ip);
      assert.equal(await stranger.dhcp(), null);
    });

    test('reaches gateway, metadata address and its neighbour under its own address', async () => {
      await one.is(one.address);
      await two.is(two.address);
      assert.equal(await one.reaches(GATEWAY), true);
      assert.equal(await one.reaches(METADATA), true);
      assert.equal(await one.reaches(two.address.ip), true);
    });

    test('reaches nothing under another address, its neighbour’s least of all', async () => {
      for (const ip of ['10.77.0.66', two.address.ip, stranger.address.ip]) {
        await one.is({ ...one.address, ip });
        assert.equal(await one.reaches(GATEWAY), false, ip);
        assert.equal(await one.reaches(METADATA), false, ip);
      }
    });

    test('reaches nothing with another MAC', async () => {
      await one.is({ ...one.address, mac: '52:54:00:77:00:66' });
      assert.equal(await one.reaches(GATEWAY), false);
      await one.is(two.address);
      assert.equal(await one.reaches(GATEWAY), false);
      assert.equal(await one.dhcp(), null);
    });

    /** Does two believe an answer of one that nobody asked for: the gateway’s address is here? */
    const arpSpoofed = async (): Promise<boolean> => {
      await one.is(one.address);
      await two.is(two.address);
      assert.equal(await two.reaches(GATEWAY), true);
      await sleep(1200); // Linux believes the first answer for a second
      await one.run('ip', 'address', 'add', `${GATEWAY}/32`, 'dev', 'eth0');
      await one.run('busybox', 'arping', '-q', '-A', '-c', '2', '-I', 'eth0', GATEWAY);
      const { stdout } = await two.run('ip', 'neighbour', 'show', GATEWAY);
      return stdout.includes(one.address.mac);
    };
    const speakIPv6 = async (): Promise<boolean> => {
      for (const guest of [one, two]) {
        await guest.run('ip', '-6', 'address', 'add', `fd00::${guest.address.ip.slice(-1)}/64`, 'dev', 'eth0', 'nodad');
      }
      return one.reaches(`fd00::${two.address.ip.slice(-1)}`);
    };

    test('cannot claim another’s address by ARP, nor speak IPv6', async () => {
      assert.equal(await arpSpoofed(), false);
      assert.equal(await speakIPv6(), false);
      await one.is(one.address);
      assert.equal(await one.reaches(two.address.ip), true);
    });

    test('is mute on a tap that no instance is admitted with', async () => {
      await stranger.is(stranger.address);
      assert.equal(await stranger.reaches(GATEWAY), false);
      await stranger.is(one.address);
      assert.equal(await stranger.reaches(GATEWAY), false);
    });

    test('is bound again after the rules were lost with the host’s power', async () => {
      await run('nft', ['delete', 'table', 'bridge', 'vmferry']);
      await stranger.is(stranger.address);
      // Without rules there is no protection, so the tests above show what the rules do.
      assert.equal(await stranger.reaches(GATEWAY), true);
      assert.equal(await arpSpoofed(), true);
      assert.equal(await speakIPv6(), true);
      await createGuestNetwork({ uri: URI, layout: new Layout(folder) }).ensure();
      assert.equal(await stranger.reaches(GATEWAY), false);
      await one.is(one.address);
      assert.equal(await one.reaches(GATEWAY), true);
    });

    test('is cut off when its instance is expelled', async () => {
      for (const guest of [one, two]) await guest.is(guest.address);
      assert.equal(await one.reaches(GATEWAY), true);
      await network.expel(one.id);
      assert.equal(await one.reaches(GATEWAY), false);
      assert.equal(await two.reaches(GATEWAY), true);
    });
  });
});
