/**
 * Where a move can be struck: before, inside and after each activity that it calls. Derived from the table of marks, so a
 * mark that is added to a step is struck too.
 */
import { MARKS } from '../../activities/marks.ts';

/** Whose worker runs the activity. */
export type Place = 'source' | 'destination' | 'control';

/** What is true of the guest at a point, from which follows what a fault may do to it. */
export const PHASES = ['running', 'suspended', 'saved', 'restored', 'released', 'moved', 'returned'] as const;
export type Phase = (typeof PHASES)[number];

export interface Point {
  /** As in the fault-point file: `saveInstance.suspended`. */
  name: string;
  activity: string;
  place: Place;
  phase: Phase;
  /** The move comes here only because the operator asks for its return. */
  wayBack: boolean;
}

/** In the order in which a move calls them. `phases`: at `before`, at each mark, at `after`. */
const ACTIVITIES: readonly { activity: string; place: Place; phases: readonly Phase[]; wayBack?: true }[] = [
  { activity: 'planMove', place: 'control', phases: ['running', 'running'] },
  { activity: 'preflightSource', place: 'source', phases: ['running', 'running'] },
  { activity: 'preflightDestination', place: 'destination', phases: ['running', 'running', 'running'] },
  { activity: 'reserveMove', place: 'control', phases: ['running', 'running'] },
  { activity: 'reserve', place: 'destination', phases: ['running', 'running', 'running'] },
  { activity: 'announceMove', place: 'source', phases: ['running', 'running'] },
  { activity: 'saveInstance', place: 'source', phases: ['running', 'running', 'suspended', 'saved', 'saved'] },
  { activity: 'rebaseOverlay', place: 'source', phases: ['saved', 'saved', 'saved'] },
  { activity: 'buildPackage', place: 'source', phases: ['saved', 'saved', 'saved'] },
  { activity: 'encryptPackage', place: 'source', phases: ['saved', 'saved', 'saved'] },
  { activity: 'transferPackage', place: 'destination', phases: ['saved', 'saved', 'saved'] },
  { activity: 'openPackage', place: 'destination', phases: ['saved', 'saved', 'saved'] },
  { activity: 'rewriteXml', place: 'destination', phases: ['saved', 'saved', 'saved'] },
  { activity: 'restoreInstance', place: 'destination', phases: ['saved', 'saved', 'restored', 'restored'] },
  { activity: 'releaseInstance', place: 'source', phases: ['restored', 'released', 'released'] },
  { activity: 'resumeInstance', place: 'destination', phases: ['released', 'released', 'released', 'moved'] },
  { activity: 'settleMove', place: 'source', phases: ['moved', 'moved', 'moved'] },
  { activity: 'settleMove', place: 'destination', phases: ['moved', 'moved', 'moved'] },
  { activity: 'closeMove', place: 'control', phases: ['moved', 'moved'] },
  { activity: 'returnInstance', place: 'source', phases: ['saved', 'returned', 'returned'], wayBack: true },
  { activity: 'discardCopy', place: 'destination', phases: ['returned', 'returned', 'returned'], wayBack: true },
];

/** The steps of a move and of its way back, in order; the columns of the result table. */
export const STRUCK_ACTIVITIES = [...new Set(ACTIVITIES.map(({ activity }) => activity))];

export const POINTS: readonly Point[] = ACTIVITIES.flatMap(({ activity, place, phases, wayBack = false }) => {
  const marks: readonly string[] = Object.hasOwn(MARKS, activity) ? MARKS[activity as keyof typeof MARKS] : [];
  const names = ['before', ...marks, 'after'];
  if (names.length !== phases.length)
    throw new Error(`${activity} has ${names.length} points, ${phases.length} phases`);
  return names.map((point, index) => ({
    name: `${activity}.${point}`,
    activity,
    place,
    phase: phases[index] ?? 'running',
    wayBack,
  }));
});
