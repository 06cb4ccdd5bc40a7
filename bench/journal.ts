/** What the journal of a session adds to a migration: its records are on the disk before the steps that they announce. */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { SessionStore } from "../src/store/session-store.ts";
import { median, table } from "./support.ts";

const RUNS = 50;
const vm = { name: "web1", uuid: "7a3c1c0e-94a1-4f0e-8d0b-2f5f5a1b6c1d" };

export async function bench(): Promise<string> {
  // In the user's own folder: what is under /tmp is often no disk.
  const folder = await mkdtemp(join(process.env.GODWIT_STATE_DIR ?? process.env.HOME ?? tmpdir(), "godwit-journal-"));
  const times: Record<"create" | "source" | "destination", number[]> = { create: [], source: [], destination: [] };
  try {
    const store = await SessionStore.open(join(folder, "state"));
    for (let run = 0; run < RUNS; run++) {
      const session = run.toString(16).padStart(32, "0");
      const about = { session, program: "bench", peer: "b:7747", vm, qmpPath: "/run/q", qemu: null, guestRuns: true };
      const startMs = performance.now();
      const source = await store.create({ ...about, role: "source", secret: "0f".repeat(32) });
      times.create.push(performance.now() - startMs);
      const destination = await store.create({ ...about, role: "destination", secret: "0f".repeat(32) });
      for (const journal of [source, destination]) await journal.note({ state: "streaming" });
      const stoppedMs = performance.now();
      await destination.note({ state: "loaded" });
      const loadedMs = performance.now();
      await source.note({ state: "committed" });
      const committedMs = performance.now();
      await destination.note({ state: "committed", run: true });
      const runMs = performance.now();
      times.source.push(committedMs - loadedMs);
      times.destination.push(loadedMs - stoppedMs + runMs - committedMs);
      for (const journal of [source, destination]) await journal.discard();
    }
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
  const downtime = times.source.map((ms, i) => ms + times.destination[i]!);
  const row = (title: string, all: readonly number[]) => {
    const sorted = [...all].sort((a, b) => a - b);
    const at90 = sorted[Math.floor(0.9 * sorted.length)]!;
    return [title, median(all).toFixed(2), at90.toFixed(2), sorted.at(-1)!.toFixed(2)];
  };
  return table([
    [`journals of both ends, ${RUNS} sessions, ms`, "median", "9 of 10", "most"],
    row("made, while the guest runs", times.create),
    row("in the downtime: at the source", times.source),
    row("in the downtime: at the destination", times.destination),
    row("in the downtime: both", downtime),
  ]);
}

if (import.meta.main) console.log(await bench());
