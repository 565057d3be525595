/**
 * How well hosts reach each other and Temporal. What a link is like is remembered in the testbed's state and made so at
 * the bridge between the hosts, so it outlives a power loss of a host.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { VmferryError } from '../../workflows/failures.ts';
import { ALL, bitsPerSecond, loseFrames, plugLink, shapeLink, TEMPORAL, type Loss } from './network.ts';
import type { Process } from './processes.ts';
import type { State } from './state.ts';

export interface CutOptions {
  /** Only what the host sends is lost, or only what it would receive. Without it, both. */
  way?: 'send' | 'receive';
  /** From one other party alone: a host, or `temporal`. Without it, from all. */
  from?: string;
}

export interface FlapOptions {
  /** How often the link goes away. */
  cycles: number;
  /** Milliseconds. */
  down: number;
  up: number;
}

type LinkState = Pick<State, 'links' | 'losses' | 'slowPairs'>;

export interface LinkSettings {
  state: () => LinkState;
  save: (change: Partial<LinkState>) => Promise<void>;
  /** The process in whose network namespace the bridge is. */
  wan: () => Process;
  /** PID 1 of a host; null while it is off. Throws HostNotFound. */
  init: (host: string) => Process | null;
  address: (host: string) => string;
}

export class Links {
  readonly #settings: LinkSettings;

  constructor(settings: LinkSettings) {
    this.#settings = settings;
  }

  /** Limits a link, or what goes between two hosts. */
  async rate(host: string, rate: string, other?: string): Promise<void> {
    const { init, save } = this.#settings;
    init(host);
    bitsPerSecond(rate);
    if (other === undefined) {
      await save({ links: { ...this.#state.links, [host]: { ...this.#link(host), rate } } });
      return this.shape(host);
    }
    init(other);
    const others = this.#state.slowPairs.filter(({ hosts }) => !(hosts.includes(host) && hosts.includes(other)));
    await save({ slowPairs: rate === 'none' ? others : [...others, { hosts: [host, other], rate }] });
    await this.shape(host);
    await this.shape(other);
  }

  /** Pulls a cable, or loses frames. */
  async cut(host: string, { way, from }: CutOptions): Promise<void> {
    this.#settings.init(host);
    if (way === undefined && from === undefined) return this.#plug(host, true);
    if (from !== undefined && from !== TEMPORAL) this.#settings.init(from);
    if (from === host) throw new VmferryError('InvalidInput', `${host} cannot be cut off from itself`);
    const other = from ?? ALL;
    const cuts: Loss[] = [
      ...(way === 'receive' ? [] : [{ from: host, to: other }]),
      ...(way === 'send' ? [] : [{ from: other, to: host }]),
    ];
    await this.#lose([...this.#state.losses.filter((loss) => !cuts.some((cut) => same(cut, loss))), ...cuts]);
  }

  /** Undoes every cut of a host, or those between it and another party. */
  async join(host: string, from?: string): Promise<void> {
    this.#settings.init(host);
    const ended = (loss: Loss): boolean =>
      [loss.from, loss.to].includes(host) && (from === undefined || [loss.from, loss.to].includes(from));
    await this.#lose(this.#state.losses.filter((loss) => !ended(loss)));
    if (from === undefined) await this.#plug(host, false);
  }

  /** Loses all frames of a host again and again; the link is joined at the end. */
  async flap(host: string, { cycles, down, up }: FlapOptions): Promise<void> {
    const { init, wan } = this.#settings;
    init(host);
    const all: Loss[] = [
      { from: host, to: ALL },
      { from: ALL, to: host },
    ];
    try {
      for (let cycle = 0; cycle < cycles; cycle++) {
        await loseFrames(wan(), [...this.#state.losses, ...all]);
        await sleep(down);
        await loseFrames(wan(), this.#state.losses);
        await sleep(up);
      }
    } finally {
      await this.join(host);
    }
  }

  /** Makes the link of a host that has booted what it was. */
  async restore(host: string): Promise<void> {
    await this.shape(host);
    if (this.#link(host).cut) await this.#plug(host, true);
  }

  /** Sets the rates of a host's link; it has none while the host is off. */
  async shape(host: string): Promise<void> {
    const { init, wan, address } = this.#settings;
    const process = init(host);
    if (!process) return;
    const from = this.#state.slowPairs
      .filter(({ hosts }) => hosts.includes(host))
      .map(({ hosts, rate }) => ({ address: address(hosts.find((end) => end !== host) ?? host), rate }));
    await shapeLink(wan(), host, process, { rate: this.#link(host).rate, from });
  }

  /** Undoes all of it, a flap that was interrupted as well. Answers what it was. */
  async heal(): Promise<string[]> {
    const { links, losses, slowPairs } = this.#state;
    const healed = [
      ...Object.entries(links).flatMap(([host, { rate, cut }]) => [
        ...(cut ? [`plugged in the cable of ${host}`] : []),
        ...(rate === 'none' ? [] : [`freed the link of ${host} from ${rate}`]),
      ]),
      ...losses.map(({ from, to }) => `joined ${from === ALL ? 'all' : from} to ${to === ALL ? 'all' : to}`),
      ...slowPairs.map(({ hosts, rate }) => `freed what goes between ${hosts.join(' and ')} from ${rate}`),
    ];
    await this.#settings.save({ links: {}, losses: [], slowPairs: [] });
    await loseFrames(this.#settings.wan(), []);
    for (const host of new Set([...Object.keys(links), ...slowPairs.flatMap(({ hosts }) => hosts)])) {
      await this.shape(host);
      if (links[host]?.cut === true) await this.#plug(host, false);
    }
    return healed;
  }

  async #plug(host: string, cut: boolean): Promise<void> {
    const { init, save, wan } = this.#settings;
    await save({ links: { ...this.#state.links, [host]: { ...this.#link(host), cut } } });
    const process = init(host);
    if (process) await plugLink(wan(), host, process, cut);
  }

  async #lose(losses: Loss[]): Promise<void> {
    await this.#settings.save({ losses });
    await loseFrames(this.#settings.wan(), losses);
  }

  #link(host: string): { rate: string; cut: boolean } {
    return this.#state.links[host] ?? { rate: 'none', cut: false };
  }

  get #state(): LinkState {
    return this.#settings.state();
  }
}

const same = (one: Loss, other: Loss): boolean => one.from === other.from && one.to === other.to;
