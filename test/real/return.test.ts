// The way back to a host that has kept a checkpoint: next to nothing is sent, and whatever becomes of the checkpoint, memory is exact.
import { closeSync, openSync, readdirSync, rmSync, statSync, truncateSync, writeSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import type { MigrationOptions } from "../../lab/godwit.ts";
import type { StartedPair } from "../../lab/pair.ts";
import type { SourceSummary } from "../../src/migration/events.ts";
import { openCheckpoints } from "../../src/migration/open-checkpoints.ts";
import { type Moved, type MoveOptions, moveWhole } from "./support/move.ts";
import { CACHED, SMALL, startPair } from "./support/pair.ts";
import { receiveWith } from "./support/programs.ts";

const MIB = 2 ** 20;
/** A VM that has left a host, which has kept its memory. */
interface Returning {
  /** The pair for the way back. */
  readonly pair: StartedPair;
  /** The state folder of the host that it goes back to. */
  readonly stateDir: string;
}

async function hasLeft(pair: StartedPair, { checkpoint }: SourceSummary): Promise<Returning> {
  expect(checkpoint).not.toBeNull();
  return { pair: await pair.back(), stateDir: pair.hosts.source.stateDir! };
}

interface Outcome extends Omit<Moved, "warnings"> {
  /** Of both ends. */
  readonly warnings: readonly string[];
}

/** Moves the VM, whole, and says what came of the references to a checkpoint. */
async function move(name: string, pair: StartedPair, options: MoveOptions = {}): Promise<Outcome> {
  const { sent, received, warnings } = await moveWhole(pair, options);
  console.log(
    `${name}: ${received.checkpointPages} checkpoint pages, ${received.diskPages} disk pages, ` +
      `${received.nackedPages} in vain, ${sent.pages.literalPages} literal; ${(sent.wireBytes / MIB).toFixed(1)} MiB on the wire, ` +
      `${(sent.totalMs / 1000).toFixed(1)} s, downtime ${sent.downtimeMs?.toFixed(0)} ms`,
  );
  return { sent, received, warnings: [...warnings.source, ...warnings.destination] };
}

test("what was there before is not sent again", async () => {
  await using pair = await startPair({ ...CACHED, rateBitsPerSecond: 500e6 });
  const { sent: away } = await move("away", pair, { keepsCheckpoint: true });
  const returning = await hasLeft(pair, away);
  const { sent, received, warnings } = await move("back", returning.pair);
  expect(warnings).toEqual([]);
  expect(received.checkpointPages).toBeGreaterThan(50_000);
  expect(received.nackedPages).toBe(0);
  expect(sent.pages.literalPages).toBeLessThan(3000);
  expect(sent.wireBytes).toBeLessThan(4e6);
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

/** What becomes of a checkpoint, how the VM is moved then, and what comes of it. */
interface Case {
  readonly name: string;
  readonly options: (returning: Returning) => MigrationOptions;
  readonly expectOutcome: (outcome: Outcome, returning: Returning) => Promise<void> | void;
}

function expectSentAgain({ received, warnings }: Outcome): void {
  expect(received.checkpointPages).toBeGreaterThan(1000);
  expect(received.nackedPages).toBeGreaterThan(0);
  expect(warnings.filter((text) => text.includes("are sent again"))).toHaveLength(1);
}

const cases: readonly Case[] = [
  {
    name: "the destination is told to leave it alone",
    options: () => ({ receiveArgs: ["--no-checkpoint-refs"] }),
    expectOutcome: ({ received, warnings }) => {
      expect(received.checkpointPages).toBe(0);
      expect(warnings).toEqual([]);
    },
  },
  {
    name: "every page of it is another: they are sent, and it is switched off",
    options: ({ stateDir }) => ({ receiveProgram: receiveWith("wrong-checkpoint", stateDir) }),
    expectOutcome: ({ received, warnings }) => {
      expect(received.nackedPages).toBeGreaterThan(4000);
      expect(received.nackedPages).toBe(received.checkpointPages);
      expect(warnings).toEqual([expect.stringMatching(/^references to checkpoint .* are switched off/)]);
    },
  },
  {
    name: "its data is cut off once it is in use",
    options: (returning) => spoiling(returning, (path) => truncateSync(path, Math.floor(statSync(path).size / 2))),
    expectOutcome: expectSentAgain,
  },
  {
    name: "its data is changed here and there once it is in use",
    options: (returning) =>
      spoiling(returning, (path) => {
        const file = openSync(path, "r+");
        for (let at = 1000; at < statSync(path).size; at += 200_000) writeSync(file, "spoilt", at);
        closeSync(file);
      }),
    expectOutcome: expectSentAgain,
  },
  {
    name: "it is deleted while it is in use",
    options: ({ stateDir }) => ({
      onEvent: async ({ event }) => {
        if (event !== "connected") return;
        const store = await openCheckpoints(stateDir);
        for (const { id } of await store.list()) await store.delete(id);
      },
    }),
    expectOutcome: async (_, { stateDir }) => {
      const store = await openCheckpoints(stateDir);
      await expect.poll(() => store.list()).toEqual([]);
    },
  },
];

test("whatever becomes of it, memory is exact", async () => {
  await using first = await startPair(SMALL);
  let { sent } = await move("away", first, { keepsCheckpoint: true });
  let pair: StartedPair = first;
  for (const { name, options, expectOutcome } of cases) {
    const returning = await hasLeft(pair, sent);
    pair = returning.pair;
    const outcome = await move(name, pair, { ...options(returning), keepsCheckpoint: true });
    await expectOutcome(outcome, returning);
    sent = outcome.sent;
    // What is left of it is not what the next one builds on.
    rmSync(join(returning.stateDir, "checkpoints"), { recursive: true });
  }
});
