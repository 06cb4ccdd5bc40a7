import { existsSync, readdirSync, readFileSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { describe, expect, test } from "vitest";

/** What the documents name is there: files, folders, headings, commands of npm. */

const root = fileURLToPath(new URL("../..", import.meta.url));
const documents = [
  "README.md",
  "CONTRIBUTING.md",
  "lab/README.md",
  ...readdirSync(join(root, "docs")).flatMap((name) => (name.endsWith(".md") ? [`docs/${name}`] : [])),
];
const folders = ["assembly", "bench", "docs", "lab", "scripts", "src", "test"];
const files = new Set(
  folders
    .flatMap((folder) => readdirSync(join(root, folder), { recursive: true, encoding: "utf8" }))
    .map((file) => basename(file)),
);

function textOf(document: string): string {
  return readFileSync(join(root, document), "utf8");
}

/** As GitHub makes them of headings. */
function anchorsOf(document: string): string[] {
  const headings = [...textOf(document).matchAll(/^#+ (.*)$/gm)].map(([, heading]) => heading!);
  return headings.map((heading) =>
    heading
      .toLowerCase()
      .replaceAll(/[^\w\- ]/g, "")
      .replaceAll(" ", "-"),
  );
}

describe.each(documents)("%s", (document) => {
  const text = textOf(document);

  test("names files that are there", () => {
    const names = [...text.matchAll(/`([\w./-]+\.(?:test\.)?(?:ts|sh|wasm))`/g)].map(([, name]) => name!);
    const missing = names.filter(
      (name) => !existsSync(join(root, name)) && (isPath(name) || !files.has(basename(name))),
    );
    expect(missing).toEqual([]);
  });

  test("names folders that are there", () => {
    const names = [...text.matchAll(/(?<!QEMU.s )[`*]([a-z][\w/-]*\/)[`*]/g)].map(([, name]) => name!);
    expect(names.filter((name) => isPath(name) && !existsSync(join(root, name)))).toEqual([]);
  });

  test("links to what is there", () => {
    const links = [...text.matchAll(/\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)/g)];
    const broken = links.filter(([, path, anchor]) => {
      const target = path ? join(dirname(document), path) : document;
      return !existsSync(join(root, target)) || (anchor !== undefined && !anchorsOf(target).includes(anchor));
    });
    expect(broken.map(([link]) => link)).toEqual([]);
  });

  test("names commands of npm that are there", () => {
    const { scripts } = JSON.parse(textOf("package.json"));
    const names = [...text.matchAll(/(?:`|^ *)npm (?:run )?(?:--silent )?([a-z][\w:]*)/gm)].map(([, name]) => name!);
    expect(names.filter((name) => !["ci", "install", ...Object.keys(scripts)].includes(name))).toEqual([]);
  });
});

/** Whether a name begins at the root of the repository. */
function isPath(name: string): boolean {
  return folders.includes(name.split("/")[0]!) && name.includes("/");
}
