/** What was ever said, and what a hostile orchestrator makes of it. */
import type { InstanceFacts, InstanceId, MoveRef, SignedText } from '../../../workflows/contract.ts';
import type { Call, JourneyOptions } from './journey.ts';
import type { ActivityName, Outcome, SimHost, World } from './world.ts';

/** Numbers decided beforehand, for choices among what there is by then. */
export class Dice {
  readonly #numbers: readonly number[];
  #next = 0;

  constructor(numbers: readonly number[]) {
    this.#numbers = numbers;
  }

  roll(sides: number): number {
    const number = this.#numbers[this.#next++ % this.#numbers.length] ?? 0;
    return number % sides;
  }
  /** The later, the likelier: what was said last is what matters most. */
  recent<T>(list: readonly T[]): T | undefined {
    const back = Math.min(this.roll(list.length || 1), this.roll(list.length || 1));
    return list[list.length - 1 - back];
  }
  pick<T>(list: readonly T[]): T {
    return list[this.roll(list.length)]!;
  }
}

/** All messages that there are. Any of them may be used again, anywhere. */
export class Knowledge {
  readonly refs: MoveRef[] = [];
  readonly calls: Call[] = [];
  readonly receipts: SignedText[] = [];
  readonly releases: SignedText[] = [];
  facts: InstanceFacts | null = null;

  asked(call: Call): void {
    this.calls.push(call);
  }

  heard(call: Call, outcome: Outcome): void {
    if (outcome.kind !== 'answered') return;
    const answer = outcome.value as { receipt?: SignedText; release?: SignedText } | undefined;
    if (call.activity === 'preflightSource') this.facts = outcome.value as InstanceFacts;
    remember(this.receipts, answer?.receipt);
    remember(this.releases, answer?.release);
  }
}

function remember(list: string[], text: string | undefined): void {
  if (text !== undefined && !list.includes(text)) list.push(text);
}

/** The activities that it tries, of those of the instance. Spawning and deleting are the pool's right, and no attack. */
export const HOSTILE_ACTIVITIES = [
  'preflightDestination',
  'reserve',
  'saveInstance',
  'rebaseOverlay',
  'buildPackage',
  'encryptPackage',
  'readdressPackage',
  'transferPackage',
  'pullPackage',
  'openPackage',
  'rewriteXml',
  'restoreInstance',
  'releaseInstance',
  'resumeInstance',
  'returnInstance',
  'discardCopy',
  'settleMove',
  'deletePackage',
  'verifyPackage',
  'startInstance',
  'inspectHost',
] as const satisfies ActivityName[];

/** One call about the instance, with whatever else in it. */
export function hostileCall(
  world: World,
  host: SimHost,
  activity: (typeof HOSTILE_ACTIVITIES)[number],
  about: Pick<JourneyOptions, 'name' | 'address' | 'imageId'> & { instanceId: InstanceId; ownedGeneration: number },
  known: Knowledge,
  dice: Dice,
): Call | null {
  const own = known.refs.filter(({ instanceId }) => instanceId === about.instanceId);
  const base = dice.recent(own);
  if (!base) return null;
  const other = dice.pick(known.refs);
  const ref: MoveRef = { ...base };
  // Mostly a true reference: everything else is refused at the door.
  const twist = dice.roll(8);
  if (twist === 0) ref.moveId = other.moveId;
  if (twist === 1) ref.packageId = other.packageId;
  if (twist === 2) ref.generation = Math.max(1, base.generation + dice.pick([-1, 1, 2]));
  if (twist >= 6) ref.generation = about.ownedGeneration + 1;
  const { packageId, instanceId } = ref;
  const record = dice.pick(world.hosts).signedRecord;
  const said = (texts: readonly SignedText[], otherwise: readonly SignedText[]): SignedText | undefined =>
    dice.pick([dice.recent(texts), dice.recent(texts), dice.recent(otherwise), base.moveId, undefined]);
  const input = (): object | null => {
    switch (activity) {
      case 'preflightDestination':
        return known.facts && { instanceId, facts: known.facts, imageId: about.imageId, source: record };
      case 'reserve':
        return { ...ref, name: about.name, address: about.address };
      case 'saveInstance':
      case 'rebaseOverlay':
      case 'restoreInstance':
      case 'returnInstance':
      case 'discardCopy':
        return ref;
      case 'buildPackage':
        return { ...ref, compressionLevel: 1 };
      case 'encryptPackage':
        return { ...ref, destination: dice.pick([record, record, null]) };
      case 'readdressPackage':
        return { packageId, instanceId, destination: record };
      case 'transferPackage':
      case 'openPackage':
        return { ...ref, source: record };
      case 'pullPackage':
        return { packageId, instanceId, generation: base.generation, source: record };
      case 'rewriteXml':
        return { ...ref, address: about.address };
      case 'releaseInstance':
        return { ...ref, receipt: said(known.receipts, known.releases), destination: record };
      case 'resumeInstance':
        return { ...ref, release: said(known.releases, known.receipts), source: record };
      case 'settleMove':
        return {
          ...{ ...ref, role: dice.pick(['source', 'destination']) },
          outcome: dice.pick(['moved', 'returned', 'saved']),
        };
      case 'startInstance':
        return { instanceId };
      case 'inspectHost':
        return { instanceId: dice.pick([instanceId, null]), mend: true };
      case 'deletePackage':
      case 'verifyPackage':
        // Those of others may be deleted too, but that is no mistake about this instance.
        return { packageId: base.packageId };
    }
  };
  const made = input();
  return made && { host, activity, input: made };
}
