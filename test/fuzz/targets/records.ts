import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { crc32 } from "node:zlib";
import { earlierMigrations } from "../../../src/migration/earlier.ts";
import { HistoryStore } from "../../../src/store/history.ts";
import { encodeRecord, JOURNAL_ROOM_BYTES, type JournalStep, parseJournal } from "../../../src/store/journal-format.ts";
import { mutateBytes, mutateJson } from "../mutate.ts";
import type { Random } from "../random.ts";
import { type FuzzTarget, WrongOutput } from "../target.ts";
import { newFolder, removeFolders } from "../temporary.ts";

/** The lines of an example in a document. */
export function exampleLines(document: string, begin: RegExp): string[] {
  const text = readFileSync(new URL(`../../../docs/${document}`, import.meta.url), "utf8");
  return text.split("\n").filter((line) => begin.test(line));
}

const JOURNAL_LINE = /^[0-9a-f]{8} \{/;

function journal(): Buffer {
  const room = Buffer.alloc(JOURNAL_ROOM_BYTES, "\n");
  room.write(`${exampleLines("journal-format.md", JOURNAL_LINE).join("\n")}\n`);
  return room;
}

/** A journal with a record that says something else, and is whole by its checksum. */
function otherRecord(random: Random): Buffer {
  const lines = exampleLines("journal-format.md", JOURNAL_LINE).map((line) => {
    if (random.chance(0.7)) return line;
    const json = JSON.stringify(mutateJson(JSON.parse(line.slice(9)), random)) ?? "";
    return `${crc32(json).toString(16).padStart(8, "0")} ${json}`;
  });
  return Buffer.from(`${lines.join("\n")}\n`);
}

const journals: FuzzTarget = {
  name: "journals of sessions",
  share: 3,
  refuses: /^STORE_JOURNAL_(DAMAGED|NEWER)$/,
  seeds: () => [journal(), Buffer.from(journal().toString().trimEnd())],
  input: (seeds, random) => {
    if (random.chance(0.4)) return otherRecord(random);
    const whole = Buffer.from(seeds[0]!);
    const end = whole.indexOf("\n\n");
    return Buffer.concat([
      mutateBytes(whole.subarray(0, end), seeds, random, 30_000),
      Buffer.alloc(random.small(3000), "\n"),
    ]);
  },
  feed(input) {
    const bytes = Buffer.from(input);
    const { content, endOffset } = parseJournal(bytes, "journal");
    // Whatever stands behind the last record that counts: the next ones take its place, and count.
    let file = bytes;
    let at = endOffset;
    for (const state of ["committed", "running"] as const satisfies readonly JournalStep["state"][]) {
      const record = encodeRecord({ atMs: 1, state });
      file = Buffer.concat([file.subarray(0, at), record, file.subarray(at + record.length)]);
      at += record.length;
      const again = parseJournal(file, "journal");
      if (again.content.state !== state || again.endOffset !== at)
        throw new WrongOutput(`a record behind it is lost: ${state}`);
      if (again.content.header.session !== content.header.session) throw new WrongOutput("it became another session's");
    }
  },
};

const IDENTITY = "uuid:7b0e2a3c-2f6d-4d3a-9b43-0c9d2f3b1a55";
let kept: Promise<{ readonly store: HistoryStore; readonly path: string }> | undefined;

async function openHistory() {
  const stateDir = newFolder();
  const store = (await HistoryStore.open(stateDir, () => {}))!;
  await store.add(IDENTITY, "0".repeat(32), "");
  const folder = join(stateDir, "history", readdirSync(join(stateDir, "history"))[0]!);
  return { store, path: join(folder, readdirSync(folder)[0]!) };
}

function traceOf(identity: string): string[] {
  const lines = exampleLines("trace-format.md", /^\{"type"/);
  return lines.map((line) => (line.includes('"header"') ? JSON.stringify({ ...JSON.parse(line), identity }) : line));
}

/** It is only knowledge: what can't be read is left out. */
const histories: FuzzTarget = {
  name: "histories",
  share: 1,
  refuses: /^$/,
  seeds: () => [Buffer.from(`${traceOf(IDENTITY).join("\n")}\n`)],
  input: (seeds, random) => {
    if (random.chance(0.5)) return mutateBytes(seeds[0]!, seeds, random, 40_000);
    const lines = traceOf(IDENTITY).map((line) =>
      random.chance(0.4) ? JSON.stringify(mutateJson(JSON.parse(line), random)) : line,
    );
    return Buffer.from(lines.join("\n"));
  },
  async feed(input) {
    kept ??= openHistory();
    const { store, path } = await kept;
    writeFileSync(path, input);
    for (const { parts, roundTripMs } of await earlierMigrations(store, IDENTITY)) {
      const numbers = [...Object.values(parts), roundTripMs];
      if (!numbers.every((number) => number >= 0))
        throw new WrongOutput(`downtimes of ${numbers.join(", ")} ms are believed`);
    }
  },
  close: () => {
    kept = undefined;
    removeFolders();
  },
};

export const RECORD_TARGETS = [journals, histories];
