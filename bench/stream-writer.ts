/** Stands for the source QEMU: writes a stream of pages into a unix socket as fast as it is taken. argv: path, pages, workload. */
import net from "node:net";
import { streamHead, type Workload, workloadRecords } from "./support.ts";

const [path, total, workload] = process.argv.slice(2);
const { records, pages } = workloadRecords(workload as Workload);
const socket = net.connect(path!, () => {
  socket.write(streamHead());
  let left = Number(total);
  const write = () => {
    while (left > 0) {
      left -= pages;
      if (!socket.write(records)) return;
    }
    socket.end();
  };
  socket.on("drain", write);
  write();
});
