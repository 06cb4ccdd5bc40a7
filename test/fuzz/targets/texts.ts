import { chmodSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { CertificateAuthority } from "../../../lab/certificates.ts";
import { parseRate } from "../../../src/cli/rate.ts";
import { parseSize } from "../../../src/cli/size.ts";
import { TraceReader, traceLine } from "../../../src/control/trace.ts";
import { formatAddress, parseAddress } from "../../../src/wire/address.ts";
import { formatPskFile, readPskFile } from "../../../src/wire/psk.ts";
import { checkOwnCertificate } from "../../../src/wire/tls.ts";
import { readTlsFolder } from "../../../src/wire/tls-files.ts";
import { mutateBytes, mutateJson } from "../mutate.ts";
import { type FuzzTarget, WrongOutput } from "../target.ts";
import { newFolder, removeFolders } from "../temporary.ts";
import { exampleLines } from "./records.ts";

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

const traceLines = () => exampleLines("trace-format.md", /^\{"type"/);

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

let keyPath: string | undefined;

const keys: FuzzTarget = {
  name: "key files",
  share: 0.5,
  refuses: /^WIRE_PSK_/,
  seeds: () => [Buffer.from(formatPskFile({ identity: "godwit", key: Buffer.alloc(32, 7) }))],
  maxBytes: 3000,
  feed(input) {
    keyPath ??= join(newFolder(), "key");
    const path = keyPath;
    writeFileSync(path, input);
    chmodSync(path, 0o600);
    const psk = readPskFile(path);
    writeFileSync(path, formatPskFile(psk));
    if (Buffer.compare(readPskFile(path).key, psk.key) !== 0)
      throw new WrongOutput("a key is not read as it is written");
  },
  close: () => {
    keyPath = undefined;
    removeFolders();
  },
};

const CERTIFICATE_FILES = ["cacert.pem", "servercert.pem", "serverkey.pem", "cacrl.pem"];
let ca: CertificateAuthority | undefined;
let tlsFolder: string | undefined;

/** A folder as libvirt has it; a seed is one of its files, behind its number. */
function certificateFiles(): Buffer[] {
  ca ??= new CertificateAuthority();
  const server = ca.issue("host-b", { names: "DNS:host-b", usage: "serverAuth" });
  ca.revoke(ca.issue("host-c", { names: "DNS:host-c", usage: "serverAuth" }));
  const folder = ca.tlsFolder({ server, revoked: ca.revocationList() });
  tlsFolder = folder;
  return CERTIFICATE_FILES.map((name, i) => Buffer.concat([Uint8Array.of(i), readFileSync(join(folder, name))]));
}

const certificates: FuzzTarget = {
  name: "certificates and keys",
  share: 0.2,
  refuses: /^WIRE_(TLS_FILES|CERTIFICATE)$/,
  seeds: certificateFiles,
  maxBytes: 20_000,
  async feed(input, random) {
    if (ca === undefined) certificateFiles();
    const path = join(tlsFolder!, CERTIFICATE_FILES[(input[0] ?? 0) % CERTIFICATE_FILES.length]!);
    const before = readFileSync(path);
    writeFileSync(path, input.subarray(1));
    try {
      readTlsFolder(tlsFolder!, "server");
      if (random.chance(0.1)) await checkOwnCertificate(tlsFolder!, "server");
    } finally {
      writeFileSync(path, before);
    }
  },
  close: () => {
    ca?.[Symbol.dispose]();
    ca = undefined;
  },
};

export const TEXT_TARGETS = [
  addresses,
  amounts("sizes", /^CLI_BAD_SIZE$/, ["21474836480", "20G", "20GiB", "1.5 kB", "0"], parseSize),
  amounts("rates", /^CLI_BAD_RATE$/, ["62500000", "60M", "62.5MB", "500Mbit/s"], parseRate),
  traces,
  keys,
  certificates,
];
