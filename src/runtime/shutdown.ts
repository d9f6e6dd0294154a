/** Something that holds a socket, a timer or a file. `close` is idempotent and never rejects twice. */
export interface Closable {
  close(): Promise<void>;
}

/** Closes newest first; a failing one does not keep the others open. @throws AggregateError of all failures. */
export async function closeAll(services: readonly Closable[]): Promise<void> {
  const failures: unknown[] = [];
  for (const service of services.toReversed()) {
    try {
      await service.close();
    } catch (error) {
      failures.push(error);
    }
  }
  if (failures.length > 0) throw new AggregateError(failures, "not everything closed cleanly");
}

/** A signal this soon after the first is the same one: a terminal and npm both send it. */
const SAME_SIGNAL_MS = 1_000;

/**
 * Waits for SIGTERM or SIGINT, then closes `service`.
 *
 * Leaves the exit to the empty event loop; a missed deadline or a second signal forces it with exit code 1.
 */
export async function runUntilSignal(service: Closable, deadlineMs: number): Promise<void> {
  await new Promise<void>((resolve) => {
    let firstMs: number | undefined;
    for (const name of ["SIGTERM", "SIGINT"] as const) {
      process.on(name, () => {
        if (firstMs !== undefined) {
          if (performance.now() - firstMs > SAME_SIGNAL_MS) process.exit(1);
          return;
        }
        firstMs = performance.now();
        setTimeout(() => process.exit(1), deadlineMs).unref();
        resolve();
      });
    }
  });
  await service.close();
}
