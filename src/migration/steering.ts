import type { Decision, LimitSetting } from "../control/policy.ts";
import { MAX_DOWNTIME_LIMIT_MS, WINDOW_MS } from "../control/qemu.ts";
import { GodwitError, messageOf } from "../errors.ts";
import type { EventListener } from "./events.ts";
import type { SourceVm } from "./source-vm.ts";

/** With QEMU's largest downtime-limit it is more than any VM has: QEMU switches over at its next look. */
const ANY_BYTES_PER_SECOND = 1e12;

/** A limit counts from QEMU's next window on (BUFFER_DELAY, migration/migration.c); until then the one before may. */
const IN_FORCE_MS = 2 * WINDOW_MS;

export interface SteeringOptions {
  readonly vm: Pick<SourceVm, "hasSwitchoverBandwidth" | "setLimit" | "setThrottle">;
  readonly onEvent: EventListener;
  /** The policy has given the migration up. */
  readonly giveUp: (error: GodwitError) => void;
}

/** Carries out what a policy decides. QEMU is given one command at a time; of limits that wait for it only the last one counts. */
export class Steering {
  readonly #options: SteeringOptions;
  /** What QEMU is to be set to. */
  #limit: LimitSetting | undefined;
  /** What it is set to, since when, and what before. */
  #set: { readonly limit: LimitSetting; readonly atMs: number }[] = [];
  #percent: number | undefined;
  #isSetting = false;
  #lastReason = "";

  constructor(options: SteeringOptions) {
    this.#options = options;
  }

  /** QEMU was started with this limit. */
  begin(limit: LimitSetting): void {
    this.#set = [{ limit, atMs: Number.NEGATIVE_INFINITY }];
  }

  /**
   * Whether a sync that left so much makes QEMU switch over, so that nothing is left to decide.
   *
   * @param ownBytesPerSecond QEMU's own estimate, which counts where it was told none
   */
  isMetBy(remainingBytes: number, ownBytesPerSecond: number, atMs: number): boolean {
    const inForce = this.#set.filter(
      (_, i, all) => (all[i + 1]?.atMs ?? Number.POSITIVE_INFINITY) > atMs - IN_FORCE_MS,
    );
    return inForce.some(({ limit: { downtimeLimitMs, bandwidthBytesPerSecond } }) => {
      const bytesPerMs = Math.floor((bandwidthBytesPerSecond ?? ownBytesPerSecond) / 1000);
      return remainingBytes < downtimeLimitMs * bytesPerMs;
    });
  }

  apply(decision: Decision, atMs: number): void {
    const { onEvent, giveUp, vm } = this.#options;
    const said = decision.reason.replaceAll(/\d[\d.,]*/g, "0");
    onEvent({ event: "decision", elapsedMs: atMs, isRefined: said === this.#lastReason, ...decision });
    this.#lastReason = said;
    if (decision.kind === "limit" || decision.kind === "wait") this.#limit = decision.limit;
    else if (decision.kind === "switch") {
      const bandwidthBytesPerSecond = vm.hasSwitchoverBandwidth ? ANY_BYTES_PER_SECOND : null;
      this.#limit = { downtimeLimitMs: MAX_DOWNTIME_LIMIT_MS, bandwidthBytesPerSecond };
    } else if (decision.kind === "throttle") this.#percent = decision.percent;
    else if (decision.kind === "abort") {
      giveUp(new GodwitError("CONTROL_GIVEN_UP", decision.reason));
    }
    if (this.#limit !== undefined) {
      this.#set = this.#set.filter((_, i, all) => (all[i + 1]?.atMs ?? atMs) > atMs - IN_FORCE_MS);
      this.#set.push({ limit: this.#limit, atMs });
    }
    if (!this.#isSetting) void this.#tellQemu();
  }

  /** A QMP that is gone is noticed elsewhere. */
  async #tellQemu(): Promise<void> {
    const { vm, onEvent } = this.#options;
    this.#isSetting = true;
    try {
      while (this.#limit !== undefined || this.#percent !== undefined) {
        const [limit, percent] = [this.#limit, this.#percent];
        [this.#limit, this.#percent] = [undefined, undefined];
        if (percent !== undefined) await vm.setThrottle(percent);
        if (limit !== undefined) await vm.setLimit(limit);
      }
    } catch (error) {
      onEvent({ event: "warning", message: `QEMU could not be set as was decided: ${messageOf(error)}` });
    } finally {
      this.#isSetting = false;
    }
  }
}
