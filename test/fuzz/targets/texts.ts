import { chmodSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseRate } from "../../../src/cli/rate.ts";
import { parseSize } from "../../../src/cli/size.ts";
import { TraceReader, traceLine } from "../../../src/control/trace.ts";
import { formatAddress, parseAddress } from "../../../src/wire/address.ts";
import { formatPskFile, readPskFile } from "../../../src/wire/psk.ts";
import { mutateBytes, mutateJson } from "../mutate.ts";
import { type FuzzTarget, WrongOutput } from "../target.ts";

/** What a text is read as, and what it is written as again; both must be the same. */
const parser = (
  name: string,
  refuses: RegExp,
  texts: readonly string[],
  read: (text: string) => unknown,
): FuzzTarget => ({
  name,
  share: 0.5,
  refuses,
  seeds: () => texts.map((text) => Buffer.from(text)),
  maxBytes: 3000,
  feed: (input) => void read(Buffer.from(input).toString()),
});

const addresses = parser(
  "addresses",
  /^WIRE_BAD_ADDRESS$/,
  ["host", "host:7747", "10.0.0.2", "[fe80::1%eth0]:7747", "2001:db8::2", "a-b.example:1"],
  (text) => {
    const address = parseAddress(text);
    const again = parseAddress(formatAddress(address));
    if (again.host !== address.host || again.port !== address.port)
      throw new WrongOutput("an address is not read as it is written");
  },
);

const amounts = (name: string, refuses: RegExp, texts: readonly string[], read: (text: string) => number) =>
  parser(name, refuses, texts, (text) => {
    if (!Number.isSafeInteger(read(text)) || read(text) < 0)
      throw new WrongOutput(`${JSON.stringify(text)} is read as ${read(text)}`);
  });

/** The example of docs/trace-format.md. */
function traceLines(): string[] {
  const document = readFileSync(new URL("../../../docs/trace-format.md", import.meta.url), "utf8");
  return document.split("\n").filter((line) => line.startsWith('{"type"'));
}

const traces: FuzzTarget = {
  name: "traces of migrations",
  share: 3,
  refuses: /^CONTROL_TRACE_/,
  seeds: () => [Buffer.from(traceLines().join("\n"))],
  input: (seeds, random) => {
    if (random.chance(0.5)) return mutateBytes(random.pick(seeds), seeds, random, 60_000);
    const lines = traceLines().map((line) =>
      random.chance(0.2) ? JSON.stringify(mutateJson(JSON.parse(line), random)) : line,
    );
    return Buffer.from(lines.join("\n"));
  },
  feed(input) {
    const reader = new TraceReader();
    for (const line of Buffer.from(input).toString().split("\n")) reader.push(line);
    const trace = reader.finish();
    const again = new TraceReader();
    for (const record of [trace.header, ...trace.rounds, ...trace.ticks, ...trace.decisions]) {
      if (record.type === "header") again.push(traceLine(record).trimEnd());
    }
    if (JSON.stringify(again.finish().header) !== JSON.stringify(trace.header))
      throw new WrongOutput("a header is not read as it is written");
  },
};

let folder: string | undefined;

const keys: FuzzTarget = {
  name: "key files",
  share: 0.5,
  refuses: /^WIRE_PSK_/,
  seeds: () => [Buffer.from(formatPskFile({ identity: "godwit", key: Buffer.alloc(32, 7) }))],
  maxBytes: 3000,
  feed(input) {
    folder ??= mkdtempSync(join(existsSync("/dev/shm") ? "/dev/shm" : tmpdir(), "godwit-fuzz-"));
    const path = join(folder, "key");
    writeFileSync(path, input);
    chmodSync(path, 0o600);
    const psk = readPskFile(path);
    writeFileSync(path, formatPskFile(psk));
    if (Buffer.compare(readPskFile(path).key, psk.key) !== 0)
      throw new WrongOutput("a key is not read as it is written");
  },
  close: () => {
    if (folder !== undefined) rmSync(folder, { recursive: true });
    folder = undefined;
  },
};

export const TEXT_TARGETS = [
  addresses,
  amounts("sizes", /^CLI_BAD_SIZE$/, ["21474836480", "20G", "20GiB", "1.5 kB", "0"], parseSize),
  amounts("rates", /^CLI_BAD_RATE$/, ["62500000", "60M", "62.5MB", "500Mbit/s"], parseRate),
  traces,
  keys,
];
