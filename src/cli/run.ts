import type { EventListener, Status } from "../migration/events.ts";
import type { Security } from "../wire/transport.ts";
import { type CancelWords, cancelOnSignals } from "./cancel.ts";
import { exitNow } from "./exit.ts";
import { EXIT, exitCodeOf } from "./exit-codes.ts";
import { errorLine, type Role } from "./lines.ts";
import type { CommonOptions } from "./options.ts";
import { writeLastWords } from "./output.ts";
import { assertOpenFiles } from "./process-limits.ts";
import { openReporter } from "./reporter.ts";
import { INSECURE, securityOf } from "./security-options.ts";

/** What a migration needs of the command line, whichever side it is. */
export interface Surroundings {
  security: Security;
  signal: AbortSignal;
  onEvent: EventListener;
}

/**
 * Runs one side of a migration and ends the process with what it came to.
 *
 * @throws before anything has begun, what securityOf and assertOpenFiles throw
 */
export async function runToExit(
  role: Role,
  options: CommonOptions,
  words: CancelWords,
  migrate: (surroundings: Surroundings) => Promise<{ status: Status }>,
): Promise<never> {
  assertOpenFiles();
  const security = await securityOf(options, role);
  process.on("uncaughtException", onBug);
  const reporter = openReporter(role, options.json ?? false);
  if (security.kind === "none") reporter.onEvent({ event: "warning", message: INSECURE });
  let code: number;
  {
    using cancellation = cancelOnSignals(reporter.say, words);
    const { status } = await migrate({ security, signal: cancellation.signal, onEvent: reporter.onEvent });
    code = exitCodeOf(status, cancellation.cause);
  }
  await reporter.drained();
  // Not left to Node: a socket to a host that has gone away would hold the process for minutes.
  exitNow(code);
}

/** The VM may be anywhere between the two sides, so this is no plain failure. */
function onBug(error: Error): never {
  const line = errorLine("a bug in godwit", "the VM may be stopped: look at both sides", "please report what follows");
  writeLastWords(`${line}\n${error.stack}\n`);
  exitNow(EXIT["in-doubt"]);
}
