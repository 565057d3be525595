import { run } from '../../activities/exec/run.ts';
import { tapName } from '../../activities/network/anti-spoofing.ts';
import type { Address } from '../../workflows/contract.ts';

export const GATEWAY = '10.77.0.1';
export const METADATA = '169.254.169.254';

/** A network namespace in the place of a guest: its end of a veth pair is `eth0`, the bridge's is named as a tap. */
export class NamespaceGuest {
  readonly id: string;
  readonly address: Address;

  constructor(id: string, address: Address) {
    this.id = id;
    this.address = address;
  }

  get #name(): string {
    return `guest-${this.id.slice(0, 4)}`;
  }

  async plug(): Promise<void> {
    const tap = tapName(this.id);
    await run('ip', ['netns', 'add', this.#name]);
    await run('ip', ['link', 'add', tap, 'type', 'veth', 'peer', 'name', 'eth0', 'netns', this.#name]);
    await run('ip', ['link', 'set', tap, 'master', 'guests', 'up']);
    await this.is(this.address);
  }

  async unplug(): Promise<void> {
    await run('ip', ['netns', 'delete', this.#name]);
  }

  run(...command: string[]): ReturnType<typeof run> {
    return run('ip', ['netns', 'exec', this.#name, ...command], { okExitCodes: [0, 1, 2] });
  }

  async is({ ip, mac }: Address): Promise<void> {
    await this.run('ip', 'link', 'set', 'eth0', 'down');
    await this.run('ip', 'address', 'flush', 'dev', 'eth0');
    await this.run('ip', 'link', 'set', 'eth0', 'address', mac, 'up');
    await this.run('ip', 'address', 'add', `${ip}/16`, 'dev', 'eth0');
    await this.run('ip', 'route', 'replace', METADATA, 'via', GATEWAY);
  }

  async reaches(ip: string): Promise<boolean> {
    return (await this.run('busybox', 'ping', '-q', '-c', '2', '-i', '0.2', '-W', '1', ip)).exitCode === 0;
  }

  /** The address that a DHCP server offers, or null. */
  async dhcp(): Promise<string | null> {
    const { stdout, stderr } = await this.run(
      ...['busybox', 'udhcpc', '-i', 'eth0', '-n', '-q', '-f', '-t', '3', '-T', '1', '-s', '/bin/true'],
    );
    return /lease of ([\d.]+) obtained/.exec(stdout + stderr)?.[1] ?? null;
  }
}
