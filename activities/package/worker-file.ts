/** Where a thread's program lies: beside its caller, as TypeScript in a checkout, as JavaScript in an installed package. */
export function workerFile(name: string, callerUrl: string): URL {
  return new URL(`./${name}.${callerUrl.endsWith('.ts') ? 'ts' : 'js'}`, callerUrl);
}
