import net from "node:net";

/** Reads of a reopened socket: where the next bytes go, and what happens with them. */
export interface ReadInto {
  /** Memory for the next bytes. It is asked for after each read, and used when reading goes on. */
  buffer: () => Uint8Array;
  /** `bytes` of the last buffer are filled. Returns whether to go on; else `resume()` on the socket does. */
  onBytes: (bytes: number) => boolean;
}

/** Sockets that were opened again by descriptor: kept, and never closed themselves, as the descriptor has one owner. */
const superseded = new Set<net.Socket>();

/**
 * Opens an accepted socket once more, so that it is read into memory of the caller's.
 *
 * Node offers that (`onread`) only for sockets that it opens itself, by connecting or from a file descriptor; for accepted ones
 * it allocates 64 KiB a read, which costs more than reading does (`npm run bench intake`). `_handle.fd` is not documented:
 * where it is missing this returns undefined, and 'data' events do the same, slower.
 *
 * @param accepted was accepted with `pauseOnConnect`, so that nothing of it was read; not to be used any more.
 * @returns the socket, paused.
 */
export function reopenForReading(
  accepted: net.Socket,
  { buffer, onBytes }: ReadInto,
  { allowHalfOpen }: { allowHalfOpen: boolean },
): net.Socket | undefined {
  const fd = (accepted as unknown as { _handle?: { fd?: number } })._handle?.fd;
  if (typeof fd !== "number" || fd < 0) return undefined;
  superseded.add(accepted);
  const onread = { buffer, callback: onBytes };
  const socket = new net.Socket({
    fd,
    readable: true,
    writable: true,
    allowHalfOpen,
    onread,
  } as net.SocketConstructorOpts);
  socket.on("close", () => superseded.delete(accepted));
  return socket;
}
