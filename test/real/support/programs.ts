import { fileURLToPath } from "node:url";

/** `godwit receive` that reads pages in one of the ways of receive.ts. */
export function receiveWith(...mode: readonly string[]): readonly string[] {
  const script = fileURLToPath(new URL("receive.ts", import.meta.url));
  return [process.execPath, "--disable-warning=ExperimentalWarning", script, mode.join(":")];
}
