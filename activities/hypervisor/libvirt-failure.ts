import { LibvirtError } from 'libvirt';
import { VmferryError } from '../../workflows/failures.ts';

/** An error of libvirt as `LibvirtFailed`; `what` says which object it is about. Gives back any other error as it is. */
export function asLibvirtFailure(what: string, error: unknown): unknown {
  if (!(error instanceof LibvirtError)) return error;
  const said = error.message.slice(0, 1000);
  return new VmferryError('LibvirtFailed', `${what}: ${said} (${error.call}, libvirt error ${error.code})`, {
    cause: error,
  });
}

/** Runs calls to libvirt and turns their errors into `LibvirtFailed`. */
export async function withLibvirtFailure<T>(what: string, calls: () => Promise<T>): Promise<T> {
  try {
    return await calls();
  } catch (error) {
    throw asLibvirtFailure(what, error);
  }
}
