import { existsSync, readFileSync } from "node:fs";
import { mkdir, readdir, rm, symlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { run } from "./run.ts";

/** A release of Debian whose packages the lab takes. */
export type Suite = "bookworm" | "trixie";

/** What nobody reads here and what is thousands of small files: left out, as in container images. */
const EXCLUDED = ["doc", "info", "lintian", "locale", "man"].map((name) => `--exclude=./usr/share/${name}`);
/** Part of the recipe of all that is unpacked; counts the changes of how that is done. */
export const UNPACKING_VERSION = 1;
const KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg";

/**
 * Unpacks Debian packages with all they depend on into a folder, on any Debian host, without root and without touching
 * the system: apt works on a root of its own, maintainer scripts are not run, and documentation is left out.
 *
 * @param into an empty folder; it gets the file tree, with /bin, /sbin and /lib merged into /usr
 * @throws Error when no mirror of apt's own configuration has the suite, signed with Debian's keys
 */
export async function unpackPackages(suite: Suite, packages: readonly string[], into: string): Promise<void> {
  const work = `${into}.apt`;
  await rm(work, { recursive: true, force: true });
  try {
    const apt = await privateApt(suite, work);
    await apt(["--download-only", "install", ...packages]);
    await mergeUsr(into);
    const archives = join(work, "cache/archives");
    for (const name of (await readdir(archives)).filter((name) => name.endsWith(".deb")).sort())
      await unpack(join(archives, name), into);
  } finally {
    await rm(work, { recursive: true, force: true });
  }
}

type Apt = (args: readonly string[]) => Promise<string>;

/** An apt-get with its own lists, archives and (empty) status; the first mirror that serves the suite is taken. */
async function privateApt(suite: Suite, work: string): Promise<Apt> {
  if (!existsSync(KEYRING)) throw new Error("the package debian-archive-keyring is needed (apt-get install it)");
  for (const folder of ["state/lists/partial", "cache/archives/partial"])
    await mkdir(join(work, folder), { recursive: true });
  await writeFile(join(work, "state/status"), "");
  await writeFile(join(work, "apt.conf"), aptConfiguration(work));
  const apt: Apt = (args) => run(["apt-get", "-c", join(work, "apt.conf"), "-q", "-y", ...args]);
  const failures: string[] = [];
  for (const mirror of await mirrors()) {
    await writeFile(join(work, "sources.list"), `deb [signed-by=${KEYRING}] ${mirror} ${suite} main\n`);
    try {
      await apt(["-eany", "update"]);
      return apt;
    } catch (error) {
      failures.push(error instanceof Error ? error.message : String(error));
    }
  }
  throw new Error(
    `no mirror in apt's configuration serves Debian ${suite}: ${failures.join("; ") || "apt names none"}`,
  );
}

function aptConfiguration(work: string): string {
  return `
Dir::State "${work}/state";
Dir::State::status "${work}/state/status";
Dir::Cache "${work}/cache";
Dir::Etc::sourcelist "${work}/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
Acquire::Languages "none";
APT::Architecture "amd64";
APT::Architectures { "amd64"; };
APT::Install-Recommends "false";
APT::Keep-Downloaded-Packages "true";
// apt would drop to the user _apt, who cannot write here
APT::Sandbox::User "";
// hooks of the host's configuration work on the host's caches
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear DPkg::Pre-Install-Pkgs;
`;
}

/** The mirrors that the host's apt uses for its own release, in its order. */
async function mirrors(): Promise<string[]> {
  const codename = /^VERSION_CODENAME=(.*)$/m.exec(readFileSync("/etc/os-release", "utf8"))?.[1];
  const format = "$(REPO_URI) $(RELEASE) $(COMPONENT)";
  // Without --no-release-info only targets whose lists have been fetched are named.
  return mirrorsOf(await run(["apt-get", "indextargets", "--no-release-info", "--format", format]), codename);
}

/** Picks the mirrors of the release from lines `URI RELEASE COMPONENT`. */
export function mirrorsOf(targets: string, codename: string | undefined): string[] {
  const rows = targets.split("\n").map((line) => line.split(" "));
  const fits = rows.filter(([, release, component]) => release === codename && component === "main");
  return [...new Set(fits.map(([uri]) => uri!))];
}

async function mergeUsr(root: string): Promise<void> {
  for (const name of ["bin", "sbin", "lib", "lib64"]) {
    await mkdir(join(root, "usr", name), { recursive: true });
    await symlink(`usr/${name}`, join(root, name));
  }
}

/** dpkg-deb -x would replace the links of the merged /usr by folders; tar can be told to follow them. */
async function unpack(archive: string, into: string): Promise<void> {
  const script = 'dpkg-deb --fsys-tarfile "$0" | tar -x --keep-directory-symlink "$@"';
  await run(["bash", "-o", "pipefail", "-c", script, archive, ...EXCLUDED, "-C", into]);
}
