import { stat } from "node:fs/promises";
import { expect, test } from "vitest";
import {
  codeOf,
  contentOf,
  filesOf,
  keep,
  newStore,
  PAGE_BYTES,
  pageOf,
  pagesOf,
  VM,
} from "./support/checkpoint-stores.ts";

test("keeps pages, and reads them by their positions", async () => {
  const store = await newStore();
  await using writer = await store.create(VM);
  writer.add(100, pagesOf(0, 40));
  writer.add(7, pageOf(1000));
  await writer.drained();
  writer.add(50_000, pagesOf(2000, 3));
  const kept = await writer.finish();
  expect(kept).toMatchObject({ identity: "name:a", vmName: "a", pages: 44, origin: "saved", state: "whole" });
  const content = await contentOf(store, kept.id);
  expect(content.equals(Buffer.concat([pageOf(1000), pagesOf(0, 40), pagesOf(2000, 3)]))).toBe(true);
  expect(await store.check(kept.id)).toEqual({ id: kept.id, pages: 44, damagedPages: 0, problems: [] });
});

test("leaves nothing but the checkpoint, for its owner only", async () => {
  const store = await newStore();
  await keep(store, 20);
  const files = await filesOf(store);
  expect(files.map((path) => path.replace(/.*[/.]/, ""))).toEqual(expect.arrayContaining(["vm", "pack", "checkpoint"]));
  expect(files).toHaveLength(3);
  for (const path of files) expect((await stat(path)).mode & 0o777).toBe(0o600);
});
