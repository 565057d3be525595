/** Configuration files of the workers: JSON, checked, with an error that names file and key. */
import { readFile } from 'node:fs/promises';
import { z } from 'zod';
import { hostName } from '../activities/trust/statements.ts';

const Temporal = z.strictObject({
  /** `host:port` of the Temporal frontend. */
  address: z.string().min(1),
  namespace: z.string().default('default'),
  /** Mutual TLS: PEM files. Absent: plain text, for a loopback or tunnelled address only. */
  tls: z
    .strictObject({
      caFile: z.string(),
      certFile: z.string(),
      keyFile: z.string(),
      serverName: z.string().exactOptional(),
    })
    .exactOptional(),
});

/**
 * Seconds that running steps have to end by themselves when the worker is told to stop (SIGTERM, SIGINT). Then they are told
 * to hand over, and twice that time after the signal the worker is gone in any case. Below half of the unit's TimeoutStopSec.
 */
const stopSeconds = z.number().min(0.1).max(3600).default(10);

const endpoint = z.string().regex(/^(\[[0-9a-fA-F:]+\]|[^:\s]+):[0-9]{1,5}$/, 'must be host:port');

export const HostConfig = z.strictObject({
  name: hostName,
  stateDirectory: z.string().startsWith('/').default('/var/lib/vmferry'),
  libvirtUri: z.string().default('qemu:///system'),
  temporal: Temporal,
  /** Where the package server listens. */
  listen: endpoint.default('0.0.0.0:7443'),
  /** Where peers reach it; best first. */
  addresses: z.array(endpoint).min(1),
  location: z.string().default(''),
  /** Holds `pool.pub`, the operator's public key: the one thing brought to a host by hand. */
  poolDirectory: z.string().startsWith('/').default('/etc/vmferry'),
  stopSeconds,
  /** For tests of crashes only; see fault-points.ts. */
  faultPoints: z.string().startsWith('/').exactOptional(),
});
export type HostConfig = z.infer<typeof HostConfig>;

export const ControlConfig = z.strictObject({
  temporal: Temporal,
  /** PostgreSQL URL of a role that may change the schema. */
  catalog: z.string().min(1),
  stopSeconds,
  /** For tests of crashes only; see fault-points.ts. */
  faultPoints: z.string().startsWith('/').exactOptional(),
});
export type ControlConfig = z.infer<typeof ControlConfig>;
export type TemporalConfig = z.infer<typeof Temporal>;

/** A mistake of the operator's: printed as one sentence, exit code 2. */
export class ConfigError extends Error {}

export async function readConfig<T>(path: string, schema: z.ZodType<T>): Promise<T> {
  let text: string;
  try {
    text = await readFile(path, 'utf8');
  } catch (error) {
    throw new ConfigError(`cannot read the configuration ${path}: ${(error as Error).message}`, { cause: error });
  }
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw new ConfigError(`${path} is not JSON: ${(error as Error).message}`, { cause: error });
  }
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  const issue = result.error.issues[0];
  throw new ConfigError(`${path}: ${issue?.path.join('.') || 'the file'}: ${issue?.message ?? 'not valid'}`);
}
