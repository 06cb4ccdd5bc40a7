import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { createServer, type Server, type ServerOpts } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";

const folders: string[] = [];

export function newFolder(): string {
  const path = mkdtempSync(join(process.env.GODWIT_TEST_MEMORY ?? tmpdir(), "godwit-fuzz-"));
  folders.push(path);
  return path;
}

export function removeFolders(): void {
  for (const path of folders.splice(0)) rmSync(path, { recursive: true, force: true });
}

/** A server on a unix socket in a folder of its own. */
export interface LocalServer {
  readonly path: string;
  readonly server: Server;
}

export async function listenInNewFolder(options: ServerOpts = {}): Promise<LocalServer> {
  const path = join(newFolder(), "socket");
  const server = createServer(options).listen(path);
  await once(server, "listening");
  return { path, server };
}
