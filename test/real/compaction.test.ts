// References to disks: they save bytes, and whatever the destination's disks hold, its QEMU reads what the source's wrote.
import { expect, test } from "vitest";
import type { MigrationOptions } from "../../lab/godwit.ts";
import type { Pair, PairOptions } from "../../lab/pair.ts";
import { type Moved, moveWhole } from "./support/move.ts";
import { CACHED, startPair } from "./support/pair.ts";
import { receiveWith } from "./support/programs.ts";

/** A guest that has read its root file system: most of its memory stands on its disk. */
const cached = { ...CACHED, rateBitsPerSecond: 500e6 };

/** Moves the VM, whole, and says what came of its references. */
async function move(pair: Pair, options: MigrationOptions = {}): Promise<Moved> {
  const moved = await moveWhole(pair, options);
  const { sent, received } = moved;
  const pages = sent.pages.diskPages + sent.pages.literalPages;
  console.log(
    `${expect.getState().currentTestName}: of ${pages} pages with content ${received.diskPages} by reference, ` +
      `${received.nackedPages} of them in vain; ${(sent.wireBytes / 2 ** 20).toFixed(0)} MiB on the wire, ` +
      `${(sent.totalMs / 1000).toFixed(1)} s, downtime ${sent.downtimeMs?.toFixed(0)} ms`,
  );
  return moved;
}

async function startCached(options: PairOptions = {}): Promise<Pair> {
  return startPair({ ...cached, ...options });
}

test("a raw disk: what the guest has read from it is not sent", async () => {
  await using pair = await startCached();
  const { received, sent, warnings } = await move(pair);
  expect(received.diskPages).toBeGreaterThan(10_000);
  expect(received.nackedPages).toBeLessThan(received.diskPages / 100);
  expect(sent.pages.diskPages).toBeGreaterThan(sent.pages.literalPages);
  expect(warnings).toEqual({ source: [], destination: [] });
});

test("every reference is wrong: more bytes, the same guest", async () => {
  await using pair = await startCached();
  const { received, warnings } = await move(pair, { receiveProgram: receiveWith("lying") });
  expect(received.nackedPages).toBe(received.diskPages);
  expect(received.nackedPages).toBeGreaterThan(1000);
  expect(warnings).toEqual({ source: [expect.stringMatching(/switched off/)], destination: [] });
});

test("the destination cannot read the disk: said once, and all is sent", async () => {
  await using pair = await startCached();
  const { received, warnings } = await move(pair, { receiveProgram: receiveWith("missing") });
  expect(received).toMatchObject({ diskPages: 0, nackedPages: 0 });
  expect(warnings.destination).toEqual([expect.stringMatching(/virtio-disk0: .*qemu-nbd .* is not on the PATH/)]);
  expect(warnings.source).toHaveLength(1);
});

test("a qcow2 with a backing file", async () => {
  await using pair = await startCached({ diskFormat: "qcow2" });
  const { received } = await move(pair, { receiveProgram: receiveWith("nbd") });
  expect(received.diskPages).toBeGreaterThan(10_000);
  expect(received.nackedPages).toBeLessThan(received.diskPages / 100);
});

test("the guest overwrites on its disk what it holds in memory, while it moves", async () => {
  await using pair = await startCached();
  const { console: port } = pair.source;
  // A file of 8 MiB, a copy of it in memory, and another copy that is made anew all the time.
  port.send("cat /usr/lib/x86_64-linux-gnu/*.so.* | head -c 8M > /file; sync; cp /file /tmp/file; echo copied");
  await port.waitFor(/^copied$/, 60_000);
  port.send("while sleep 0.2; do cp /tmp/file /tmp/again; done &");
  // Once the disk is indexed, and while enough is left that copies made meanwhile are still looked up there.
  let isOverwritten = false;
  const { received } = await move(pair, {
    sendArgs: ["--max-bandwidth", "15M"],
    onEvent: (event) => {
      if (isOverwritten || event.event !== "progress" || event.pages.diskPages < 20_000) return;
      isOverwritten = true;
      port.send("dd if=/dev/zero of=/file bs=1M count=8 conv=notrunc oflag=direct");
    },
  });
  expect(received.diskPages).toBeGreaterThan(10_000);
  expect(received.nackedPages).toBeGreaterThan(0);
  expect(received.nackedPages).toBeLessThan(received.diskPages / 2);
});
