/** What a user can ask of a migration's end, the same for every command that migrates, replays or predicts. */
import { type Command, Option } from "commander";
import { assertPromises, ON_STALL, type OnStall, type Promises } from "../control/promises.ts";
import { parseDuration } from "./duration.ts";
import { parseSize } from "./size.ts";

/** As commander hands them over: ms, ms, bytes. */
export interface PromiseOptions {
  maxDowntime?: number;
  deadline?: number;
  maxBytes?: number;
  onStall?: OnStall;
}

export function addPromiseOptions(command: Command): Command {
  return command
    .addOption(
      new Option("--max-downtime <ms>", "the guest is stopped for no longer: 500, 500ms, 1.5s").argParser((text) =>
        parseDuration(text, "ms"),
      ),
    )
    .addOption(
      new Option("--deadline <s>", "the VM runs at the destination by then: 90, 10min, 2h").argParser((text) =>
        parseDuration(text, "s"),
      ),
    )
    .addOption(new Option("--max-bytes <size>", "no more goes over the link: 20G, 20GB").argParser(parseSize))
    .addOption(
      new Option(
        "--on-stall <what>",
        "what gives when these can't be kept: switch (the downtime), throttle (the guest's speed), abort (the migration) (default: switch)",
      ).choices([...ON_STALL]),
    );
}

/**
 * @param policy one of POLICIES; those that others ship know no promises
 * @throws GodwitError CONTROL_BAD_LIMIT where a limit makes no sense, or contradicts another
 */
export function promisesOf(
  { maxDowntime, deadline, maxBytes, onStall }: PromiseOptions,
  policy = "adaptive",
): Promises {
  const promises = {
    ...(maxDowntime !== undefined && { maxDowntimeMs: maxDowntime }),
    ...(deadline !== undefined && { deadlineMs: deadline }),
    ...(maxBytes !== undefined && { maxBytes }),
    ...(onStall !== undefined && { onStall }),
  };
  assertPromises(promises, policy);
  return { onStall: "switch", ...promises };
}
