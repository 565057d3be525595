/**
 * Any error → one sentence, what to try next, an exit code. What comes back from a workflow is a chain of Temporal's
 * wrappers around the failure that some step threw on purpose; people are shown that one. Temporal's classes are
 * told by their names here, so that a failing command line need not load the SDK to say so.
 */
import { EXIT, FAILURES, isFailureType, VmferryError } from '../workflows/failures.ts';
import type { FailureType } from '../workflows/failures.ts';

/** What the user is told; the fields of the JSON error object. */
export interface Explanation {
  type: FailureType | 'Interrupted';
  /** One sentence: what failed, on which object. */
  message: string;
  /** The next thing to try; empty when there is nothing to add. */
  advice: string;
  exit: number;
}

/** The user pressed Ctrl-C. The message says what goes on without the terminal. */
export class Interrupted extends Error {
  override readonly name = 'Interrupted';
}

/** Longest chain of causes that is followed; guards against a cycle. */
const MAX_DEPTH = 20;

/** The error and its causes, outermost first. */
export function causes(error: unknown): Error[] {
  const chain: Error[] = [];
  let current = error;
  while (current instanceof Error && chain.length < MAX_DEPTH && !chain.includes(current)) {
    chain.push(current);
    current = current.cause;
  }
  return chain;
}

function explained(type: FailureType, message: string): Explanation {
  return { type, message: sentence(message), advice: FAILURES[type].advice, exit: FAILURES[type].exit };
}

/** One line that ends like a sentence. */
function sentence(text: string): string {
  const line = text.replaceAll(/\s+/g, ' ').trim();
  return /[.!?]$/.test(line) ? line : `${line}.`;
}

/** The failure that vmferry's own code named, if there is one in the chain. */
function ownFailure(chain: Error[]): Explanation | undefined {
  for (const error of chain) {
    if (error instanceof VmferryError) return explained(error.type, error.message);
    if (error.name === 'ApplicationFailure' && 'type' in error && isFailureType(error.type)) {
      return explained(error.type, error.message);
    }
  }
  return undefined;
}

/** What Temporal itself says about how a workflow ended, outermost first. */
function temporalFailure(chain: Error[]): Explanation | undefined {
  for (const error of chain) {
    switch (error.name) {
      case 'WorkflowExecutionAlreadyStartedError':
        return explained('InstanceBusy', 'Another operation runs on the same object');
      case 'WorkflowNotFoundError':
        return explained('MoveNotFound', 'Temporal knows no such operation, or has forgotten it by now');
      case 'CancelledFailure':
        return explained('Cancelled', 'The operation was cancelled');
      case 'TerminatedFailure':
        return explained('Cancelled', 'The operation was terminated in Temporal');
      case 'TimeoutFailure':
        return explained('HostUnreachable', 'A worker did not answer in time');
      default:
    }
  }
  return undefined;
}

/**
 * @param error whatever a command threw
 */
export function explain(error: unknown): Explanation {
  if (error instanceof Interrupted) {
    return { type: 'Interrupted', message: sentence(error.message), advice: '', exit: EXIT.interrupted };
  }
  const chain = causes(error);
  const innermost = chain.at(-1);
  return (
    ownFailure(chain) ??
    temporalFailure(chain) ??
    explained('Internal', innermost === undefined ? String(error) : innermost.message || innermost.name)
  );
}

/** Whole chain with stacks, for VMFERRY_DEBUG only. */
export function trace(error: unknown): string {
  return causes(error)
    .map((cause, depth) => `${depth === 0 ? '' : 'caused by '}${cause.stack ?? String(cause)}`)
    .join('\n');
}
