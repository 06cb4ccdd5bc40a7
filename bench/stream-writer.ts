/** Stands for the source QEMU: writes a stream of pages into a unix socket as fast as it is taken. argv: path, pages, zero share. */
import net from "node:net";
import { pageRecords, streamHead } from "./support.ts";

const [path, pages, zeroShare] = process.argv.slice(2);
const CHUNK_PAGES = 4096;
const records = pageRecords(CHUNK_PAGES, Number(zeroShare));
const socket = net.connect(path!, () => {
  socket.write(streamHead());
  let left = Number(pages);
  const write = () => {
    while (left > 0) {
      left -= CHUNK_PAGES;
      if (!socket.write(records)) return;
    }
    socket.end();
  };
  socket.on("drain", write);
  write();
});
