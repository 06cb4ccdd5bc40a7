/**
 * Takes the bytes of one connection, cut anywhere, and hands out its messages.
 *
 * Cursor, state and a handler. Control messages are collected in one scratch buffer of fixed size. The bytes of DATA and
 * REPAIR are copied once, from the socket's chunk into memory of the handler's choice; where that memory is not free
 * yet the reader stops inside the chunk. Nothing else is kept, so a peer can't make it grow.
 */
import { GodwitError } from "../errors.ts";
import { readDataHeader, readRepairHeader } from "./bulk.ts";
import { checkPayloadBytes, decodeMessage } from "./encoding.ts";
import {
  type BulkType,
  DATA_FIELDS_BYTES,
  type DataHeader,
  FIRST_OPTIONAL_CODE,
  GREETING_BYTES,
  HEADER_BYTES,
  MAX_JSON_BYTES,
  MAX_OPTIONAL_BYTES,
  type Message,
  type MessageType,
  messageTypeOf,
  REPAIR_FIELDS_BYTES,
  type RepairHeader,
} from "./messages.ts";

/** What the reader calls. An exception thrown here ends the reader like a bad message does. */
export interface MessageHandler {
  /** A message other than DATA and REPAIR; it belongs to the handler. */
  onMessage(message: Message): void;
  /**
   * A DATA message begins: where its encoded body shall go, exactly `header.encodedBytes` long.
   * Null when there is no room now: the reader stops and asks again, with the same header, at `resume()`.
   */
  onData(header: DataHeader): Uint8Array | null;
  /** `body`, the memory that `onData` returned, holds the encoded body. */
  onDataComplete(header: DataHeader, body: Uint8Array): void;
  /** A REPAIR message begins: where its bytes shall go, exactly `header.rawBytes` long. */
  onRepair(header: RepairHeader): Uint8Array;
  /** The memory that `onRepair` returned holds the bytes. */
  onRepairComplete(header: RepairHeader): void;
}

type ControlType = Exclude<MessageType, BulkType>;

/** What the next bytes are. */
type State =
  | { readonly kind: "header" }
  | { readonly kind: "control"; readonly type: ControlType; readonly bytes: number }
  | { readonly kind: "dataFields"; readonly encodedBytes: number }
  | { readonly kind: "room"; readonly header: DataHeader }
  | { readonly kind: "repairFields"; readonly bytes: number }
  | { readonly kind: "body"; readonly body: Uint8Array; readonly complete: () => void }
  | { readonly kind: "skip"; readonly bytes: number };

const HEADER: State = { kind: "header" };
const NOTHING: Uint8Array = new Uint8Array(0);
/** Room for the longest control message. */
const SCRATCH_BYTES = GREETING_BYTES + MAX_JSON_BYTES;

/** Reads the messages of one connection. */
export class MessageReader {
  readonly #handler: MessageHandler;
  readonly #scratch = new Uint8Array(SCRATCH_BYTES);
  #state: State = HEADER;
  /** Bytes of the current state's piece that were taken already. */
  #have = 0;
  #chunk: Uint8Array = NOTHING;
  #at = 0;
  #wireBytes = 0;
  #failure: unknown;
  #failed = false;

  constructor(handler: MessageHandler) {
    this.#handler = handler;
  }

  /** Bytes taken so far, headers included: the `receivedBytes` of an ACK. */
  get wireBytes(): number {
    return this.#wireBytes;
  }

  /** True between an `onData` that returned null and the `resume()` that found room. */
  get waiting(): boolean {
    return this.#state.kind === "room";
  }

  /**
   * Takes the next bytes of the connection.
   *
   * @returns true when the chunk was used up; false when the reader waits for room: it then keeps the chunk (which
   * must not be overwritten) and takes no other until `resume()` has returned true, so the connection is to be paused.
   * @throws WIRE_BAD_HEADER, WIRE_TOO_LONG, WIRE_BAD_MESSAGE, WIRE_UNKNOWN_MESSAGE, WIRE_VERSION, and what the handler
   * throws. From then on every call throws the same.
   */
  push(chunk: Uint8Array): boolean {
    if (this.waiting) throw new Error("MessageReader: push() while waiting for room");
    // A plain view: slice() of a Buffer does not copy.
    this.#chunk = new Uint8Array(chunk.buffer, chunk.byteOffset, chunk.byteLength);
    this.#at = 0;
    return this.#run();
  }

  /** Asks `onData` again and goes on with the rest of the chunk. Returns and throws as `push` does. */
  resume(): boolean {
    return this.#run();
  }

  #run(): boolean {
    if (this.#failed) throw this.#failure;
    try {
      while (this.#step()) {}
    } catch (error) {
      this.#failed = true;
      this.#failure = error;
      this.#chunk = NOTHING;
      throw error;
    }
    if (this.waiting) return false;
    this.#chunk = NOTHING;
    return true;
  }

  /** Finishes the current piece. False when that takes more bytes or room. */
  #step(): boolean {
    const state = this.#state;
    switch (state.kind) {
      case "header": {
        const header = this.#collect(HEADER_BYTES);
        if (header === undefined) return false;
        this.#enter(afterHeader(header));
        return true;
      }
      case "control": {
        const payload = this.#collect(state.bytes);
        if (payload === undefined) return false;
        this.#enter(HEADER);
        this.#handler.onMessage(decodeMessage(state.type, payload));
        return true;
      }
      case "dataFields": {
        const fields = this.#collect(DATA_FIELDS_BYTES);
        if (fields === undefined) return false;
        this.#enter({ kind: "room", header: readDataHeader(fields, state.encodedBytes) });
        return true;
      }
      case "room": {
        const { header } = state;
        const body = this.#handler.onData(header);
        if (body === null) return false;
        this.#enterBody(body, header.encodedBytes, () => this.#handler.onDataComplete(header, body));
        return true;
      }
      case "repairFields": {
        const fields = this.#collect(REPAIR_FIELDS_BYTES);
        if (fields === undefined) return false;
        const header = readRepairHeader(fields, state.bytes);
        const complete = () => this.#handler.onRepairComplete(header);
        this.#enterBody(this.#handler.onRepair(header), header.rawBytes, complete);
        return true;
      }
      case "body": {
        const bytes = this.#take(state.body.length - this.#have);
        state.body.set(bytes, this.#have);
        this.#have += bytes.length;
        if (this.#have < state.body.length) return false;
        this.#enter(HEADER);
        state.complete();
        return true;
      }
      case "skip": {
        this.#have += this.#take(state.bytes - this.#have).length;
        if (this.#have < state.bytes) return false;
        this.#enter(HEADER);
        return true;
      }
    }
  }

  #enter(state: State): void {
    this.#state = state;
    this.#have = 0;
  }

  #enterBody(body: Uint8Array, bytes: number, complete: () => void): void {
    if (body.length !== bytes) throw new Error("MessageReader: the handler gave memory of a wrong length");
    this.#enter({ kind: "body", body, complete });
  }

  /** The next `bytes` bytes in one piece, a view of the chunk or of the scratch; undefined when they aren't there yet. */
  #collect(bytes: number): Uint8Array | undefined {
    const part = this.#take(bytes - this.#have);
    if (part.length === bytes) return part;
    this.#scratch.set(part, this.#have);
    this.#have += part.length;
    return this.#have === bytes ? this.#scratch.subarray(0, bytes) : undefined;
  }

  /** A view of the chunk's next bytes, at most `bytes`. */
  #take(bytes: number): Uint8Array {
    const part = this.#chunk.subarray(this.#at, this.#at + bytes);
    this.#at += part.length;
    this.#wireBytes += part.length;
    return part;
  }
}

function afterHeader(header: Uint8Array): State {
  const view = new DataView(header.buffer, header.byteOffset, HEADER_BYTES);
  const code = view.getUint8(0);
  const payloadBytes = view.getUint32(4, true);
  if (view.getUint8(1) !== 0 || view.getUint16(2, true) !== 0) {
    const message = "what the peer sent is no godwit message (flags or reserved bytes are set)";
    throw new GodwitError("WIRE_BAD_HEADER", message, { code, payloadBytes });
  }
  const type = messageTypeOf(code);
  if (type === undefined) return afterUnknown(code, payloadBytes);
  checkPayloadBytes(type, payloadBytes);
  if (type === "DATA") return { kind: "dataFields", encodedBytes: payloadBytes - DATA_FIELDS_BYTES };
  if (type === "REPAIR") return { kind: "repairFields", bytes: payloadBytes - REPAIR_FIELDS_BYTES };
  return { kind: "control", type, bytes: payloadBytes };
}

function afterUnknown(code: number, payloadBytes: number): State {
  const name = `0x${code.toString(16).padStart(2, "0")}`;
  if (code < FIRST_OPTIONAL_CODE) {
    const message = `the peer sent message ${name}, which this program does not know`;
    throw new GodwitError("WIRE_UNKNOWN_MESSAGE", message, { code });
  }
  if (payloadBytes > MAX_OPTIONAL_BYTES) {
    const message = `optional message ${name} of ${payloadBytes} bytes, at most ${MAX_OPTIONAL_BYTES} are allowed`;
    throw new GodwitError("WIRE_TOO_LONG", message, { code, payloadBytes, maxBytes: MAX_OPTIONAL_BYTES });
  }
  return { kind: "skip", bytes: payloadBytes };
}
