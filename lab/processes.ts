import { readFileSync } from "node:fs";

/** Names a process for good: its id and its start time, since ids are used again (proc(5), stat, fields 1 and 22). */
export function processStamp(pid: number = process.pid): string {
  const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
  // The second field, the command in parentheses, may hold spaces and parentheses itself.
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  return `${pid}-${fields[19]}`;
}

/** Does the process that a {@link processStamp} names still run? */
export function isAlive(stamp: string): boolean {
  try {
    return processStamp(Number.parseInt(stamp, 10)) === stamp;
  } catch {
    return false;
  }
}
