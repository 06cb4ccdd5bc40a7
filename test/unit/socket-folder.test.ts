// The unix socket between a QEMU and us, where that QEMU runs as another user, as libvirt's do.
import { spawnSync } from "node:child_process";
import { chmodSync, chownSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, onTestFinished, test } from "vitest";
import { listenOnce } from "../../src/migration/listen-once.ts";
import { makeSocketFolder } from "../../src/migration/socket-folder.ts";

const [QEMU_USER, ANOTHER_USER] = [65_533, 65_532];

/** Whether a user may connect to a socket: that takes leave to write to it, and to enter its folder (unix(7)). */
function mayConnect(uid: number, path: string): boolean {
  return spawnSync("test", ["-w", path], { uid, gid: uid }).status === 0;
}

test.skipIf(process.getuid?.() !== 0)("the user that QEMU runs as may connect, and no other", async () => {
  const place = mkdtempSync(join(tmpdir(), "godwit-test-"));
  onTestFinished(() => rmSync(place, { recursive: true }));
  chmodSync(place, 0o755);
  const qmpPath = join(place, "qmp");
  writeFileSync(qmpPath, "");
  chownSync(qmpPath, QEMU_USER, QEMU_USER);
  await using folder = await makeSocketFolder(qmpPath);
  await using server = await listenOnce(join(folder.path, "source.sock"));
  expect(mayConnect(QEMU_USER, server.path)).toBe(true);
  expect(mayConnect(ANOTHER_USER, server.path)).toBe(false);
});
