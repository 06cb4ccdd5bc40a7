import type { Batch } from "../compact/batch-writer.ts";
import type { Packing } from "../compact/codec.ts";
import { writeDataHeader } from "../wire/bulk.ts";
import { encodeMessage } from "../wire/encoding.ts";
import { type Codec, DATA_HEADER_BYTES, type DataHeader } from "../wire/messages.ts";
import type { Slot, Workbench } from "./workers/workbench.ts";

/** More pieces than this are gathered into one before they are sent: each costs the socket more than moving 4 KiB. */
const MAX_PIECES = 8;

/** Bodies sent with one codec. */
export interface CodecCounts {
  bodies: number;
  /** As they were, and as they stood on the wire. */
  bodyBytes: number;
  wireBytes: number;
}

export interface OutgoingOptions {
  /** The memory that batches' pieces stand in. */
  bytes: Uint8Array;
  workbench: Workbench;
  /** Queues an encoded message. */
  write: (type: "DATA" | "END", chunks: Uint8Array[]) => void;
  /** See CodecChoice.packed. */
  onPacked: (packing: Packing, bodyBytes: number, packedBytes: number, ms: number) => void;
}

type Sizes = Omit<DataHeader, "codec" | "encodedBytes">;

/** A message on its way: in order, whatever the order in which packing ends. */
interface Frame {
  readonly type: "DATA" | "END";
  /** Raw offset behind it. */
  readonly end: number;
  chunks: Uint8Array[] | undefined;
}

/** Batches → DATA messages, packed on the way. */
export class Outgoing {
  readonly counts: Record<Codec, CodecCounts> = { none: noCounts(), zstd: noCounts(), lz4: noCounts() };
  /** Of the bodies sent, what stands for the forms of pages and is none of their content. */
  tokenBytes = 0;
  /** Raw offset up to which bodies were written on this connection. */
  sentOffset = 0;
  readonly #options: OutgoingOptions;
  readonly #frames: Frame[] = [];
  #packing = 0;
  #packingBytes = 0;

  constructor(options: OutgoingOptions) {
    this.#options = options;
  }

  /** Bodies that are being packed, or wait for it, and their bytes. */
  get packing(): number {
    return this.#packing;
  }
  get packingBytes(): number {
    return this.#packingBytes;
  }

  send(batch: Batch, packing: Packing): void {
    const { rawOffset, rawBytes, tokens, payloadBytes } = batch;
    const sizes = { rawOffset, rawBytes, bodyBytes: tokens.length + payloadBytes, tokenBytes: tokens.length };
    this.tokenBytes += tokens.length;
    const slot = packing.codec === "none" ? undefined : this.#options.workbench.take();
    if (slot === undefined) this.#enqueue({ type: "DATA", end: endOf(sizes), chunks: this.#plain(sizes, batch) });
    else this.#pack(sizes, batch, packing, slot);
  }

  /** What was not written yet went with the connection. */
  drop(): void {
    this.#frames.length = 0;
  }

  /** The stream ends here. */
  end(rawBytes: number): void {
    this.#enqueue({ type: "END", end: rawBytes, chunks: [encodeMessage({ type: "END", rawBytes })] });
  }

  /** Header and tokens in one chunk, then the payload where it stands, unless it is in many pieces or stands there only for now. */
  #plain(sizes: Sizes, { tokens, payloadBytes, pieces, hasDifferences }: Batch): Uint8Array[] {
    const { bytes } = this.#options;
    const head = this.#head(sizes, "none", sizes.bodyBytes, tokens.length);
    head.set(tokens, DATA_HEADER_BYTES);
    const chunks: Uint8Array[] = [head];
    if (hasDifferences || pieces.length > 2 * MAX_PIECES) {
      const payload = Buffer.allocUnsafe(payloadBytes);
      gather(bytes, pieces, payload, 0);
      chunks.push(payload);
    } else {
      for (let i = 0; i < pieces.length; i += 2) chunks.push(bytes.subarray(pieces[i], pieces[i + 1]));
    }
    return chunks;
  }

  #pack(sizes: Sizes, { tokens, pieces }: Batch, packing: Packing, slot: Slot): void {
    const { bytes, workbench, onPacked } = this.#options;
    const { bodyBytes } = sizes;
    slot.input.set(tokens);
    gather(bytes, pieces, slot.input, tokens.length);
    const frame: Frame = { type: "DATA", end: endOf(sizes), chunks: undefined };
    this.#packing++;
    this.#packingBytes += bodyBytes;
    this.#frames.push(frame);
    workbench.pack(slot, bodyBytes, packing, (result) => {
      this.#packing--;
      this.#packingBytes -= bodyBytes;
      const isPacked = result.bytes > 0;
      const body = isPacked ? slot.output.subarray(0, result.bytes) : slot.input.subarray(0, bodyBytes);
      if (this.#frames.includes(frame)) {
        const encoded = Buffer.from(body); // the slot is for the next one, and this may wait
        frame.chunks = [this.#head(sizes, isPacked ? packing.codec : "none", encoded.length), encoded];
        this.#writeReady();
      }
      workbench.release(slot);
      onPacked(packing, bodyBytes, body.length, result.ms);
    });
  }

  /** The header of a DATA message, with room behind it. */
  #head(sizes: Sizes, codec: Codec, encodedBytes: number, room = 0): Buffer {
    const counts = this.counts[codec];
    counts.bodies++;
    counts.bodyBytes += sizes.bodyBytes;
    counts.wireBytes += encodedBytes;
    const head = Buffer.allocUnsafe(DATA_HEADER_BYTES + room);
    writeDataHeader(head, 0, { ...sizes, codec, encodedBytes });
    return head;
  }

  #enqueue(frame: Frame): void {
    this.#frames.push(frame);
    this.#writeReady();
  }

  #writeReady(): void {
    for (let frame = this.#frames[0]; frame?.chunks !== undefined; frame = this.#frames[0]) {
      this.#frames.shift();
      this.sentOffset = frame.end;
      this.#options.write(frame.type, frame.chunks);
    }
  }
}

function endOf({ rawOffset, rawBytes }: Sizes): number {
  return rawOffset + rawBytes;
}

function noCounts(): CodecCounts {
  return { bodies: 0, bodyBytes: 0, wireBytes: 0 };
}

/** Copies pieces of `bytes` (pairs of addresses) into `target`, one behind the other, from `at` on. */
function gather(bytes: Uint8Array, pieces: Uint32Array, target: Uint8Array, at: number): void {
  for (let i = 0; i < pieces.length; i += 2) {
    const piece = bytes.subarray(pieces[i], pieces[i + 1]);
    target.set(piece, at);
    at += piece.length;
  }
}
