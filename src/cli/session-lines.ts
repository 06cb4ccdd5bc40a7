/** What `status` and `resolve` say to people. Pure. */
import type { Deed, Option } from "../migration/resolve/advice.ts";
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
  const lines = table([head, ...rows], head.length).map((line) => line.trimEnd());
  const left = sessions.find(({ settled, pid }) => !settled && pid === null);
  return left === undefined ? lines : [...lines, "", `what to do: godwit resolve ${shown(left.id)}`];
}

function stateOf({ state, settled, problem }: SessionReport): string {
  if (problem !== null) return "unreadable";
  return `${state ?? "new"}${settled ? "" : " (open)"}`;
}

/** A session explained. */
export function resolutionLines(resolution: Resolution): string[] {
  const { id, role, owner, why, can, done } = resolution;
  const whose = owner === "unknown" ? "whose the VM is can't be told from here" : `the VM is the ${owner}'s`;
  const options = can.flatMap((one) => {
    const command = commandOf(one, resolution);
    return command === null ? [`  ${oneLine(one.text)}`] : [`  ${oneLine(command)}`, `      ${oneLine(one.text)}`];
  });
  return [
    `session ${shown(id)}, ${role}, VM ${nameOf(resolution)}: ${stateOf(resolution)}`,
    ...(done === null ? [] : [`done: ${DONE[done]}`]),
    `${whose}: ${oneLine(why)}`,
    "what can be done:",
    ...options,
  ];
}

const DONE: Readonly<Record<Deed, string>> = {
  "resume-source": "the VM is the source's",
  "run-destination": "the VM is the destination's",
  close: "the session is closed at this end",
};

/** What is to be typed; null where there is nothing. The journal does not say by what key the two ends know each other. */
function commandOf({ action, needsIKnow }: Option, { id, qmpPath, peer }: Resolution): string | null {
  const qmp = `--qmp ${quoted(qmpPath ?? "PATH")}`;
  switch (action) {
    case "resume-source":
    case "run-destination":
    case "close":
      return `godwit resolve ${shown(id)} --${action}${needsIKnow ? " --i-know" : ""}`;
    case "ask-destination":
      return `godwit resolve ${shown(id)} --resume-source --psk-file KEY (or --tls-dir FOLDER)`;
    case "restart-send":
      return `godwit send ${qmp} --to ${quoted(peer ?? "ADDRESS")} (and the other options as before)`;
    case "restart-receive":
      return `godwit receive ${qmp} (and the other options as before)`;
    default:
      return null;
  }
}

/** As a shell takes it for one word. */
function quoted(word: string): string {
  return /^[\w@%+=:,./[\]-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`;
}

function shown(id: string): string {
  return id.slice(0, SHOWN_DIGITS);
}

function nameOf({ vm }: SessionReport): string {
  return oneLine(vm === null ? "?" : (vm.name ?? vm.uuid));
}
