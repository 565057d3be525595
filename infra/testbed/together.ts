/** Waits for all of them even if one fails: nothing goes on behind the back of whoever is told of the failure. */
export async function together(tasks: Promise<unknown>[]): Promise<void> {
  const failed = (await Promise.allSettled(tasks)).find((result) => result.status === 'rejected');
  if (failed) throw failed.reason;
}
