/** Certificates at both ends, and a thousand idle strangers from the sender's own host, while a VM moves. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { expect, test } from "vitest";
import { CertificateAuthority } from "../../lab/certificates.ts";
import { startFaultyLink } from "../../lab/faulty-link.ts";
import { startGodwit, startMigration } from "../../lab/godwit.ts";
import { startVm } from "../../lab/vm.ts";
import { cleanWalks } from "../../lab/walks.ts";
import { SMALL_LOAD, startPair } from "./support/pair.ts";

/** Connects a thousand times, says so, and holds on to what it is given until its input ends. */
const STRANGERS = `
  const [host, port] = process.argv.slice(1);
  let left = 1000;
  for (let i = 0; i < 1000; i++) {
    const socket = require("node:net").connect({ host, port });
    socket.on("error", () => {});
    socket.on("connect", () => --left === 0 && console.log("all there"));
  }
  process.stdin.on("end", () => process.exit()).resume();`;

test("only the host that is allowed moves the VM, and strangers do not disturb it", async () => {
  await using pair = await startPair({ load: SMALL_LOAD });
  const { source, destination } = pair.hosts;
  using authority = new CertificateAuthority();
  // Slow until all others have been there.
  await using link = await startFaultyLink(source);
  await link.set({ kind: "slow", bytesPerSecond: 1_000_000 });
  const names = `IP:${destination.address},IP:${link.address.host}`;
  const server = authority.issue("b", { names, usage: "serverAuth" });
  const folderOf = (name: string) =>
    authority.tlsFolder({ server, client: authority.issue(name, { names: `DNS:${name}`, usage: "clientAuth" }) });
  const [own, other] = [folderOf("host-a"), folderOf("host-c")];

  await using migration = await startMigration(pair, {
    security: { send: ["--tls-dir", own], receive: ["--tls-dir", own, "--allow-peer", "host-a"] },
    sendArgs: ["--no-keep-checkpoint"],
    through: link,
  });
  await migration.send.event("progress");
  const address = await migration.receive.event("listening");
  const to = ["--to", `${address.host}:${address.port}`];

  await using elsewhere = await startVm({ name: "other", host: source, paused: true });
  await using wrong = startGodwit(source, ["send", "--qmp", elsewhere.qmpPath, ...to, "--tls-dir", other]);
  const refused = await wrong.exited;
  expect(refused.stderr).toMatch(
    /^godwit: the destination refuses: .*\(DNS:host-c\) is not for host-a: .*; nothing was changed/,
  );
  expect(refused.code).toBe(2);

  const [command, ...args] = source.command([process.execPath, "-e", STRANGERS, address.host, String(address.port)]);
  const strangers = spawn(command!, args, { stdio: ["pipe", "pipe", "inherit"] });
  try {
    await once(strangers.stdout, "data");
    await link.heal();
    const [sent, received] = await Promise.all([migration.send.exited, migration.receive.exited]);
    expect(sent, sent.stderr).toMatchObject({ code: 0, stderr: "" });
    expect(received.code, received.stderr).toBe(0);
    expect(received.stderr.trim().split("\n").length).toBeLessThan(10);
    expect(received.stderr).toMatch(/was refused: the certificate of the source \(DNS:host-c\) is not for host-a/);
    expect(received.stderr).toMatch(/was turned away/);
    await cleanWalks(pair.destination, 1);
  } finally {
    strangers.stdin.end();
    await once(strangers, "close");
  }
});
