/** Brings a testbed back into full service, whatever faults were injected and however they add up. */
import type { Control, ControlDaemon } from './control.ts';
import type { Host, HostDaemon } from './host.ts';
import type { Links } from './links.ts';
import { frozen, thaw, type Process } from './processes.ts';
import type { Testbed } from './testbed.ts';
import { together } from './together.ts';

export interface Parts {
  hosts: Host[];
  /** Null for bare hosts. */
  control: Control | null;
  links: Links;
}

/** Answers what it did, one sentence each. Idempotent. */
export async function heal(testbed: Testbed, { hosts, control, links }: Parts): Promise<string[]> {
  const did: string[] = [];
  const act = async (what: string, action: () => Promise<unknown>): Promise<void> => {
    await action();
    did.push(what);
  };
  const unfreeze = async (name: string, processes: () => Process[]): Promise<void> => {
    if (processes().some(frozen)) await act(`thawed ${name}`, () => thaw(processes));
  };

  // First what holds others up: nothing starts, ends or answers while it is frozen or out of reach.
  for (const host of hosts) await unfreeze(host.name, () => host.processes());
  for (const what of CONTROL) if (control) await unfreeze(`control ${what}`, () => control.family(what));
  did.push(...(await links.heal()));

  const startControl = async (what: ControlDaemon): Promise<void> => {
    if (control && !control.daemon(what)) await act(`started control ${what}`, () => control.start(what));
  };
  await together([startControl('temporal'), startControl('postgres')]);
  await together([startControl('worker'), ...hosts.map(healHost)]);
  return did;

  async function healHost(host: Host): Promise<void> {
    const { name } = host;
    if (!host.init) await act(`booted ${name}`, () => testbed.start(name, 'host'));
    else await host.disk.show(host.init);
    if (host.diskState !== 'normal') await act(`repaired the disk of ${name}`, () => testbed.readWrite(name));
    if (await host.freeDisk()) did.push(`freed the disk of ${name}`);
    if (host.clock !== 0) await act(`set the clock of ${name} right`, () => testbed.skewClock(name, 0));
    if (host.daemon('second-worker')) did.push(`ended the second worker of ${name}`);
    await host.endSecondWorker(); // what sends connections to it may outlive it
    const start = async (what: HostDaemon, action: () => Promise<void>): Promise<void> => {
      if (!host.daemon(what)) await act(`started ${name} ${what}`, action);
    };
    await start('virtlogd', () => host.startLibvirt());
    await start('libvirtd', () => host.startLibvirt());
    if (control) await start('worker', () => host.startWorker());
  }
}

const CONTROL: ControlDaemon[] = ['temporal', 'postgres', 'worker'];
