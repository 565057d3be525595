/** The workflows, by the names under which clients start them (`Workflows` in contract.ts). */
export { addImage } from './add-image.ts';
export { clearUp } from './clear-up.ts';
export { deleteImage } from './delete-image.ts';
export { deleteInstance } from './delete-instance.ts';
export { deletePackage } from './delete-package.ts';
export { discardCopy } from './discard-copy.ts';
export { inspect } from './inspect.ts';
export { migrate } from './migrate.ts';
export { addNode, describeNode } from './nodes.ts';
export { pull } from './pull.ts';
export { repair } from './repair.ts';
export { restore } from './restore.ts';
export { save } from './save.ts';
export { scrub, scrubHost } from './scrub.ts';
export { spawn } from './spawn.ts';
export { start } from './start.ts';
export { tellFence } from './tell-fence.ts';
export { verifyPackage } from './verify-package.ts';
