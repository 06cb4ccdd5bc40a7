/** The way of the stream, or the way back. */
export type Direction = "forward" | "back";

/** What can be wrong with a link. A fault lasts until the next one is set or the link is healed, unless it says otherwise. */
export type LinkFault =
  /** All connections are reset, and new ones refused. */
  | { readonly kind: "refuse" }
  /** Nothing passes any more and nobody is told; what was on its way passes once the link is healed, as TCP would repeat it. */
  | { readonly kind: "black-hole" }
  /** All connections are reset at both ends, once; new ones are well. */
  | { readonly kind: "reset" }
  /** One end's connections are reset, once; the other end is never told, and what it sends goes nowhere. New ones are well. */
  | { readonly kind: "half-open"; readonly told: "sender" | "receiver" }
  | { readonly kind: "slow"; readonly bytesPerSecond: number }
  /** Each way. */
  | { readonly kind: "delay"; readonly ms: number }
  /** Comes and goes: well for `upMs`, then as "refuse" or "black-hole" for `downMs`, and so on. */
  | { readonly kind: "flap"; readonly upMs: number; readonly downMs: number; readonly as?: "refuse" | "black-hole" }
  /** One bit of the byte that passes after so many others, below TLS; once. */
  | { readonly kind: "flip-bit"; readonly direction: Direction; readonly afterBytes: number }
  /**
   * All connections are cut each time that so many bytes of the stream have passed, `times` times; then the link is well. `as`: how, one
   * after the other, and again from the first; default: reset.
   */
  | { readonly kind: "cut"; readonly everyBytes: number; readonly times: number; readonly as?: readonly CutKind[] };

/**
 * How a "cut" cuts; new connections are well. "refuse": as "reset", but for 200 ms there are no new ones; "half-open": only the sender
 * is told; "black-hole": nobody is.
 */
export type CutKind = "reset" | "refuse" | "half-open" | "black-hole";

/** What went over a link. */
export interface LinkFigures {
  /** Connections that came about at both ends. */
  readonly connections: number;
  readonly forwardBytes: number;
  readonly backBytes: number;
  /** Connections that a fault has cut. */
  readonly cuts: number;
  readonly flippedBits: number;
}
