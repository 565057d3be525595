/** Which schedules are tried: mostly honest moves, far enough to have a history, with something going wrong at every turn. */
import fc from 'fast-check';
import { LOSSES } from '../../support/power-loss.ts';
import type { CourseSpec, Instruction, Schedule } from './campaign.ts';
import { HOSTILE_ACTIVITIES } from './hostile.ts';

const host = fc.nat(2);
const number = fc.nat(997);
const loss = fc.constantFrom(...LOSSES);

/** What goes wrong with one call. */
const course: fc.Arbitrary<CourseSpec> = fc.oneof(
  { weight: 12, arbitrary: fc.constant({}) },
  { weight: 3, arbitrary: fc.record({ die: number }) },
  { weight: 3, arbitrary: fc.record({ die: number, loss }) },
  { weight: 2, arbitrary: fc.record({ hold: fc.integer({ min: 1, max: 6 }) }) },
  { weight: 2, arbitrary: fc.constant({ unheard: true } as const) },
  {
    weight: 1,
    arbitrary: fc.record({
      save: fc.constantFrom('libvirtd dies as it writes', 'libvirtd dies as it ends QEMU', 'QEMU ends late'),
    }),
  },
);

const advance: fc.Arbitrary<Instruction> = course.map((spec) => ({ do: 'advance', ...spec }));
/** Straight on, so that schedules come to where it matters. */
const steady = fc.constant<Instruction>({ do: 'advance' });

const hostile: fc.Arbitrary<Instruction> = fc
  .record({
    // Those that decide something come more often than those that prepare.
    activity: fc.oneof(
      { weight: 2, arbitrary: fc.constantFrom(...HOSTILE_ACTIVITIES) },
      {
        weight: 3,
        arbitrary: fc.constantFrom(
          'returnInstance',
          'releaseInstance',
          'resumeInstance',
          'restoreInstance',
          'settleMove',
          'discardCopy',
          'saveInstance',
        ),
      },
    ),
    host,
    dice: fc.array(number, { minLength: 6, maxLength: 6 }),
    course,
  })
  .map(({ course: spec, ...call }) => ({ do: 'hostile', ...call, ...spec }));

const world: fc.Arbitrary<Instruction> = fc.oneof(
  { weight: 4, arbitrary: fc.record({ do: fc.constant('lose power'), host, loss }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('kill worker'), host }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('kill libvirtd'), host }) },
  { weight: 3, arbitrary: fc.record({ do: fc.constant('start libvirtd'), host }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('kill qemu'), host }) },
  {
    weight: 2,
    arbitrary: fc.record({ do: fc.constant('person'), host, act: fc.constantFrom('start', 'resume', 'suspend') }),
  },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('damage'), host }) },
  { weight: 2, arbitrary: fc.record({ do: fc.constant('wake'), pick: number }) },
);

const orders: fc.Arbitrary<Instruction> = fc.oneof(
  { weight: 3, arbitrary: fc.constant<Instruction>({ do: 'back' }) },
  { weight: 3, arbitrary: fc.record({ do: fc.constant('begin'), to: host }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('begin'), to: host, beside: fc.constant(true) }) },
  { weight: 2, arbitrary: fc.record({ do: fc.constant('elsewhere'), to: host }) },
);

const again: fc.Arbitrary<Instruction> = fc
  .record({ pick: number, spec: course })
  .map(({ pick, spec }) => ({ do: 'again', pick, ...spec }));

/** A few steps without trouble, then something. */
const stretch: fc.Arbitrary<Instruction[]> = fc
  .tuple(
    fc.array(steady, { maxLength: 7 }),
    fc.array(
      fc.oneof(
        { weight: 6, arbitrary: advance },
        { weight: 3, arbitrary: hostile },
        { weight: 2, arbitrary: world },
        { weight: 2, arbitrary: again },
        { weight: 1, arbitrary: orders },
      ),
      { minLength: 1, maxLength: 4 },
    ),
  )
  .map(([calm, trouble]) => [...calm, ...trouble]);

export const schedules = (hosts: 2 | 3): fc.Arbitrary<Schedule> =>
  fc
    .record(
      {
        autostart: fc.constant(true as const),
        bystander: fc.nat(12),
        finish: fc.constantFrom('on', 'back'),
        stretches: fc.array(stretch, { minLength: 1, maxLength: 9, size: 'max' }),
      },
      { requiredKeys: ['finish', 'stretches'] },
    )
    .map(({ stretches, ...rest }) => ({ hosts, ...rest, instructions: stretches.flat() }));
