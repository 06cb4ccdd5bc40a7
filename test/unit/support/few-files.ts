/** A listener that has no file descriptor left, but for the transfer that goes on, until it is told ("on") to give some back. */
import { closeSync, openSync } from "node:fs";
import { listen } from "../../../src/wire/transport.ts";

const key = Buffer.alloc(32, 7);
const listener = await listen({
  host: "127.0.0.1",
  port: 0,
  security: { kind: "psk", psk: { identity: "few-files", key } },
  onConnection: (connection) => connection.receive((chunk) => connection.write([Buffer.from(chunk)])),
  onRejected: () => {},
});
const taken: number[] = [];
process.on("message", (message) => {
  if (message === "on") for (const file of taken.splice(0)) closeSync(file);
  else takeAll();
  process.send!({ taken: taken.length });
});
process.send!({ port: listener.address.port });

function takeAll(): void {
  try {
    for (;;) taken.push(openSync("/dev/null", "r"));
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "EMFILE") throw error;
  }
}
