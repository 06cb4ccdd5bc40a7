// The way back to a host that has kept a checkpoint: next to nothing is sent, and whatever becomes of the checkpoint, memory is exact.
import { openSync, readdirSync, statSync, truncateSync, writeSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { type MigrationOptions, startMigration } from "../../lab/godwit.ts";
import type { Pair, PairOptions } from "../../lab/pair.ts";
import type { SourceSummary } from "../../src/migration/events.ts";
import { openCheckpoints } from "../../src/migration/open-checkpoints.ts";
import { type Moved, moveWhole } from "./support/move.ts";
import { startPair } from "./support/pair.ts";
import { receiveWith } from "./support/programs.ts";

const MIB = 2 ** 20;
/** A guest that has read its root file system, and does little. */
const idle = { cached: true, load: { mib: 1, pagesPerSecond: 50, pattern: "word" }, rateBitsPerSecond: 500e6 } as const;
/** A guest that is there sooner. */
const small = { memoryMiB: 256, load: { mib: 32, pagesPerSecond: 50, pattern: "word" } } as const;

interface Returning {
  /** The pair for the way back. */
  readonly pair: Pair;
  /** The state folder of the host that it goes back to. */
  readonly stateDir: string;
  readonly checkpoint: string;
}

/** Moves the VM of a new pair; the host that it leaves keeps its memory. */
async function movedAway(stack: AsyncDisposableStack, options: PairOptions): Promise<Returning> {
  const pair = stack.use(await startPair(options));
  const summary = await movedFrom(pair);
  expect(summary.checkpoint).not.toBeNull();
  return { pair: await pair.back(), stateDir: pair.hosts.source.stateDir!, checkpoint: summary.checkpoint!.id };
}

async function movedFrom(pair: Pair): Promise<SourceSummary> {
  await using migration = await startMigration(pair);
  const { code, stderr } = await migration.send.exited;
  expect(code, stderr).toBe(0);
  await migration.receive.exited;
  return migration.send.events.at(-1) as SourceSummary;
}

interface Outcome extends Omit<Moved, "warnings"> {
  /** Of both ends. */
  readonly warnings: readonly string[];
}

/** Moves it back, whole, and says what came of the references to the checkpoint. */
async function moveBack({ pair }: Returning, options: MigrationOptions = {}): Promise<Outcome> {
  const { sent, received, warnings } = await moveWhole(pair, options);
  console.log(
    `${expect.getState().currentTestName}: ${received.checkpointPages} checkpoint pages, ${received.diskPages} disk pages, ` +
      `${received.nackedPages} in vain, ${sent.pages.literalPages} literal; ${(sent.wireBytes / MIB).toFixed(1)} MiB on the wire, ` +
      `${(sent.totalMs / 1000).toFixed(1)} s, downtime ${sent.downtimeMs?.toFixed(0)} ms`,
  );
  return { sent, received, warnings: [...warnings.source, ...warnings.destination] };
}

test("what was there before is not sent again", async () => {
  await using stack = new AsyncDisposableStack();
  const returning = await movedAway(stack, idle);
  const { sent, received, warnings } = await moveBack(returning);
  expect(warnings).toEqual([]);
  expect(received.checkpointPages).toBeGreaterThan(50_000);
  expect(received.nackedPages).toBe(0);
  expect(sent.pages.literalPages).toBeLessThan(3000);
  expect(sent.wireBytes).toBeLessThan(4e6);
});

test("the destination is told to leave it alone", async () => {
  await using stack = new AsyncDisposableStack();
  const returning = await movedAway(stack, small);
  const { received, warnings } = await moveBack(returning, { receiveArgs: ["--no-checkpoint-refs"] });
  expect(received.checkpointPages).toBe(0);
  expect(warnings).toEqual([]);
});

test("every page of it is another: they are sent, and it is switched off", async () => {
  await using stack = new AsyncDisposableStack();
  const returning = await movedAway(stack, small);
  const receiveProgram = receiveWith("wrong-checkpoint", returning.stateDir);
  const { received, warnings } = await moveBack(returning, { receiveProgram });
  expect(received.nackedPages).toBeGreaterThan(4000);
  expect(received.nackedPages).toBe(received.checkpointPages);
  expect(warnings).toEqual([expect.stringMatching(/^references to checkpoint .* are switched off/)]);
});

/** Does something to all files with pages in them, as soon as the source knows of the checkpoint. */
function spoiling({ stateDir }: Returning, spoil: (path: string) => void): Pick<MigrationOptions, "onEvent"> {
  return {
    onEvent: ({ event }) => {
      if (event !== "connected") return;
      const folder = join(stateDir, "checkpoints");
      const names = readdirSync(folder, { recursive: true, encoding: "utf8" });
      for (const name of names.filter((name) => name.endsWith(".pack"))) spoil(join(folder, name));
    },
  };
}

test.each([
  ["cut off", (path: string) => truncateSync(path, Math.floor(statSync(path).size / 2))],
  [
    "changed here and there",
    (path: string) => {
      const file = openSync(path, "r+");
      for (let at = 1000; at < statSync(path).size; at += 200_000) writeSync(file, "spoilt", at);
    },
  ],
])("its data is %s once it is in use", async (_, spoil) => {
  await using stack = new AsyncDisposableStack();
  const returning = await movedAway(stack, small);
  const { received, warnings } = await moveBack(returning, spoiling(returning, spoil));
  expect(received.checkpointPages).toBeGreaterThan(1000);
  expect(received.nackedPages).toBeGreaterThan(0);
  expect(warnings.filter((text) => text.includes("are sent again"))).toHaveLength(1);
});

test("it is deleted while it is in use", async () => {
  await using stack = new AsyncDisposableStack();
  const returning = await movedAway(stack, small);
  const store = await openCheckpoints(returning.stateDir);
  let deleting: Promise<unknown> | undefined;
  await moveBack(returning, {
    onEvent: ({ event }) => {
      if (event === "connected") deleting = store.delete(returning.checkpoint);
    },
  });
  await deleting;
  expect(await store.list()).toEqual([]);
});
