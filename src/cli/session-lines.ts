/** What `status` and `resolve` say to people. Pure. */
import type { Resolution, SessionReport } from "../migration/resolve/resolve.ts";
import { formatTime, oneLine } from "./format.ts";
import { table } from "./table.ts";

/** Digits of an id that are shown: enough to tell the sessions of a host from each other. */
const SHOWN_DIGITS = 8;

/** A line for each session. */
export function statusLines(sessions: readonly SessionReport[], stateDir: string): string[] {
  if (sessions.length === 0) return [`no sessions in ${oneLine(stateDir)}`];
  const rows = sessions.map((session) => {
    const { id, role, peer, sinceMs, owner, pid } = session;
    const since = sinceMs === null ? "" : formatTime(sinceMs);
    return [
      shown(id),
      nameOf(session),
      role,
      stateOf(session),
      since,
      owner,
      oneLine(peer ?? ""),
      pid === null ? "" : `process ${pid}`,
    ];
  });
  const head = ["id", "VM", "end", "state", "since", "VM is", "peer", ""];
  return table([head, ...rows], head.length).map((line) => line.trimEnd());
}

function stateOf({ state, settled, problem }: SessionReport): string {
  if (problem !== null) return "unreadable";
  return `${state ?? "new"}${settled ? "" : " (open)"}`;
}

/** A session explained. */
export function resolutionLines(resolution: Resolution): string[] {
  const { id, role, owner, why, can, done } = resolution;
  const whose = owner === "unknown" ? "it is not known from here whose it is" : `it is the ${owner}'s`;
  const options = can.map(({ action, needsIKnow, text }) => `  ${commandOf(action, needsIKnow, shown(id))}${text}`);
  return [
    `session ${shown(id)}, ${role}, VM ${nameOf(resolution)}: ${stateOf(resolution)}`,
    ...(done === null ? [] : [`done: ${DONE[done] ?? done}`]),
    `the VM: ${whose}, as ${oneLine(why)}`,
    "what can be done:",
    ...options.map(oneLineKeepingIndent),
  ];
}

const DONE: Readonly<Record<string, string>> = {
  "resume-source": "the VM is the source's",
  "run-destination": "the VM is the destination's",
};

function commandOf(action: string, needsIKnow: boolean, id: string): string {
  if (action !== "resume-source" && action !== "run-destination") return "";
  return `godwit resolve ${id} --${action}${needsIKnow ? " --i-know" : ""}: `;
}

function oneLineKeepingIndent(line: string): string {
  return `  ${oneLine(line)}`;
}

function shown(id: string): string {
  return id.slice(0, SHOWN_DIGITS);
}

function nameOf({ vm }: SessionReport): string {
  return oneLine(vm === null ? "?" : (vm.name ?? vm.uuid));
}
