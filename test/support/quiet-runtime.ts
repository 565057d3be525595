/** The runtime of Temporal's workers in tests: one for each process, and silent. */
import { DefaultLogger, Runtime } from '@temporalio/worker';

let installed = false;

/** Workers tell of every failed activity, and these tests fail thousands on purpose. */
export function quietRuntime(): void {
  if (!installed)
    Runtime.install({
      logger: new DefaultLogger('ERROR'),
      telemetryOptions: { logging: { filter: 'OFF', forward: {} } },
    });
  installed = true;
}
