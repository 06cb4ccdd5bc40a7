import net from "node:net";
import { GodwitError } from "../errors.ts";

/**
 * Connects to the unix socket on which the destination QEMU listens.
 *
 * @param onBroken is told when it breaks later: MIGRATION_DESTINATION_SOCKET
 * @throws GodwitError MIGRATION_DESTINATION_SOCKET
 */
export async function connectToDestination(path: string, onBroken: (error: GodwitError) => void): Promise<net.Socket> {
  const socket = net.connect({ path, allowHalfOpen: true });
  await new Promise<void>((resolve, reject) => {
    socket.once("connect", resolve);
    socket.once("error", (cause) => reject(broken(cause)));
  });
  socket.on("error", (cause) => onBroken(broken(cause)));
  return socket;
}

function broken(cause: Error): GodwitError {
  const message = `the destination QEMU's stream broke: ${cause.message}`;
  return new GodwitError("MIGRATION_DESTINATION_SOCKET", message, {}, { cause });
}
