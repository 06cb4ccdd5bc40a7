// The first invariant: what the destination QEMU reads is byte for byte what the source QEMU wrote. The witness is the
// lab's tap, which stands between QEMU and godwit at both ends and hashes what goes through; it shares no code with either. That
// stock QEMU does not break these guests by itself is seen to by test/lab/lab.test.ts.
import { expect, test } from "vitest";
import { blackoutOf, startMigration } from "../../lab/godwit.ts";
import { startTap } from "../../lab/tap.ts";
import { cleanWalks } from "../../lab/walks.ts";
import type { SourceSummary } from "../../src/migration/events.ts";
import { setCapabilities } from "../../src/qemu/migrate.ts";
import { LARGE_LOAD, startPair } from "./support/pair.ts";

const load = LARGE_LOAD;
const idle = { load: undefined };

/** Only root may shape a link; the name of the test says which it was. */
const isRoot = process.getuid?.() === 0;
const link = isRoot ? { rateBitsPerSecond: 500e6 } : {};

const cases = [
  {
    name: `10.0 → 10.0, q35, under load, ${isRoot ? "500 Mbit/s" : "unshaped: not root"}`,
    machine: "q35",
    load,
    ...link,
  },
  {
    name: "10.0 → 10.0, pc, whole pages random, capabilities left on",
    machine: "pc",
    load: { ...load, pattern: "random" } as const,
    left: { multifd: true, "x-ignore-shared": true },
  },
  { name: "7.2 → 7.2, q35, idle", machine: "q35", qemu: "7.2", ...idle },
  { name: "7.2 → 10.0, pc-q35-7.2, idle", machine: "pc-q35-7.2", qemu: "7.2", destinationQemu: "10.0", ...idle },
] as const;

test.each(cases)("$name: byte for byte, and the guest finds its memory whole", async ({ name, load, ...options }) => {
  await using pair = await startPair({ ...options, ...(load && { load }) });
  const left = "left" in options ? options.left : undefined; // as a management may leave QEMU set
  for (const { qmp } of left ? [pair.source, pair.destination] : []) await setCapabilities(qmp, left!);
  await using sourceTap = await startTap({ qmpPath: pair.source.qmpPath, direction: "source" });
  await using destinationTap = await startTap({ qmpPath: pair.destination.qmpPath, direction: "destination" });
  await using migration = await startMigration(pair, {
    sourceQmp: sourceTap.qmpPath,
    destinationQmp: destinationTap.qmpPath,
    sendArgs: ["--no-keep-checkpoint"],
  });
  const [sent, received] = await Promise.all([migration.send.exited, migration.receive.exited]);
  expect(sent, sent.stderr).toMatchObject({ code: 0, stderr: "" });
  expect(received, received.stderr).toMatchObject({ code: 0, stderr: "" });

  const [written, read] = await Promise.all([sourceTap.digest(), destinationTap.digest()]);
  expect(written.bytes).toBeGreaterThan(10e6);
  expect(read).toEqual(written); // SHA-256 and length, of the stream and of the return path

  const summary = migration.send.events.at(-1) as SourceSummary;
  expect(summary).toMatchObject({ event: "summary", status: "completed", rawBytes: written.bytes });
  expect(summary.pages.rawPages).toBeLessThan(2000); // it was understood, not just passed through
  expect(summary.wireBytes).toBeLessThan(summary.rawBytes);
  if (load?.pattern === "word") expect(summary.pages.deltaPages).toBeGreaterThan(500); // and made again from what has changed
  expect(await pair.source.qmp.execute("query-status")).toMatchObject({ status: "postmigrate" });
  // QEMU 7.2 loses dirty pages under TCG: the bytes arrive as it wrote them, but its guest may not live on, and QEMU ends with it.
  for (const { qmp } of left ? [pair.source, pair.destination] : [])
    expect(await setCapabilities(qmp, left!)).toEqual({}); // there was nothing to change: they are as they were
  const livesOn = !("qemu" in options);
  if (livesOn) expect(await pair.destination.qmp.execute("query-status")).toMatchObject({ status: "running" });
  const blackout = livesOn ? `${(await blackoutOf(pair)).toFixed(0)} ms` : "not looked at with QEMU 7.2";
  if (load) await cleanWalks(pair.destination, 2);
  console.log(
    `${name}: ${(summary.rawBytes / 2 ** 20).toFixed(0)} MiB raw, ${(summary.wireBytes / 2 ** 20).toFixed(0)} MiB on the wire, ` +
      `${summary.pages.deltaPages} delta and ${summary.pages.samePages} same pages, ` +
      `downtime ${summary.downtimeMs?.toFixed(0)} ms, blackout ${blackout}, SHA-256 ${written.sha256.slice(0, 16)}…`,
  );
});
