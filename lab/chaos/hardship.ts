import { fileURLToPath } from "node:url";
import { PROGRAM } from "../godwit.ts";
import type { Hardship } from "./plan.ts";

const CLOCK = fileURLToPath(new URL("jumping-clock.ts", import.meta.url));

/** The command that runs godwit in such a place; its mounts are gone with it. Needs root for the disks. */
export function inHardship(hardship: Hardship): string[] {
  switch (hardship) {
    case "full disk":
      return withStateOn("size=4k");
    case "read-only disk":
      return withStateOn("ro");
    case "clock jumps":
      return ["env", `NODE_OPTIONS=--import=${CLOCK}`, PROGRAM];
    default:
      return ["sh", "-c", `ulimit -n ${Number.parseInt(hardship, 10)}; exec "$@"`, "sh", PROGRAM];
  }
}

function withStateOn(options: string): string[] {
  const mount = `mount -t tmpfs -o ${options},mode=700 tmpfs "$GODWIT_STATE_DIR"`;
  return ["unshare", "--mount", "sh", "-c", `mkdir -p "$GODWIT_STATE_DIR" && ${mount} && exec "$@"`, "sh", PROGRAM];
}
