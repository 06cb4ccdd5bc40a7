import { chmodSync, copyFileSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import * as tls from "node:tls";
import { afterAll, afterEach, beforeAll, expect, test } from "vitest";
import { type Certificate, CertificateAuthority } from "../../lab/certificates.ts";
import type { GodwitError } from "../../src/errors.ts";
import type { Connection } from "../../src/wire/connection.ts";
import { generatePsk } from "../../src/wire/psk.ts";
import { MessageReader } from "../../src/wire/reader.ts";
import { checkOwnCertificate } from "../../src/wire/tls.ts";
import { readTlsFolder } from "../../src/wire/tls-files.ts";
import { connect, type Listener, listen, type Security } from "../../src/wire/transport.ts";
import { passes } from "./support/passes.ts";

let ca: CertificateAuthority;
let foreign: CertificateAuthority;
let server: Certificate;
let client: Certificate;
const undo: (() => unknown)[] = [];

beforeAll(() => {
  ca = new CertificateAuthority();
  foreign = new CertificateAuthority("another CA");
  server = ca.issue("host-b", { names: "DNS:host-b,DNS:localhost,IP:127.0.0.1", usage: "serverAuth" });
  client = ca.issue("host-a", { names: "DNS:host-a", usage: "clientAuth" });
});
afterAll(() => {
  ca[Symbol.dispose]();
  foreign[Symbol.dispose]();
});
afterEach(async () => {
  for (const action of undo.splice(0).reverse()) await action();
});

const tlsOf = (folder: string, ...peerNames: string[]): Security => ({ kind: "tls", folder, peerNames });
const coded = (code: string, message: RegExp) =>
  expect.objectContaining({ code, message: expect.stringMatching(message) });

interface Lab {
  readonly listener: Listener;
  readonly rejected: GodwitError[];
  readonly accepted: Connection[];
}

async function start(security: Security): Promise<Lab> {
  const [rejected, accepted]: [GodwitError[], Connection[]] = [[], []];
  const listener = await listen({
    host: "127.0.0.1",
    port: 0,
    security,
    onConnection: (connection) => void accepted.push(connection),
    onRejected: (error) => void rejected.push(error),
  });
  undo.push(() => {
    listener.close();
    for (const connection of accepted) connection.destroy();
  });
  return { listener, rejected, accepted };
}

async function dial({ listener }: Lab, security: Security): Promise<Connection> {
  const connection = await connect({ ...listener.address, security });
  undo.push(() => connection.destroy());
  return connection;
}

/** The REFUSE that an end gets to read. */
async function refusal(connection: Connection): Promise<{ code: string; message: string }> {
  return new Promise((resolve, reject) => {
    const reader = new MessageReader({
      onMessage: (message) => (message.type === "REFUSE" ? resolve(message) : reject(message)),
      onData: () => null,
      onDataComplete: () => {},
      onRepair: () => new Uint8Array(),
      onRepairComplete: () => {},
    });
    connection.receive((chunk) => void reader.push(chunk));
    void connection.closed.then(reject);
  });
}

const both = () => ca.tlsFolder({ client, server });

test("certificates of one CA at both ends: bytes go both ways", async () => {
  const lab = await start(tlsOf(both()));
  const connection = await dial(lab, tlsOf(both()));
  await passes(() => expect(lab.accepted).toHaveLength(1));
  const received: string[] = [];
  connection.receive((chunk) => received.push(Buffer.from(chunk).toString()));
  lab.accepted[0]!.write([Buffer.from("hello")]);
  await passes(() => expect(received.join("")).toBe("hello"));
  expect(lab.rejected).toEqual([]);
});

/** Certificates of the sender that are refused, and what is said of them at both ends. */
const BAD_CLIENTS: Record<string, [RegExp, () => Parameters<CertificateAuthority["tlsFolder"]>[0]]> = {
  expired: [
    /^the certificate of the source \(.*host-a\) expired on \d{4}-\d\d-\d\d: renew it$/,
    () => ({ client: ca.issue("host-a", { valid: [-3, -2] }) }),
  ],
  "not yet valid": [
    /is not valid before \d{4}-\d\d-\d\d: check the clocks/,
    () => ({ client: ca.issue("host-a", { valid: [1, 2] }) }),
  ],
  "of another CA": [/is of a CA that the other end does not know/, () => ({ client: foreign.issue("host-a") })],
  "a server's": [/is not one of a client: issue it with the extended key usage clientAuth/, () => ({ client: server })],
};

test.each(Object.entries(BAD_CLIENTS))(
  "a sender's certificate that is %s is refused, in one line at both ends",
  async (_, [message, files]) => {
    const lab = await start(tlsOf(both()));
    const running = await dial(lab, tlsOf(both()));
    const refused = await dial(lab, tlsOf(ca.tlsFolder(files())));
    expect(await refusal(refused)).toMatchObject({ code: "WIRE_CERTIFICATE", message: expect.stringMatching(message) });
    await passes(() => expect(lab.rejected).toHaveLength(1));
    expect(lab.rejected[0]!.message).toMatch(/^127\.0\.0\.1:\d+ was refused: the certificate of the source/);
    expect(lab.accepted).toHaveLength(1);
    lab.accepted[0]!.write([Buffer.from("on")]);
    await new Promise<void>((resolve) => running.receive(() => resolve()));
  },
);

const BAD_SERVERS: Record<string, [RegExp, () => Certificate]> = {
  expired: [
    /^127\.0\.0\.1:\d+ was refused: the certificate of the destination \(.*\) expired on/,
    () => ca.issue("b", { names: "IP:127.0.0.1", valid: [-3, -2] }),
  ],
  "of another CA": [/is of a CA that the other end does not know/, () => foreign.issue("b", { names: "IP:127.0.0.1" })],
  "a client's": [/is not one of a server/, () => ca.issue("b", { names: "IP:127.0.0.1", usage: "clientAuth" })],
};

test.each(Object.entries(BAD_SERVERS))(
  "a receiver's certificate that is %s is refused, in one line at both ends",
  async (_, [message, make]) => {
    const lab = await start(tlsOf(ca.tlsFolder({ server: make() })));
    const attempt = dial(lab, tlsOf(both()));
    await expect(attempt).rejects.toEqual(coded("WIRE_CERTIFICATE", message));
    await passes(() => expect(lab.accepted).toHaveLength(1));
    expect((await refusal(lab.accepted[0]!)).message).toMatch(/^the certificate of the destination/);
  },
);

test("names: the host that is connected to, --tls-name in its place, --allow-peer at the receiver", async () => {
  const lab = await start(
    tlsOf(ca.tlsFolder({ server: ca.issue("host-b", { names: "DNS:host-b" }) }), "host-a", "host-c"),
  );
  const wrong = coded(
    "WIRE_PEER_NAME",
    /\(DNS:host-b\) is not for 127\.0\.0\.1: issue one that is, or say .* --tls-name/,
  );
  await expect(dial(lab, tlsOf(both()))).rejects.toEqual(wrong);
  await dial(lab, tlsOf(both(), "host-b"));
  const other = ca.tlsFolder({ client: ca.issue("host-d", { names: "DNS:*.d,DNS:host-d" }) });
  const refused = await dial(lab, tlsOf(other, "host-b"));
  expect(await refusal(refused)).toMatchObject({
    code: "WIRE_PEER_NAME",
    message: expect.stringMatching(/\(DNS:\*\.d, DNS:host-d\) is not for host-a or host-c: .* --allow-peer/),
  });
});

test("a name that no DNS name stands beside may be the common name, as libvirt has it", async () => {
  const lab = await start(tlsOf(ca.tlsFolder({ server: ca.issue("host-b") }), "host-a"));
  await dial(lab, tlsOf(ca.tlsFolder({ client: ca.issue("host-a") }), "host-b"));
  await passes(() => expect(lab.accepted).toHaveLength(1));
});

test("a revoked certificate is refused by whoever has the list, either end", async () => {
  const [bad, gone] = [ca.issue("host-a"), ca.issue("host-b", { names: "IP:127.0.0.1" })];
  ca.revoke(bad);
  ca.revoke(gone);
  const revoked = ca.revocationList();
  const lab = await start(tlsOf(ca.tlsFolder({ server, revoked })));
  await dial(lab, tlsOf(ca.tlsFolder({ client, revoked })));
  const refused = await dial(lab, tlsOf(ca.tlsFolder({ client: bad })));
  expect((await refusal(refused)).message).toMatch(/was revoked/);
  const other = await start(tlsOf(ca.tlsFolder({ server: gone })));
  await expect(dial(other, tlsOf(ca.tlsFolder({ client, revoked })))).rejects.toEqual(
    coded("WIRE_CERTIFICATE", /was revoked/),
  );
});

test("a revocation list that is out of date, of another CA or none lets nobody in", async () => {
  const old = await start(tlsOf(ca.tlsFolder({ server, revoked: ca.revocationList([-3, -2]) })));
  expect((await refusal(await dial(old, tlsOf(both())))).message).toMatch(
    /revocation list at the other end is out of date/,
  );
  const others = await start(tlsOf(ca.tlsFolder({ server, revoked: foreign.revocationList() })));
  expect((await refusal(await dial(others, tlsOf(both())))).message).toMatch(/is not that of its CA/);
  const folder = ca.tlsFolder({ server, client });
  writeFileSync(join(folder, "cacrl.pem"), "");
  const damaged = await start(tlsOf(folder));
  await expect(dial(damaged, tlsOf(both()))).rejects.toThrow();
  expect(damaged.rejected).toEqual([coded("WIRE_TLS_FILES", /holds no revocation list in PEM/)]);
  await expect(checkOwnCertificate(folder, "server")).rejects.toEqual(coded("WIRE_TLS_FILES", /no revocation list/));
  expect(old.accepted.length + others.accepted.length + damaged.accepted.length).toBe(0);
});

test("renewed files count from the next connection on", async () => {
  const bad = ca.issue("host-a");
  const folder = ca.tlsFolder({ server, revoked: ca.revocationList() });
  const lab = await start(tlsOf(folder));
  await dial(lab, tlsOf(ca.tlsFolder({ client: bad })));
  await passes(() => expect(lab.accepted).toHaveLength(1));
  ca.revoke(bad);
  copyFileSync(ca.revocationList(), join(folder, "cacrl.pem"));
  expect((await refusal(await dial(lab, tlsOf(ca.tlsFolder({ client: bad }))))).message).toMatch(/was revoked/);
});

test("no certificate, a key instead, a certificate instead of a key, another service of the same host", async () => {
  const lab = await start(tlsOf(both()));
  const naked = tls.connect({ ...lab.listener.address, rejectUnauthorized: false, ALPNProtocols: ["godwit"] });
  undo.push(() => naked.destroy());
  const answer = await new Promise<string>((resolve) => naked.once("data", (data) => resolve(data.toString())));
  expect(answer).toContain("the source shows no certificate: give both ends --tls-dir, or both --psk-file");
  const psk: Security = { kind: "psk", psk: generatePsk() };
  await expect(dial(lab, psk)).rejects.toEqual(coded("WIRE_WRONG_KEY", /shows a certificate.*both --psk-file$/));
  await expect(dial(await start(psk), tlsOf(both()))).rejects.toEqual(coded("WIRE_CERTIFICATE", /has no certificate/));
  const files = readTlsFolder(both(), "client");
  const stranger = tls.connect({ ...lab.listener.address, ca: files.ca, cert: files.certificate, key: files.key });
  undo.push(() => stranger.destroy());
  const refused = await new Promise<string>((resolve) => stranger.once("data", (data) => resolve(data.toString())));
  expect(refused).toContain("the source speaks TLS, but not for godwit");
  expect(lab.accepted).toEqual([]);
});

test("no session is resumed: each connection shows its certificate", async () => {
  const lab = await start(tlsOf(both()));
  const { ca: cacert, certificate: cert, key } = readTlsFolder(both(), "client");
  const options = { ...lab.listener.address, ca: cacert, cert, key, ALPNProtocols: ["godwit"] };
  const first = tls.connect(options);
  undo.push(() => first.destroy());
  const sessions: Buffer[] = [];
  first.on("session", (session) => sessions.push(session));
  await passes(() => expect(lab.accepted).toHaveLength(1));
  lab.accepted[0]!.write([Buffer.from("x")]);
  await new Promise((resolve) => first.once("data", resolve));
  for (const session of sessions) {
    const again = tls.connect({ ...options, session });
    undo.push(() => again.destroy());
    await new Promise((resolve) => again.once("secureConnect", resolve));
    expect(again.isSessionReused()).toBe(false);
  }
});

const LAYOUTS: Record<string, Record<string, string>> = {
  "libvirt's with private/": { "serverkey.pem": "private/serverkey.pem" },
  "QEMU's": { "cacert.pem": "ca-cert.pem", "servercert.pem": "server-cert.pem", "serverkey.pem": "server-key.pem" },
  "libvirt's /etc/pki": {
    "cacert.pem": "CA/cacert.pem",
    "servercert.pem": "libvirt/servercert.pem",
    "serverkey.pem": "libvirt/private/serverkey.pem",
  },
};

test.each(Object.entries(LAYOUTS))("layout: %s", (_, moves) => {
  const folder = ca.tlsFolder({ server });
  for (const name of ["private", "CA", "libvirt", "libvirt/private"]) mkdirSync(join(folder, name));
  for (const [from, to] of Object.entries(moves)) renameSync(join(folder, from), join(folder, to));
  expect(readTlsFolder(folder, "server").certificate).toEqual(readFileSync(server.certificate));
});

test("files that are missing, doubled, mixed up, readable by others", () => {
  const folder = ca.tlsFolder({ server });
  const read = () => readTlsFolder(folder, "server");
  const key = join(folder, "serverkey.pem");
  chmodSync(key, 0o640);
  expect(read).toThrow(coded("WIRE_TLS_PERMISSIONS", /^others can read the key .*serverkey\.pem$/));
  chmodSync(key, 0o600);
  copyFileSync(client.key, key);
  expect(read).toThrow(coded("WIRE_TLS_FILES", /is not the key of the certificate/));
  writeFileSync(key, "nonsense");
  expect(read).toThrow(coded("WIRE_TLS_FILES", /the server key in .* is none in PEM/));
  writeFileSync(key, "-----BEGIN ENCRYPTED PRIVATE KEY-----");
  expect(read).toThrow(coded("WIRE_TLS_FILES", /the server key in .* is encrypted/));
  copyFileSync(server.key, join(folder, "server-key.pem"));
  expect(read).toThrow(
    coded("WIRE_TLS_FILES", /serverkey\.pem and .*server-key\.pem are the same file under two names/),
  );
  rmSync(key);
  expect(read).not.toThrow();
  rmSync(join(folder, "server-key.pem"));
  expect(read).toThrow(coded("WIRE_TLS_FILES", /there is no server key in .*: it would be serverkey\.pem or/));
  expect(() => readTlsFolder(folder, "client")).toThrow(coded("WIRE_TLS_FILES", /there is no client certificate in/));
});

test("an end's own certificate is checked before anything begins", async () => {
  const check = (made: Certificate, end: "client" | "server", revoked?: string) =>
    checkOwnCertificate(ca.tlsFolder({ [end]: made, ...(revoked && { revoked }) }), end);
  await check(server, "server", ca.revocationList());
  await check(client, "client");
  await check(ca.issue("no usage"), "client");
  await expect(check(client, "server")).rejects.toEqual(
    coded("WIRE_CERTIFICATE", /of the destination .* not one of a server/),
  );
  await expect(check(server, "client")).rejects.toEqual(
    coded("WIRE_CERTIFICATE", /of the source .* is not one of a client/),
  );
  const expired = ca.issue("old", { valid: [-3, -2] });
  await expect(check(expired, "server")).rejects.toEqual(coded("WIRE_CERTIFICATE", /expired on/));
  await expect(check(foreign.issue("x"), "server")).rejects.toEqual(coded("WIRE_CERTIFICATE", /of a CA that/));
  ca.revoke(expired);
  await expect(check(server, "server", ca.revocationList([-3, -2]))).rejects.toEqual(
    coded("WIRE_CERTIFICATE", /out of date/),
  );
});
