/**
 * Records the golden streams of test/golden/ anew with the lab's QEMUs.
 *
 *     scripts/record-golden.ts [NAME...]           records streams (default: all) and what is expected of them
 *     scripts/record-golden.ts --expect [NAME...]  writes anew only what `godwit inspect` says of the streams
 *
 * The guests are so small that a whole stream is a small file: 1 MiB of RAM and, as firmware, a program of 19 bytes.
 */
import { spawn } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { constants, zstdCompressSync } from "node:zlib";
import { temporaryFolder } from "../lab/leftovers.ts";
import { type QemuVersion, qemuCommand } from "../lab/qemus.ts";
import { startTap } from "../lab/tap.ts";
import type { VersionInfo } from "../src/qemu/commands.ts";
import { QmpClient } from "../src/qemu/qmp.ts";
import {
  type Expectation,
  goldenPath,
  goldenStream,
  inspectBytes,
  type QemuFigures,
} from "../test/unit/support/golden.ts";

interface Recipe {
  readonly qemu: QemuVersion;
  /** For the README. */
  readonly what: string;
  readonly args: readonly string[];
  readonly capabilities?: readonly string[];
  readonly parameters?: Readonly<Record<string, unknown>>;
  /** Before the migration. */
  readonly prepare?: (qmp: QmpClient) => Promise<void>;
  /** dirty-sync-count at which QEMU may end; until then its downtime limit is 1 ms. Default: at once. */
  readonly syncs?: number;
  /** To another QEMU, as a return path needs one. */
  readonly hasDestination?: boolean;
}

const paused = ["-S"];
const serial = ["-chardev", "null,id=serial", "-device", "isa-serial,chardev=serial"];

const recipes: Readonly<Record<string, Recipe>> = {
  "none-10.0": {
    qemu: "10.0",
    what: "the least that QEMU migrates: no devices, 64 KiB of RAM, never started",
    args: ["-machine", "none", "-m", "64K", ...paused],
  },
  "paused-7.2": {
    qemu: "7.2",
    what: "a q35 that was never started",
    args: ["-machine", "q35", "-m", "1M", "-device", "virtio-rng-pci", ...paused],
  },
  "rounds-7.2": {
    qemu: "7.2",
    what: "a pc that dirties 112 pages",
    args: ["-machine", "pc", "-m", "1M", ...serial],
    syncs: 4,
  },
  "compress-7.2": {
    qemu: "7.2",
    what: "capability compress, an isapc that dirties 112 pages",
    args: ["-machine", "isapc", "-m", "1M"],
    capabilities: ["compress"],
    syncs: 3,
  },
  "xbzrle-10.0": {
    qemu: "10.0",
    what: "capability xbzrle, a pc that dirties 112 pages",
    args: ["-machine", "pc", "-m", "1M"],
    capabilities: ["xbzrle"],
    syncs: 5,
  },
  "vga-10.0": {
    qemu: "10.0",
    what: "a q35 with video memory and other ramblocks, which dirties 112 pages",
    args: ["-machine", "q35", "-m", "1M", "-device", "VGA,vgamem_mb=1,romfile=", "-device", "virtio-balloon-pci"],
    syncs: 3,
  },
  "microvm-10.0": {
    qemu: "10.0",
    what: "a microvm that dirties 112 pages, two CPUs",
    args: ["-machine", "microvm", "-m", "1M", "-smp", "2"],
    syncs: 2,
  },
  "blank-10.0": {
    qemu: "10.0",
    what: "zero-page-detection none: pages of zeros come as whole pages",
    args: ["-machine", "pc", "-m", "1M", ...paused],
    parameters: { "zero-page-detection": "none" },
  },
  "return-path-10.0": {
    qemu: "10.0",
    what: "capability return-path, from a q35 that dirties 112 pages to a second QEMU, recorded between them",
    args: ["-machine", "q35", "-m", "1M"],
    capabilities: ["return-path"],
    syncs: 2,
    hasDestination: true,
  },
  "dirty-bitmap-10.0": {
    qemu: "10.0",
    what: "capability dirty-bitmaps: a second live section, with the dirty bitmap of a disk",
    args: ["-machine", "pc", "-m", "1M", "-blockdev", "driver=null-co,node-name=disk0,size=67108864,read-zeroes=on"],
    capabilities: ["dirty-bitmaps"],
    prepare: async (qmp) => {
      await qmp.executeAny("block-dirty-bitmap-add", { node: "disk0", name: "backup" });
      await qmp.executeAny("human-monitor-command", { "command-line": 'qemu-io disk0 "write 1M 3M"' });
    },
    syncs: 2,
  },
};

const ROM_BYTES = 65536;
const RESET_VECTOR = 0xfff0;
/** Adds one to the first byte of each page from 64 KiB to 512 KiB, in order, for ever. Real mode, at F000:0000. */
const PROGRAM = [
  ...[0xb8, 0x00, 0x10], //             start: mov ax, 0x1000
  ...[0x8e, 0xd8], //                   next:  mov ds, ax
  ...[0xfe, 0x06, 0x00, 0x00], //              inc byte [0]
  ...[0x05, 0x00, 0x01], //                    add ax, 0x100
  ...[0x3d, 0x00, 0x80], //                    cmp ax, 0x8000
  ...[0x72, 0xf2], //                          jb  next
  ...[0xeb, 0xed], //                          jmp start
];
const JUMP_TO_PROGRAM = [0xea, 0x00, 0x00, 0x00, 0xf0]; // jmp F000:0000

/** Slow enough for the guest to dirty its pages again before a round ends. */
const BYTES_PER_SECOND = 1_000_000;
const TIMEOUT_MS = 60_000;
const ZSTD_LEVEL = 19;

const names = process.argv.slice(2).filter((argument) => argument !== "--expect");
const onlyExpectations = process.argv.includes("--expect");
for (const name of names.length > 0 ? names : Object.keys(recipes)) {
  const recipe = recipes[name];
  if (recipe === undefined) throw new Error(`no golden stream is called ${name}: ${Object.keys(recipes).join(", ")}`);
  const { qemu, bytes } = onlyExpectations ? goldenStream(name) : await record(recipe);
  const expectation: Expectation = { qemu, inspection: await inspectBytes(bytes) };
  if (!onlyExpectations) {
    const packed = zstdCompressSync(bytes, { params: { [constants.ZSTD_c_compressionLevel]: ZSTD_LEVEL } });
    writeFileSync(goldenPath(name, "stream.zst"), packed);
    console.log(`${name}: ${bytes.length} bytes, ${packed.length} packed`);
  }
  writeFileSync(goldenPath(name, "json"), `${JSON.stringify(expectation, null, 1)}\n`);
}
writeFileSync(new URL("../test/golden/README.md", import.meta.url), readme());

async function record(recipe: Recipe): Promise<{ qemu: QemuFigures; bytes: Buffer }> {
  using folder = temporaryFolder();
  const stream = join(folder.path, "stream");
  const rom = join(folder.path, "rom");
  writeFileSync(rom, firmware());
  await using source = await startQemu(recipe, rom, join(folder.path, "source"));
  if (!recipe.hasDestination)
    return { qemu: await migrate(source.qmp, recipe, `exec:cat > ${stream}`), bytes: readFileSync(stream) };
  await using destination = await startQemu(recipe, rom, join(folder.path, "destination"), ["-incoming", "defer"]);
  await setCapabilities(destination.qmp, recipe);
  const uri = `unix:${join(folder.path, "incoming")}`;
  await destination.qmp.execute("migrate-incoming", { uri });
  await using tap = await startTap({ qmpPath: source.tapPath, direction: "source", recordTo: stream });
  using qmp = await QmpClient.connect(tap.qmpPath);
  const qemu = await migrate(qmp, recipe, uri);
  await tap.digest();
  return { qemu, bytes: readFileSync(stream) };
}

function firmware(): Buffer {
  const rom = Buffer.alloc(ROM_BYTES);
  rom.set(PROGRAM, 0);
  rom.set(JUMP_TO_PROGRAM, RESET_VECTOR);
  return rom;
}

/** A QEMU with two monitors: one for this script, one for a tap. */
async function startQemu(
  { qemu, args }: Recipe,
  rom: string,
  path: string,
  more: readonly string[] = [],
): Promise<{ qmp: QmpClient; tapPath: string } & AsyncDisposable> {
  const tapPath = `${path}.tap`;
  const monitors = [path, tapPath].flatMap((socket) => ["-qmp", `unix:${socket},server=on,wait=off`]);
  const quiet = ["-nodefaults", "-no-user-config", "-display", "none", "-accel", "tcg"];
  const [command, ...rest] = [...(await qemuCommand(qemu)), ...quiet, ...monitors, "-bios", rom, ...args, ...more] as [
    string,
    ...string[],
  ];
  const child = spawn("setpriv", ["--pdeathsig", "KILL", command, ...rest], { stdio: ["ignore", "ignore", "inherit"] });
  const exited = new Promise<void>((resolve) => child.once("close", () => resolve()));
  const deadlineMs = performance.now() + TIMEOUT_MS;
  for (;;) {
    try {
      const qmp = await QmpClient.connect(path);
      const dispose = async () => {
        qmp.close();
        child.kill("SIGKILL");
        await exited;
      };
      return { qmp, tapPath, [Symbol.asyncDispose]: dispose };
    } catch (error) {
      // It is not there yet, or has ended and said why.
      if (child.exitCode !== null || performance.now() > deadlineMs) throw error;
      await delay(20);
    }
  }
}

async function setCapabilities(qmp: QmpClient, { capabilities = [] }: Recipe): Promise<void> {
  await qmp.execute("migrate-set-capabilities", {
    capabilities: capabilities.map((capability) => ({ capability, state: true })),
  });
}

/** Migrates as the recipe says and returns QEMU's figures. */
async function migrate(qmp: QmpClient, recipe: Recipe, uri: string): Promise<QemuFigures> {
  await recipe.prepare?.(qmp);
  await setCapabilities(qmp, recipe);
  if (recipe.parameters) await qmp.executeAny("migrate-set-parameters", recipe.parameters);
  if (recipe.syncs)
    await qmp.execute("migrate-set-parameters", { "max-bandwidth": BYTES_PER_SECOND, "downtime-limit": 1 });
  await qmp.execute("migrate", { uri });
  let mayEnd = recipe.syncs === undefined;
  for (const deadlineMs = performance.now() + TIMEOUT_MS; performance.now() < deadlineMs; await delay(20)) {
    const info = (await qmp.executeAny("query-migrate")) as MigrationFigures;
    if (info.status === "failed") throw new Error(`the migration failed: ${info["error-desc"]}`);
    if (info.status === "completed") return figures(info, await qmp.execute("query-version"));
    if (!mayEnd && (info.ram?.["dirty-sync-count"] ?? 0) >= recipe.syncs!) {
      mayEnd = true;
      await qmp.execute("migrate-set-parameters", { "downtime-limit": 60_000 });
    }
  }
  throw new Error("the migration does not end");
}

/** qapi/migration.json, MigrationInfo, as far as it counts pages. */
interface MigrationFigures {
  readonly status: string;
  readonly "error-desc"?: string;
  readonly ram?: { readonly duplicate: number; readonly normal: number; readonly "dirty-sync-count": number };
  readonly "xbzrle-cache"?: { readonly pages: number };
  readonly compression?: { readonly pages: number };
}

function figures({ ram, "xbzrle-cache": xbzrle, compression }: MigrationFigures, { qemu }: VersionInfo): QemuFigures {
  return {
    version: `${qemu.major}.${qemu.minor}.${qemu.micro}`,
    duplicate: ram!.duplicate,
    normal: ram!.normal,
    xbzrlePages: xbzrle?.pages ?? 0,
    compressedPages: compression?.pages ?? 0,
    dirtySyncCount: ram!["dirty-sync-count"],
  };
}

function readme(): string {
  const rows = Object.entries(recipes).map(([name, { what, args }]) => {
    return `| \`${name}\` | ${goldenStream(name).qemu.version} | ${what} | \`${args.join(" ")}\` |`;
  });
  return `# Golden streams

Ten migration streams that real QEMUs (Debian's) wrote, packed with zstd (\`zstd -dc NAME.stream.zst | godwit inspect -\`).
Beside each stands \`NAME.json\`: what QEMU counted (\`query-migrate\` after the end) and what \`godwit inspect --json\` has to say.
test/unit/golden.test.ts reads them. scripts/record-golden.ts records them anew and writes this page.

| stream | QEMU | what | arguments |
|---|---|---|---|
${rows.join("\n")}

All have \`-nodefaults -no-user-config -display none -accel tcg -bios ROM\`; the ROM is 64 KiB with a program of 19 bytes that
adds one to the first byte of each page from 64 KiB to 512 KiB, in order, for ever. Rounds are had by a downtime limit of 1 ms
until QEMU has synced often enough. All but \`return-path-10.0\` were saved with \`migrate "exec:cat > FILE"\`.
`;
}
