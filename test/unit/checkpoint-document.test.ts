import { readFileSync } from "node:fs";
import { chmod, cp } from "node:fs/promises";
import { join } from "node:path";
import { expect, test } from "vitest";
import { openCheckpoints } from "../../src/migration/open-checkpoints.ts";
import { encodeVm, folderNameOf } from "../../src/store/checkpoint-vm.ts";
import { GOLDEN_STORE, GOLDEN_VM, goldenPages } from "../golden/checkpoint-store.ts";
import { contentOf, joined, stateFolder } from "./support/checkpoint-stores.ts";

const document = readFileSync(new URL("../../docs/store-format.md", import.meta.url), "utf8");

test("the example is what the code writes", () => {
  const example = /<!-- example:[^\n]*-->\n```\n(.*?)```/s.exec(document)![1]!;
  const written = encodeVm({
    identity: "name:a",
    folderId: Buffer.alloc(16, 1),
    tagKey: Buffer.alloc(32, 2),
    seed: 0x0303030303030303n,
  });
  expect(Buffer.from(example.replaceAll(/\s/g, ""), "hex").equals(written)).toBe(true);
  expect(document).toContain(`\`${folderNameOf("name:a")}\``);
});

test("the store of version 1 is read, and goes on", async () => {
  const stateDir = await stateFolder();
  await cp(GOLDEN_STORE, join(stateDir, "checkpoints"), { recursive: true });
  await chmod(join(stateDir, "checkpoints"), 0o700);
  const store = await openCheckpoints(stateDir, { maxBytes: 2 ** 30 });
  const list = (await store.list()).sort((a, b) => a.createdMs - b.createdMs);
  expect(list).toMatchObject([
    { ...GOLDEN_VM, pages: 60, origin: "migration", state: "whole" },
    { ...GOLDEN_VM, pages: 34, origin: "saved", state: "whole" },
  ]);
  for (const [index, { id }] of list.entries()) {
    expect(await store.check(id)).toMatchObject({ damagedPages: 0, problems: [] });
    const pages = [...goldenPages(index as 0 | 1)].sort(([a], [b]) => a - b);
    expect((await contentOf(store, id)).equals(Buffer.concat(pages.map(([, page]) => page)))).toBe(true);
    await using reader = await store.open(id);
    const numbers = await joined(reader.pageNumbers());
    expect(pages.map(([number]) => number)).toEqual(pages.map((_, at) => Number(numbers.readBigUInt64LE(at * 8))));
  }
  await using writer = await store.create({ ...GOLDEN_VM, origin: "saved" });
  for (const [number, page] of goldenPages(0)) writer.add(number, page);
  await writer.drained();
  expect(writer.writtenBytes).toBe(0);
});
