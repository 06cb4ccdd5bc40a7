// What `godwit status` and `godwit resolve` say to people; an example of it stands in docs/commands.md.
import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { resolutionLines, statusLines } from "../../src/cli/session-lines.ts";
import { adviseOn } from "../../src/migration/resolve/advice.ts";
import type { SessionReport } from "../../src/migration/resolve/resolve.ts";

const LEFT: SessionReport = {
  id: "3fa94c0122334455667788990011aabb",
  role: "source",
  vm: { name: "web1", uuid: "3d0f6a6e-6d3c-4f0e-9d6a-2c6f9f6f0001" },
  peer: "10.0.0.2:7747",
  qmpPath: "/run/web1/qmp.sock",
  state: "committed",
  settled: false,
  sinceMs: 0,
  owner: "unknown",
  pid: null,
  problem: null,
};
const END = { isSettled: false, run: true, pid: null, isCertain: true, hasSettings: false };

test("a session that was left is explained as in the document, with what is to be typed", () => {
  const advice = adviseOn({ ...END, role: "source", state: "committed", found: "stopped" });
  const lines = resolutionLines({ ...LEFT, ...advice, done: null });
  const document = readFileSync(new URL("../../docs/commands.md", import.meta.url), "utf8");
  expect(document).toContain(["$ godwit resolve 3fa94c01", ...lines].map((line) => `    ${line}\n`).join(""));
});

test("a path that a shell would take apart is quoted", () => {
  const advice = adviseOn({ ...END, role: "destination", state: "loaded", found: "held" });
  const report = { ...LEFT, role: "destination", qmpPath: "/run/it's web1/qmp" } as const;
  expect(resolutionLines({ ...report, ...advice, done: null }).join("\n")).toContain(
    String.raw`godwit receive --qmp '/run/it'\''s web1/qmp' (and`,
  );
});

test("status names the command for what was left, and none where a godwit is at it or all is settled", () => {
  expect(statusLines([LEFT], "/state").at(-1)).toBe("what to do: godwit resolve 3fa94c01");
  for (const one of [
    { ...LEFT, pid: 42 },
    { ...LEFT, settled: true },
  ])
    expect(statusLines([one], "/state").join("\n")).not.toContain("what to do");
});

test("a journal that can't be read is listed as far as it tells", () => {
  const lines = statusLines([{ ...LEFT, state: null, sinceMs: null, problem: "it is damaged" }], "/state");
  expect(lines[1]).toMatch(/^3fa94c01 +web1 +source +unreadable/);
  expect(lines.at(-1)).toBe("what to do: godwit resolve 3fa94c01");
});
