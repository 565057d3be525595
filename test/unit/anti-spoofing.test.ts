import { test } from 'node:test';
import { renderRules } from '../../activities/network/anti-spoofing.ts';
import { assertGolden } from '../support/golden.ts';

test('The rules bind each tap to its MAC and address, and drop what comes from any other tap of ours', () => {
  assertGolden(
    'anti-spoofing.nft',
    renderRules('vmferry', [
      {
        instanceId: '11111111-1111-4111-8111-111111111111',
        address: { ip: '10.77.0.5', mac: '52:54:00:77:00:05' },
      },
      {
        instanceId: '22222222-2222-4222-8222-222222222222',
        address: { ip: '10.77.0.6', mac: '52:54:00:77:00:06' },
      },
    ]),
  );
});

test('Without guests the rules still drop what comes from our taps', () => {
  assertGolden('anti-spoofing-empty.nft', renderRules('vmferry', []));
});
