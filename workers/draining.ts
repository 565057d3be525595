/**
 * What a worker does when it is told to stop. It takes nothing new; running steps have a while to end. Those that do not are
 * told to hand over: each stops where the next attempt finds what it needs, and undoes nothing. No VM is touched: QEMU and
 * libvirt go on without us.
 */
import { Context } from '@temporalio/activity';
import {
  GracefulShutdownPeriodExpiredError,
  type ActivityInboundCallsInterceptor,
  type Worker,
  type WorkerOptions,
} from '@temporalio/worker';
import { log } from './temporal.ts';

interface Step {
  step: string;
  instanceId?: string;
  moveId?: string;
  attempt: number;
}

export class Draining {
  readonly #running = new Set<Step>();
  readonly #stopSeconds: number;
  #handedOver = 0;
  #told = false;

  constructor(stopSeconds: number) {
    this.#stopSeconds = stopSeconds;
  }

  get options(): Pick<WorkerOptions, 'shutdownGraceTime' | 'shutdownForceTime'> {
    const millis = this.#stopSeconds * 1000;
    return { shutdownGraceTime: millis, shutdownForceTime: 2 * millis };
  }

  /** The outermost of all: knows which steps run. */
  readonly interceptor: ActivityInboundCallsInterceptor = {
    execute: async (input, next) => {
      const { activityType: step, attempt } = Context.current().info;
      const [subject] = input.args as [{ instanceId?: string; moveId?: string }?];
      const { instanceId, moveId } = subject ?? {};
      const running: Step = { step, ...(instanceId && { instanceId }), ...(moveId && { moveId }), attempt };
      this.#running.add(running);
      try {
        return await next(input);
      } finally {
        this.#running.delete(running);
        this.#ended(running);
      }
    },
  };

  /** Until the worker has ended; does not fail when steps had to be left behind. */
  async run(worker: Worker): Promise<void> {
    for (const signal of ['SIGTERM', 'SIGINT'] as const) process.on(signal, () => this.#begin(signal));
    try {
      await worker.run();
    } catch (error) {
      if (!(error instanceof GracefulShutdownPeriodExpiredError)) throw error;
      for (const step of this.#running) log('WARN', 'left behind: its next attempt looks at what became of it', step);
    }
    log('INFO', 'stopped', { handedOver: this.#handedOver, leftBehind: this.#running.size });
  }

  #begin(signal: string): void {
    if (this.#told) return;
    this.#told = true;
    log('INFO', `${signal}: running steps have ${this.#stopSeconds} s to end`, { running: [...this.#running] });
  }

  #ended(step: Step): void {
    if (!this.#told) return;
    const handedOver = Context.current().cancellationDetails?.workerShutdown === true;
    if (handedOver) this.#handedOver++;
    log('INFO', handedOver ? 'handed over to the next attempt' : 'ended while the worker stops', step);
  }
}
