import type { Estimate, PredictedParts } from "../control/downtime.ts";
import type { Decision, Forecast } from "../control/policy.ts";
import type { EventListener } from "./events.ts";

/** A prediction that differs by less from the one that was shown is not shown. */
const SAME_SHARE = 0.05;
/** Likewise where it is only hoped for. */
const SAME_HOPED_SHARE = 0.2;

/** What was predicted, as the summary has it. */
export interface Predicted {
  /** The last before the guest was stopped; null if there was none. */
  predictedDowntimeMs: Estimate | null;
  predictedDowntimeParts: PredictedParts | null;
  /** The first one, made at `atMs`, once two rounds were through. */
  predictedTotalMs: (Estimate & { atMs: number }) | null;
}

export const NOTHING_PREDICTED: Predicted = {
  predictedDowntimeMs: null,
  predictedDowntimeParts: null,
  predictedTotalMs: null,
};

/** Keeps what a policy expects, and shows it as it changes. */
export class Predictions {
  readonly #onEvent: EventListener;
  #predicted: Predicted = NOTHING_PREDICTED;
  #shownMs = 0;
  #shownAtBest = false;

  constructor(onEvent: EventListener) {
    this.#onEvent = onEvent;
  }

  get all(): Predicted {
    return this.#predicted;
  }

  /** What the policy expects at `atMs`, and what it has decided. To be told only while the guest runs. */
  update(forecast: Forecast | undefined, decision: Decision | undefined, atMs: number): void {
    const decided = decision !== undefined && "predictedMs" in decision ? decision.predictedMs : undefined;
    const downtimeMs = forecast?.downtimeMs ?? decided;
    if (downtimeMs === undefined) return;
    const totalMs = forecast?.totalMs ?? null;
    this.#predicted = {
      predictedDowntimeMs: downtimeMs,
      predictedDowntimeParts: forecast?.downtimeParts ?? null,
      predictedTotalMs: this.#predicted.predictedTotalMs ?? (totalMs && { ...totalMs, atMs }),
    };
    const isAtBest = forecast?.isAtBest ?? decision?.kind !== "switch";
    const share = isAtBest ? SAME_HOPED_SHARE : SAME_SHARE;
    const isAlike = Math.abs(downtimeMs.expected - this.#shownMs) <= share * this.#shownMs;
    if (isAlike && isAtBest === this.#shownAtBest) return;
    this.#shownMs = downtimeMs.expected;
    this.#shownAtBest = isAtBest;
    const downtimeParts = this.#predicted.predictedDowntimeParts;
    this.#onEvent({ event: "predicted", elapsedMs: atMs, isAtBest, downtimeMs, downtimeParts, totalMs });
  }
}
