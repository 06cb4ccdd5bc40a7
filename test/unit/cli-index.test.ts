import { execFile } from "node:child_process";
import { mkdtempSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { expect, onTestFinished, test } from "vitest";
import { diskLine } from "../../src/cli/index-view.ts";
import { IndexStore } from "../../src/store/index-store.ts";

const about = { vm: "name:a", disk: "d", vmName: "a\u202eb", image: "/x", files: null, bitmap: null, savedMs: 1.7e12 };

function godwit(...args: string[]): Promise<{ code: unknown; stdout: string; stderr: string }> {
  return new Promise((done) => {
    execFile(resolve("bin/godwit"), ["index", ...args], (error, stdout, stderr) =>
      done({ code: error?.code ?? 0, stdout, stderr }),
    );
  });
}

function folder(): string {
  const path = mkdtempSync(join(tmpdir(), "godwit-index-"));
  onTestFinished(() => rmSync(path, { recursive: true }));
  return path;
}

test("what is asked for wrongly is one line, and nothing is made", async () => {
  const stateDir = folder();
  for (const [args, message] of [
    [[], "required option '--qmp <path>' not specified; nothing was changed; see godwit index --help"],
    [["--qmp", join(stateDir, "none")], "there is no QMP socket at [^;]*; nothing was read; check the path[^\\n]*"],
    [["--qmp", "x", "--disk", "=/a"], "[^\\n]*give NODE=PATH[^\\n]*"],
    [["--qmp", "x", "--disk", "a=/a", "--disk", "a=/b"], "[^\\n]*disk a is given twice[^\\n]*"],
    [["delete"], "missing required argument 'id'; nothing was changed; see godwit index delete --help"],
    [
      ["delete", "00", "--state-dir", stateDir],
      "there is no index 00; nothing was changed; godwit index list shows what there is",
    ],
  ] as const) {
    const { code, stdout, stderr } = await godwit(...args);
    expect(stderr).toMatch(new RegExp(`^godwit: ${message}\\n$`));
    expect([code, stdout]).toEqual([2, ""]);
  }
});

test("indexes are listed and deleted", async () => {
  const stateDir = folder();
  expect(await godwit("list", "--state-dir", stateDir)).toEqual({ code: 0, stdout: "no indexes\n", stderr: "" });
  expect(statSync(join(stateDir, "indexes")).mode & 0o777).toBe(0o700);
  const store = await IndexStore.open(stateDir);
  const writer = await store.create(about, 2 ** 30);
  await writer.finish(about, undefined, () => false);
  await writer[Symbol.asyncDispose]();
  const [info] = await store.list();
  const line = JSON.parse((await godwit("list", "--json", "--state-dir", stateDir)).stdout);
  expect(line).toMatchObject({ id: info!.id, vm: "name:a", disk: "d", sizeBytes: 2 ** 30, blocks: 0, why: null });
  const table = (await godwit("--state-dir", stateDir, "list")).stdout;
  expect(table).toMatch(/a b .* d .* 1.00 GiB .* 0 .* 2023-11-14 22:13/);
  const { code, stdout } = await godwit("delete", info!.id.slice(0, 8), info!.id, "--state-dir", stateDir);
  expect([code, stdout]).toEqual([0, `deleted ${info!.id.slice(0, 12)}, of disk d of a b\n`]);
  expect(await store.list()).toEqual([]);
});

test("what is said of a disk", () => {
  const whole = { isWhole: true, why: null };
  const disk = { disk: "d", image: "/x", sizeBytes: 2 ** 30, knownBlocks: 70_000, readBytes: 0, newBlocks: 0, ms: 12 };
  expect(diskLine({ ...disk, ...whole })).toBe("disk d, 1.00 GiB: nothing was read, 0 blocks new, 70,000 known before");
  expect(diskLine({ ...disk, readBytes: 2 ** 20, newBlocks: 200, isWhole: false, why: "it was stopped" })).toBe(
    "disk d, 1.00 GiB: 1.00 MiB read in 12 ms, 200 blocks new, 70,000 known before; not whole: it was stopped",
  );
});
