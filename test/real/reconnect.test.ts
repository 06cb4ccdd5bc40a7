// Connections that are lost again and again, between real QEMUs: the migration ends all the same, and its bytes are the source's.
import { expect, test } from "vitest";
import { startFaultyLink } from "../../lab/faulty-link.ts";
import { startMigration } from "../../lab/godwit.ts";
import type { CutKind, LinkFault } from "../../lab/link-faults.ts";
import { startTap } from "../../lab/tap.ts";
import { cleanWalks } from "../../lab/walks.ts";
import { LARGE_LOAD, startPair } from "./support/pair.ts";

/** Mostly what is noticed at once; what only silence tells costs four seconds each time. */
const KINDS: CutKind[] = Array.from({ length: 100 }, (_, i) => {
  if (i % 50 === 20) return "black-hole";
  if (i % 10 === 4) return "half-open";
  return i % 20 === 7 ? "refuse" : "reset";
});

const faults: [string, LinkFault, number][] = [
  ["cut a hundred times", { kind: "cut", everyBytes: 1_000_000, times: 100, as: KINDS }, 100],
  ["a flipped bit", { kind: "flip-bit", direction: "forward", afterBytes: 10_000_000 }, 1],
];

test.each(faults)("%s: byte for byte, and the guest finds its memory whole", async (_name, fault, cuts) => {
  await using pair = await startPair({ load: LARGE_LOAD });
  await using sourceTap = await startTap({ qmpPath: pair.source.qmpPath, direction: "source" });
  await using destinationTap = await startTap({ qmpPath: pair.destination.qmpPath, direction: "destination" });
  await using link = await startFaultyLink(pair.hosts.source);
  await link.set(fault);
  await using migration = await startMigration(pair, {
    through: link,
    sourceQmp: sourceTap.qmpPath,
    destinationQmp: destinationTap.qmpPath,
    sendArgs: ["--no-compress", "--no-keep-checkpoint"],
  });
  const [sent, received] = await Promise.all([migration.send.exited, migration.receive.exited]);
  expect(sent, sent.stderr).toMatchObject({ code: 0, stderr: "" });
  expect(received, received.stderr).toMatchObject({ code: 0, stderr: "" });
  const [written, read] = await Promise.all([sourceTap.digest(), destinationTap.digest()]);
  expect(read).toEqual(written);

  const { events } = migration.send;
  const awayMs = events.flatMap((event) => (event.event === "reconnected" ? [event.awayMs] : []));
  console.log(`away for ${awayMs.map((ms) => ms.toFixed(0)).join(", ")} ms`);
  expect(await link.figures()).toMatchObject(fault.kind === "cut" ? { cuts } : { flippedBits: cuts });
  expect(awayMs.length).toBeGreaterThanOrEqual(cuts);
  expect(events.findLast((event) => event.event === "reconnected")?.generation).toBeGreaterThan(cuts);
  await cleanWalks(pair.destination, 1);
});
