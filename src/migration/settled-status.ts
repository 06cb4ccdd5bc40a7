import type { Side } from "./advice.ts";
import { errorEvent } from "./advice.ts";
import type { EventListener, Status } from "./events.ts";
import { Cancelled } from "./outcome.ts";

/** How the hand-off has ended at one side. */
interface Outcome {
  readonly end: "completed" | "aborted" | "in-doubt" | "lost";
  readonly reason: unknown;
  /** In words, where the VM is. */
  readonly whereabouts: string;
}

/** Says how a session has ended that had begun, and what that is called. */
export function settledStatus({ end, reason, whereabouts }: Outcome, side: Side, onEvent: EventListener): Status {
  if (end === "completed") return "completed";
  const isCancelled = reason instanceof Cancelled && end === "aborted";
  const isInDoubt = end === "in-doubt";
  onEvent(isCancelled ? { event: "cancelled", vm: whereabouts } : errorEvent(reason, whereabouts, side, isInDoubt));
  if (isInDoubt) return "in-doubt";
  return isCancelled ? "cancelled" : "failed";
}
