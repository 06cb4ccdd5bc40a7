import { GodwitError } from "../errors.ts";
import { specificAdviceFor } from "../migration/advice.ts";
import { errorLine } from "./lines.ts";

/**
 * Says on stderr, in one line, what went wrong in a command that is no migration, and sets the exit code. A bug is thrown on.
 *
 * @param consequence what it means for what the command works on; empty where nobody needs be told
 */
export function complain(error: unknown, consequence: string, exitCode: number): void {
  if (!(error instanceof GodwitError)) throw error;
  const advice = specificAdviceFor(error, "source") ?? "";
  process.stderr.write(`${errorLine(error.message, consequence, advice)}\n`);
  process.exitCode = exitCode;
}
