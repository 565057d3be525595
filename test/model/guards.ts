/**
 * For each guard of the model the configuration in which leaving it out is noticed, and the invariant that TLC then finds
 * violated first. The search is breadth-first and by one worker, so it is always the same one.
 */
export type Invariant = 'OneRuns' | 'NothingLost' | 'CopyLives' | 'ChainHeld' | 'NeverForks' | 'NoDeadEnd';
export type Config = 'TwoHosts' | 'ThreeHosts' | 'Fence' | 'FenceTwice' | 'Recovery';

export const GUARDS: Record<string, readonly [Config, Invariant]> = {
  // At the source
  lock: ['TwoHosts', 'NothingLost'],
  'owner-only': ['TwoHosts', 'NothingLost'],
  'autostart-off': ['TwoHosts', 'NothingLost'],
  'suspend-first': ['TwoHosts', 'NothingLost'],
  'old-save-file-dropped': ['TwoHosts', 'NothingLost'],
  'dropped-beside-qemu': ['TwoHosts', 'CopyLives'],
  'saved-once': ['TwoHosts', 'CopyLives'],
  'unsealed-kept': ['TwoHosts', 'CopyLives'],
  'receipt-needed': ['TwoHosts', 'CopyLives'],
  'receipt-fits': ['TwoHosts', 'CopyLives'],
  'source-ran-on': ['TwoHosts', 'CopyLives'],
  'qemu-gone': ['TwoHosts', 'ChainHeld'],
  'disk-at-rest': ['TwoHosts', 'CopyLives'],
  'decided-once': ['TwoHosts', 'NeverForks'],
  'decided-before-run': ['TwoHosts', 'NothingLost'],
  'only-what-ran-taken-back': ['TwoHosts', 'NothingLost'],
  'return-looks-at-disk': ['TwoHosts', 'CopyLives'],
  'package-leads-back': ['Recovery', 'NoDeadEnd'],
  'spawned-once': ['TwoHosts', 'NothingLost'],
  // At the destination
  'digests-checked': ['TwoHosts', 'CopyLives'],
  'fresh-copy': ['TwoHosts', 'CopyLives'],
  'owner-not-overwritten': ['TwoHosts', 'CopyLives'],
  'owner-not-discarded': ['TwoHosts', 'CopyLives'],
  'receipt-after-restore': ['TwoHosts', 'CopyLives'],
  'release-needed': ['TwoHosts', 'ChainHeld'],
  'release-for-me': ['ThreeHosts', 'CopyLives'],
  // Wherever it runs
  'marked-before-run': ['TwoHosts', 'NothingLost'],
  'marked-beside-qemu': ['TwoHosts', 'NothingLost'],
  'has-run-obeyed': ['TwoHosts', 'NothingLost'],
  'stopped-stays-stopped': ['TwoHosts', 'NothingLost'],
  'records-durable': ['TwoHosts', 'NothingLost'],
  // Fences, and what the operator promises
  'fence-obeyed': ['Fence', 'ChainHeld'],
  'one-fence-per-generation': ['FenceTwice', 'ChainHeld'],
  'fenced-is-off': ['Fence', 'ChainHeld'],
  'told-before-it-comes-back': ['Fence', 'ChainHeld'],
};
