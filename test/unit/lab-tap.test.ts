import { createHash } from "node:crypto";
import { expect, test } from "vitest";
import { Meter } from "../../lab/meter.ts";
import { rewriteCommand } from "../../lab/tap.ts";

const lead = async (path: string) => `/tap${path}`;

test("the unix socket of a migration is led through the tap, all else of the command kept", async () => {
  const rewritten = async (command: object) => JSON.parse(await rewriteCommand(JSON.stringify(command), lead));
  expect(await rewritten({ execute: "migrate", arguments: { uri: "unix:/a", resume: true }, id: 7 })).toEqual({
    execute: "migrate",
    arguments: { uri: "unix:/tap/a", resume: true },
    id: 7,
  });
  const channel = (path: string) => ({ "channel-type": "main", addr: { transport: "socket", type: "unix", path } });
  const incoming = (path: string) => ({ execute: "migrate-incoming", arguments: { channels: [channel(path)] } });
  expect(await rewritten(incoming("/b"))).toEqual(incoming("/tap/b"));
});

test("other lines pass as they are, to the byte", async () => {
  for (const line of [
    "",
    "no JSON",
    '{ "execute" : "query-migrate" }',
    '{"execute": "migrate",  "arguments": {"uri": "tcp:192.0.2.2:4444"}}',
    '{"execute": "migrate_cancel"}',
    '{"execute":"migrate-set-parameters","arguments":{}}\r',
  ])
    expect(await rewriteCommand(line, lead)).toBe(line);
});

test("a meter passes on what it hashes and counts", async () => {
  const meter = new Meter();
  const chunks = ["a", "", "bcd"].map((text) => Buffer.from(text));
  const passed: Uint8Array[] = [];
  for await (const chunk of meter.measure(streamOf(chunks))) passed.push(chunk);
  expect(Buffer.concat(passed).toString()).toBe("abcd");
  expect(meter.digest()).toEqual({ bytes: 4, sha256: createHash("sha256").update("abcd").digest("hex") });
});

async function* streamOf(chunks: Uint8Array[]): AsyncGenerator<Uint8Array> {
  yield* chunks;
}
