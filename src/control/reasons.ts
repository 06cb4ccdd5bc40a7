/** The sentences in which decisions are explained. */
import type { Estimate } from "./downtime.ts";
import type { OnStall } from "./promises.ts";

export function shrinking(floorBytes: number): string {
  return `rounds go on while they shrink, down to ${megabytes(floorBytes)}`;
}

export function looking(residualBytes: number, predicted: Estimate, forMs: number): string {
  const cost = `rounds stopped shrinking at ${megabytes(residualBytes)}, which would cost ${secondsOf(predicted)}`;
  return `${cost}; looking for ${seconds(forMs)} whether the load has quieter moments`;
}

export function dip(goodputBytesPerSecond: number): string {
  return `the link carries only ${megabytes(goodputBytesPerSecond)}/s for a while: waiting until it is as fast as before`;
}

export function quiet(residualBytes: number): string {
  return `the load has gone quiet with ${megabytes(residualBytes)} left: the next round will leave less`;
}

export function valley(levelBytes: number, predicted: Estimate, waitMs: number): string {
  const saved = `the load leaves ${megabytes(levelBytes)} from time to time, on average ${seconds(waitMs)} from now`;
  return `${saved}; switching then costs ${secondsOf(predicted)}`;
}

export function stopped(residualBytes: number, predicted: Estimate): string {
  return `rounds stopped shrinking at ${megabytes(residualBytes)}; switching costs ${secondsOf(predicted)}, and waiting would not save enough`;
}

export function due(what: "deadline" | "bytes", isOver: boolean, predicted: Estimate): string {
  return `${(isOver ? OVERDUE : DUE)[what]}: switching now, which costs ${secondsOf(predicted)}`;
}

export function dueButTooLong(
  what: "deadline" | "bytes",
  isOver: boolean,
  predicted: Estimate,
  then: "switch" | "abort",
): string {
  const why = `${(isOver ? OVERDUE : DUE)[what]}, and switching now costs ${secondsOf(predicted)}, more than --max-downtime`;
  return then === "abort"
    ? `${why}: giving up, as --on-stall asks`
    : `${why}: switching all the same, as --on-stall asks`;
}

export function bulkTooLate(endMs: number, onStall: OnStall): string {
  return `the first round alone lasts until ${seconds(endMs)} or longer, later than --deadline: ${afterBulk(onStall)}`;
}

export function bulkTooMuch(bytes: number, onStall: OnStall): string {
  return `the first round alone sends ${megabytes(bytes)} or more, above --max-bytes: ${afterBulk(onStall)}`;
}

export function overdue(what: "deadline" | "bytes", onStall: OnStall): string {
  const then = onStall === "abort" ? afterBulk(onStall) : "switching as soon as the first round is over";
  return `${OVERDUE[what]}: ${then}`;
}

export function fixedAlone(fixedMs: number): string {
  return `without a page to send a switch-over already costs ${seconds(fixedMs)}`;
}

export function outOfReach({ expected }: Estimate): string {
  return `the least downtime in reach is ${seconds(expected)}`;
}

export function throttleNotEnough(predicted: Estimate): string {
  return `${outOfReach(predicted)}, and no throttle is enough`;
}

export function throttling(predicted: Estimate, percent: number): string {
  return `${outOfReach(predicted)}, more than --max-downtime: the guest is throttled by ${percent} %`;
}

export function throttled(mostBytes: number): string {
  return `the guest is throttled: switching as soon as --max-downtime holds, with ${megabytes(mostBytes)} left`;
}

export function broken(why: string, isGivenUp: boolean): string {
  const what = isGivenUp ? "giving up, as --on-stall asks" : "switching at the least downtime in reach";
  return `${why}, more than --max-downtime: ${what}`;
}

const DUE = {
  deadline: "this is the last moment for --deadline",
  bytes: "this is the last moment for --max-bytes",
} as const;

const OVERDUE = { deadline: "--deadline has passed", bytes: "--max-bytes are sent" } as const;

function afterBulk(onStall: OnStall): string {
  return onStall === "abort" ? "giving up, as --on-stall asks" : "switching as soon as it is over";
}

function secondsOf({ expected }: Estimate): string {
  return seconds(expected);
}

function seconds(ms: number): string {
  return `${(ms / 1000).toFixed(ms < 9995 ? 2 : 0)} s`;
}

function megabytes(bytes: number): string {
  return `${(bytes / 1e6).toFixed(bytes < 9.95e6 ? 1 : 0)} MB`;
}
