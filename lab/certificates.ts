/** A certificate authority for tests and benchmarks, made by the `openssl` command in a folder of its own. */
import { execFileSync } from "node:child_process";
import { copyFileSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

export interface Certificate {
  readonly certificate: string;
  readonly key: string;
}

export interface CertificateRequest {
  /** As openssl writes subjectAltName: "DNS:host-a,IP:10.0.0.1". */
  readonly names?: string;
  readonly usage?: "serverAuth" | "clientAuth" | "serverAuth,clientAuth";
  /** Days from now; the first may be negative. */
  readonly valid?: readonly [from: number, to: number];
}

const CONFIG = `[ca]
default_ca = own
[own]
database = index.txt
serial = serial
crlnumber = crlnumber
certificate = ca.pem
private_key = ca.key
default_md = sha256
policy = policy
new_certs_dir = .
copy_extensions = copy
unique_subject = no
[policy]
commonName = supplied
`;
const NEW_KEY = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
const DAY_MS = 24 * 60 * 60 * 1000;

export class CertificateAuthority implements Disposable {
  /** Everything the authority has made, and what is made of it. */
  readonly folder: string;
  #made = 0;

  constructor(name = "godwit test CA") {
    this.folder = mkdtempSync(join(tmpdir(), "godwit-ca-"));
    writeFileSync(join(this.folder, "ca.cnf"), CONFIG);
    writeFileSync(join(this.folder, "index.txt"), "");
    for (const file of ["serial", "crlnumber"]) writeFileSync(join(this.folder, file), "01\n");
    const usage = ["-addext", "keyUsage=critical,keyCertSign,cRLSign"];
    this.#openssl("req", "-x509", ...NEW_KEY, "-subj", `/CN=${name}`, "-keyout", "ca.key", "-out", "ca.pem", ...usage);
  }

  get caPath(): string {
    return join(this.folder, "ca.pem");
  }

  /** Issues a certificate; valid for a day unless asked for otherwise. */
  issue(commonName: string, { names, usage, valid = [-1, 1] }: CertificateRequest = {}): Certificate {
    const file = `made-${++this.#made}`;
    const extensions = [
      ...(names === undefined ? [] : ["-addext", `subjectAltName=${names}`]),
      ...(usage === undefined ? [] : ["-addext", `extendedKeyUsage=${usage}`]),
    ];
    const request = ["-subj", `/CN=${commonName}`, "-keyout", `${file}.key`, "-out", `${file}.csr`, ...extensions];
    this.#openssl("req", ...NEW_KEY, ...request);
    const dates = ["-startdate", dateIn(valid[0]), "-enddate", dateIn(valid[1])];
    this.#openssl(
      "ca",
      "-batch",
      "-notext",
      "-config",
      "ca.cnf",
      "-in",
      `${file}.csr`,
      "-out",
      `${file}.pem`,
      ...dates,
    );
    return { certificate: join(this.folder, `${file}.pem`), key: join(this.folder, `${file}.key`) };
  }

  revoke({ certificate }: Certificate): void {
    this.#openssl("ca", "-config", "ca.cnf", "-revoke", certificate);
  }

  /** A list of what was revoked by now; where it is. */
  revocationList(valid: readonly [from: number, to: number] = [-1, 1]): string {
    const path = join(this.folder, `crl-${++this.#made}.pem`);
    const dates = ["-crl_lastupdate", dateIn(valid[0]), "-crl_nextupdate", dateIn(valid[1])];
    this.#openssl("ca", "-config", "ca.cnf", "-gencrl", ...dates, "-out", path);
    return path;
  }

  /** A folder for --tls-dir with libvirt's names; its path. */
  tlsFolder(files: { client?: Certificate; server?: Certificate; revoked?: string; ca?: string }): string {
    const folder = join(this.folder, `tls-${++this.#made}`);
    mkdirSync(folder, { mode: 0o700 });
    copyFileSync(files.ca ?? this.caPath, join(folder, "cacert.pem"));
    if (files.revoked !== undefined) copyFileSync(files.revoked, join(folder, "cacrl.pem"));
    for (const end of ["client", "server"] as const) {
      const made = files[end];
      if (made === undefined) continue;
      copyFileSync(made.certificate, join(folder, `${end}cert.pem`));
      copyFileSync(made.key, join(folder, `${end}key.pem`));
    }
    return folder;
  }

  [Symbol.dispose](): void {
    rmSync(this.folder, { recursive: true });
  }

  #openssl(...args: string[]): void {
    execFileSync("openssl", args, { cwd: this.folder, stdio: ["ignore", "ignore", "pipe"] });
  }
}

/** As openssl takes it: YYYYMMDDHHMMSSZ. */
function dateIn(days: number): string {
  const text = new Date(Date.now() + days * DAY_MS).toISOString();
  return `${text.slice(0, 19).replaceAll(/[-:T]/g, "")}Z`;
}
