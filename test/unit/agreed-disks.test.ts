// Which of the source's disks the destination reads; none of them can make a migration fail.
import { expect, onTestFinished, test } from "vitest";
import { AgreedDisks, type DiskOpener } from "../../src/migration/agreed-disks.ts";
import { QmpClient } from "../../src/qemu/qmp.ts";
import { FakeDisk } from "./support/disk-bodies.ts";
import { FakeQmp, refuse } from "./support/fake-qmp.ts";

function block(id: string, sizeBytes: number) {
  const image = { filename: `/${id}`, format: "raw", "virtual-size": sizeBytes };
  const inserted = { file: image.filename, "node-name": id, ro: false, drv: "raw", image };
  return { device: "", qdev: `/machine/peripheral/${id}/virtio-backend`, removable: false, inserted };
}

async function connect(
  queryBlock: unknown = [block("a", 8192), block("b", 4096), block("c", 512)],
): Promise<QmpClient> {
  const fake = await FakeQmp.start({ commands: { "query-block": queryBlock } });
  onTestFinished(() => fake[Symbol.asyncDispose]());
  const qmp = await QmpClient.connect(fake.path);
  onTestFinished(() => qmp.close());
  return qmp;
}

interface Fake {
  readonly open: DiskOpener;
  asked: string[];
  closed: number;
}

/** Opens all but `unreadable`. */
function opener(unreadable: Record<string, string> = {}): Fake {
  const fake: Fake = {
    asked: [],
    closed: 0,
    open: async (_qmp, disks) => {
      fake.asked = disks.map(({ id }) => id);
      const readable = fake.asked.filter((id) => !(id in unreadable));
      return {
        readers: new Map(readable.map((id, index) => [id, new FakeDisk(index, 1)])),
        unreadable: new Map(Object.entries(unreadable)),
        [Symbol.asyncDispose]: async () => void fake.closed++,
      };
    },
  };
  return fake;
}

test("the disks that both have, in the order of this end, with the size that QEMU says", async () => {
  const fake = opener();
  const agreed = await AgreedDisks.open(await connect(), ["b", "a"], fake.open);
  expect(agreed.disks.map(({ id, blocks }) => [id, blocks])).toEqual([
    ["a", 2],
    ["b", 1],
  ]);
  expect(fake.asked).toEqual(["a", "b"]);
  expect(agreed.missing).toBeNull();
  await agreed.close();
  expect(fake.closed).toBe(1);
});

test("those that are missing are named, with the reason", async () => {
  const fake = opener({ b: "no such file" });
  const agreed = await AgreedDisks.open(await connect(), ["a", "b", "elsewhere"], fake.open);
  expect(agreed.disks.map(({ id }) => id)).toEqual(["a"]);
  expect(agreed.missing).toBe("b: no such file; elsewhere: it is not there");
});

test("a source that reads none costs nothing", async () => {
  const fake = opener();
  const agreed = await AgreedDisks.open(await connect(), [], fake.open);
  expect(agreed).toMatchObject({ disks: [], missing: null });
  expect(fake.asked).toEqual([]);
  await agreed.close();
});

test("a QEMU that does not tell its disks", async () => {
  const qmp = await connect(() => {
    throw refuse("GenericError", "not now");
  });
  const agreed = await AgreedDisks.open(qmp, ["a"], opener().open);
  expect(agreed.disks).toEqual([]);
  expect(agreed.missing).toMatch(/^a: .*not now/);
  await agreed.close();
});

test("disks that take too long are done without, and closed when they are there", async () => {
  const fake = opener();
  const gate = Promise.withResolvers<void>();
  const slow: DiskOpener = async (...args) => {
    await gate.promise;
    return fake.open(...args);
  };
  const agreed = await AgreedDisks.open(await connect(), ["a"], slow);
  expect(agreed.disks).toEqual([]);
  expect(agreed.missing).toMatch(/^a: .*5 s/);
  const closed = agreed.close();
  gate.resolve();
  await closed;
  expect(fake.closed).toBe(1);
});
