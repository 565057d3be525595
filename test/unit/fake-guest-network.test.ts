import { guestNetworkContract } from '../contracts/guest-network.ts';
import { FakeGuestNetwork } from '../fakes/guest-network.ts';

guestNetworkContract('the fake', () =>
  Promise.resolve({ network: new FakeGuestNetwork(), close: () => Promise.resolve() }),
);
