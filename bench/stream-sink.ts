/** Stands for the destination QEMU: reads its unix socket and forgets it. argv: path. */
import net from "node:net";

const server = net.createServer((socket) => {
  socket.on("data", () => {});
  socket.on("end", () => {
    socket.end();
    server.close();
    process.disconnect();
  });
});
server.listen(process.argv[2], () => process.send!("listening"));
