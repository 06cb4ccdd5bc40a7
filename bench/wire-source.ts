/** Stands for the sender: DATA as fast as it is acknowledged. argv: port, transport (wire.ts), pages, workload. */
import type { Batch } from "../src/compact/batch-writer.ts";
import { BatchEncoder, type References } from "../src/compact/encoder.ts";
import { PlaceMatcher, placeMatcherBytes } from "../src/compact/place-matcher.ts";
import { createKernels, type Kernels } from "../src/migration/kernels.ts";
import { Peer } from "../src/migration/peer.ts";
import { WINDOW_BYTES } from "../src/migration/window.ts";
import { Workbench } from "../src/migration/workers/workbench.ts";
import { StreamParser } from "../src/stream/parser.ts";
import { writeDataHeader } from "../src/wire/bulk.ts";
import { DATA_HEADER_BYTES, type DataHeader } from "../src/wire/messages.ts";
import { connect } from "../src/wire/transport.ts";
import { referableDisk } from "./disk.ts";
import { packingOf, streamHead, type Workload, workloadRecords } from "./support.ts";
import { greetAsSender, security } from "./wire.ts";

const [port, transport, total, workload] = process.argv.slice(2);
const { records, pages } = workloadRecords(workload as Workload);

const packing = packingOf(workload as Workload);
const workbench = new Workbench(1, 0, console.error);

/** Encoded bodies of a stream, to be sent again and again at ever new offsets. */
function encodedBodies(): { header: Omit<DataHeader, "rawOffset">; body: Buffer }[] {
  const stream = Buffer.concat([streamHead(), records]);
  const matcherAt = Math.ceil(stream.length / 64) * 64;
  const kernels = createKernels(matcherAt + placeMatcherBytes(1));
  kernels.bytes.set(stream, kernels.base);
  const bodies: { header: Omit<DataHeader, "rawOffset">; body: Buffer }[] = [];
  const onBatch = (batch: Batch) => {
    const parts: Uint8Array[] = [batch.tokens];
    for (let i = 0; i < batch.pieces.length; i += 2)
      parts.push(kernels.bytes.subarray(batch.pieces[i], batch.pieces[i + 1]));
    const body = Buffer.concat(parts);
    const sizes = { rawBytes: batch.rawBytes, bodyBytes: body.length, tokenBytes: batch.tokens.length };
    const packed = pack(body);
    const codec = packed === body ? "none" : packing.codec;
    bodies.push({ header: { ...sizes, codec, encodedBytes: packed.length }, body: packed });
  };
  const encoder = new BatchEncoder(
    onBatch,
    undefined,
    workload === "disk" ? diskReferences(kernels, matcherAt) : undefined,
  );
  new StreamParser(kernels.scanner, encoder).push(kernels.bytes, kernels.base, kernels.base + stream.length);
  encoder.flush();
  return bodies;
}

/** As the workload is packed; `body` itself where that does not make it shorter. */
function pack(body: Buffer): Buffer {
  if (packing.codec === "none") return body;
  const slot = workbench.take()!;
  slot.input.set(body);
  let packedBytes = 0;
  workbench.pack(slot, body.length, packing, ({ bytes }) => {
    packedBytes = bytes;
  });
  workbench.release(slot);
  return packedBytes > 0 ? Buffer.from(slot.output.subarray(0, packedBytes)) : body;
}

function diskReferences({ pages, bytes, base }: Kernels, matcherAt: number): References {
  const { places, tagKey } = referableDisk();
  const matcher = new PlaceMatcher(pages, bytes, base + matcherAt, places, tagKey);
  return { match: (from, records) => matcher.match(from, records), referred: () => {} };
}

const bodies = encodedBodies();
let left = Math.ceil(Number(total) / pages) * bodies.length;
let rawOffset = 0;
let ackedRawBytes = 0;

const connection = await connect({ host: "127.0.0.1", port: Number(port), security: security(transport!) });
const peer: Peer = new Peer(connection, "sender", {
  onMessage: (message) => {
    if (message.type === "ACK") {
      peer.backlog.acked(message.wireBytes, message.receivedBytes, performance.now());
      ackedRawBytes = message.rawOffset;
    }
    if (message.type === "ACK" || message.type === "WELCOME") pump();
  },
});
greetAsSender(peer);

function pump(): void {
  while (left > 0 && peer.backlog.hasRoom) {
    const { header, body } = bodies[left % bodies.length]!;
    if (rawOffset + header.rawBytes > ackedRawBytes + WINDOW_BYTES) return;
    const head = Buffer.allocUnsafe(DATA_HEADER_BYTES);
    writeDataHeader(head, 0, { ...header, rawOffset });
    rawOffset += header.rawBytes;
    peer.writeAs("DATA", [head, body]);
    if (--left === 0) peer.send({ type: "END", rawBytes: rawOffset });
  }
}
await peer.closed.catch(() => {});
process.exit();
