/** How long a stretch of link may wait in front of it: what is queued at switch-over is downtime (`npm run bench blackout`). */
export const BACKLOG_MS = 8;
/**
 * Of a long round trip this share, up to so long: by it the estimate of a link that was measured too low grows in each round trip, and so
 * much later may acknowledgements come than in the shortest one without shrinking it.
 */
const ROUND_TRIP_SHARE = 0.25;
const MOST_BACKLOG_MS = 50;
/** In flight at least: enough for a first estimate of any link, and one full batch on a slow one. */
const MIN_ALLOWANCE_BYTES = 512 * 1024;
/** Goodput is measured over stretches at least this long, so that one late ACK does not look like a slow link. */
const SAMPLE_MS = 50;
/** How fast the estimate follows a link that got slower. */
const DECAY_MS = 200;

/**
 * Measures the link and says how much may be in flight on it.
 *
 * In flight is what was given to the transport and is not yet acknowledged as received by the peer: it waits in this
 * process, in the kernel's buffers, on the link or at the peer. It is held to goodput × (round trip + backlog): enough that
 * the link never runs dry, little enough that the source QEMU is held back within that backlog and sees the true, compacted
 * rate. As the peer's acknowledgements are ours, this holds whatever the kernel's buffers are.
 *
 * Pure: time is passed in, in milliseconds of any monotonic clock.
 */
export class Backlog {
  readonly #backlogMs: number;
  readonly #minAllowanceBytes: number;
  #sentBytes = 0;
  #ackedBytes = 0;
  #receivedBytes = 0;
  #goodput = 0;
  #minRttMs = Number.POSITIVE_INFINITY;
  /** Received bytes and time at the start of the stretch that is being measured. */
  #sampleBytes = 0;
  #sampleAtMs: number | undefined;
  /** Whether the link was kept busy all through the stretch: else the stretch measures the source, not the link. */
  #wasBusy = false;

  /** @param minAllowanceBytes in flight at least, whatever was measured */
  constructor(backlogMs = BACKLOG_MS, minAllowanceBytes = MIN_ALLOWANCE_BYTES) {
    this.#backlogMs = backlogMs;
    this.#minAllowanceBytes = minAllowanceBytes;
  }

  /** The connection is another one: all up to `bytes` has arrived, and nothing is in flight. What was measured of the link stays. */
  restart(bytes: number): void {
    this.#sentBytes = bytes;
    this.#ackedBytes = bytes;
    this.#receivedBytes = bytes;
    this.#sampleAtMs = undefined;
  }

  /** `bytes` were given to the transport. */
  sent(bytes: number): void {
    this.#sentBytes += bytes;
  }

  /** The peer has received `receivedBytes` in all, and is done with `wireBytes` of them. */
  acked(wireBytes: number, receivedBytes: number, nowMs: number): void {
    this.#ackedBytes = Math.max(this.#ackedBytes, Math.min(wireBytes, this.#sentBytes));
    this.#receivedBytes = Math.max(this.#receivedBytes, Math.min(receivedBytes, this.#sentBytes));
    if (this.#sampleAtMs === undefined) return this.#startSample(nowMs);
    this.#wasBusy &&= this.onLinkBytes > 0;
    const ms = nowMs - this.#sampleAtMs;
    if (ms < SAMPLE_MS) return;
    const sample = ((this.#receivedBytes - this.#sampleBytes) / ms) * 1000;
    if (sample > this.#goodput) this.#goodput = sample;
    else if (this.#wasBusy) this.#goodput += (sample - this.#goodput) * (1 - Math.exp(-ms / DECAY_MS));
    this.#startSample(nowMs);
  }

  #startSample(nowMs: number): void {
    this.#sampleBytes = this.#receivedBytes;
    this.#sampleAtMs = nowMs;
    this.#wasBusy = this.onLinkBytes >= this.allowanceBytes / 2;
  }

  /** A round trip took `rttMs`. */
  roundTrip(rttMs: number): void {
    this.#minRttMs = Math.min(this.#minRttMs, rttMs);
  }

  /** All that was given to the transport so far. */
  get sentBytes(): number {
    return this.#sentBytes;
  }

  get inFlightBytes(): number {
    return this.#sentBytes - this.#ackedBytes;
  }

  /** The part of what is in flight that the peer has not received. */
  get onLinkBytes(): number {
    return this.#sentBytes - this.#receivedBytes;
  }

  /** How much may be in flight now. */
  get allowanceBytes(): number {
    const rttMs = Number.isFinite(this.#minRttMs) ? this.#minRttMs : 0;
    const backlogMs = Math.max(this.#backlogMs, Math.min(MOST_BACKLOG_MS, ROUND_TRIP_SHARE * rttMs));
    return Math.max(this.#minAllowanceBytes, (this.#goodput * (rttMs + backlogMs)) / 1000);
  }

  get hasRoom(): boolean {
    return this.inFlightBytes < this.allowanceBytes;
  }

  /** The link's speed as far as it was seen; 0 until it was. Bytes of messages, without TLS and TCP. */
  get goodputBytesPerSecond(): number {
    return this.#goodput;
  }

  /** The smallest round trip seen; undefined before the first. */
  get minRttMs(): number | undefined {
    return Number.isFinite(this.#minRttMs) ? this.#minRttMs : undefined;
  }
}
