import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { JournalRole } from "../../../src/store/journal-format.ts";

/** Makes a journal one that can't be read: from a record behind its header on, so that it still tells whose it is; or "whole". */
export async function spoilJournal(stateDir: string, session: string, role: JournalRole, what: "record" | "whole") {
  const path = join(stateDir, "sessions", `${session}.${role}`, "journal");
  const text = await readFile(path, "latin1");
  const at = text.indexOf('{"atMs"');
  if (at < 0) throw new Error("there is no record behind the header");
  await writeFile(path, what === "whole" ? "nothing of ours\n" : text.replace('{"atMs"', '{"AtMs"'));
}
