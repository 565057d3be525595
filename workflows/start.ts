import type { Host, HostId, MoveRef, StartInput, StartResult } from './contract.ts';
import { failure } from './failing.ts';
import type { HostReport, InstanceReport } from './findings.ts';
import { onControl, onHost } from './options.ts';
import { reportsOf } from './reports.ts';
import { tell } from './tell.ts';

/** What one host says of the instance. */
type Account = InstanceReport & { host: HostId };

/** Where the instance runs now, and what the move that had stopped it left there. */
type Running = Pick<StartResult, 'host' | 'generation' | 'how'> & {
  left: { host: HostId; move: MoveRef; outcome: 'moved' | 'returned' }[];
};

/**
 * Runs an instance that is down or paused: after a power loss, a save, or a move whose workflow was terminated. The hosts are
 * asked which of them owns it, and only that one is told; its own ledger decides. A host to which it was released, and which
 * never heard of that, is given the release.
 */
export async function start({ instanceId }: StartInput): Promise<StartResult> {
  const { instance } = await onControl({ summary: 'What is it called?' }).findInstance({ instanceId });
  const { name } = instance;
  tell(`Starts **${name}** at the host that owns it.`, { instance: instanceId });
  const { hosts } = await onControl({ summary: 'Which hosts are there?' }).beginInspection();
  const { reports, silent } = await reportsOf(hosts, { instanceId, mend: false, absent: [] });
  const busy = reports.find((report) => report.busy.includes(instanceId));
  if (busy) throw failure('InstanceBusy', `A step of ${name} is at work on ${busy.host}`);

  const unclear = (why: string): Error => failure('OwnershipUnclear', `It is not clear who may run ${name}: ${why}`);
  const accounts = reports.flatMap(accountsOf);
  const owners = accounts.filter(({ owned }) => owned !== null);
  if (owners.length > 1) throw unclear(owners.map(claim).sort().join(', '));
  const [owner] = owners;
  const nobody = (): never => {
    throw unclear(
      silent.length > 0 ? `${silent.map(({ host }) => host).join(', ')} did not answer` : 'no host owns it',
    );
  };
  if (owner && (owner.owned?.generation ?? 0) < instance.generation) {
    throw unclear(`${claim(owner)}, and ${instance.host} was seen to own generation ${instance.generation}`);
  }
  const { host, generation, how, left } = owner
    ? await runAtOwner(owner, name)
    : await handOver(heirOf(accounts) ?? nobody(), name, hosts);
  const follow = onControl({ summary: `${name} runs on ${host}`, patience: 'for ever' });
  await follow.followOwner({ instanceId, host, generation, savedAs: null });
  for (const { host: at, move, outcome } of left) {
    const clear = onHost(at, { summary: `Remove what the move left on ${at}` });
    await clear.settleMove({ ...move, role: 'source', outcome });
  }
  return { instanceId, host, generation, how };
}

const accountsOf = ({ host, instances }: HostReport): Account[] => instances.map((one) => ({ host, ...one }));

const claim = ({ host, owned }: Account): string => `${host} says that it owns generation ${owned?.generation}`;

async function runAtOwner({ host, instanceId }: Account, name: string): Promise<Running> {
  const { generation, how, move } = await onHost(host, { summary: `Run ${name}` }).startInstance({ instanceId });
  return { host, generation, how, left: move ? [{ host, move, outcome: 'returned' }] : [] };
}

interface Heir {
  account: Account | null;
  to: HostId;
  from: Account;
}

/** Whom the newest release names; a fence that came after it makes it void. */
function heirOf(accounts: Account[]): Heir | null {
  const [from] = accounts
    .filter(({ decided }) => decided?.kind === 'release' || decided?.kind === 'fence')
    .sort((a, b) => (b.decided?.generation ?? 0) - (a.decided?.generation ?? 0));
  const to = from?.decided?.to;
  if (!to || from.decided?.kind !== 'release') return null;
  return { from, to, account: accounts.find(({ host }) => host === to) ?? null };
}

async function handOver({ from, to, account }: Heir, name: string, hosts: readonly Host[]): Promise<Running> {
  const source = hosts.find(({ id }) => id === from.host);
  if (!source) throw failure('HostNotFound', `${from.host} released ${name} and is not in the pool`);
  const { instanceId } = from;
  const asked = onHost(from.host, { summary: `How was ${name} released?` });
  const { release, packageId, generation } = await asked.findRelease({ instanceId });
  // The folder that the move has made there may still hold what was restored.
  const moveId = account?.reserved?.generation === generation ? account.reserved.moveId : packageId;
  const move: MoveRef = { moveId, instanceId, packageId, generation };
  const told = onHost(to, { summary: `${name} is yours: run it` });
  await told.resumeInstance({ ...move, release, source: source.record });
  return {
    ...{ host: to, generation, how: 'restored' },
    left: [
      { host: to, move, outcome: 'returned' },
      { host: from.host, move, outcome: 'moved' },
    ],
  };
}
