import { createLogUpdate } from "log-update";
import picocolors from "picocolors";
import type { EventListener, MigrationEvent } from "../migration/events.ts";
import { oneLine } from "./format.ts";
import { errorLine, logLine, type Role } from "./lines.ts";
import { type Output, openOutputs } from "./output.ts";
import { advanceView, initialView, renderView } from "./view.ts";

/** A reader this far behind gets no more progress; what matters still comes. */
const SLOW_READER_BYTES = 64 * 1024;
/** A terminal this far behind (a few frames) is not drawn on until it has caught up. */
const SLOW_TERMINAL_BYTES = 4096;

export interface Reporter {
  readonly onEvent: EventListener;
  /** A line for people, on stderr. */
  say(line: string): void;
  /** Resolves when all is written. */
  drained(): Promise<void>;
}

interface Screen {
  show(event: MigrationEvent): void;
  /** A line that stays, outside of what is redrawn. */
  above(output: Output, line: string): void;
}

/** JSON lines, one live view on a terminal, or else a line for each thing that happens. Errors and warnings go to stderr. */
export function openReporter(role: Role, isJson: boolean): Reporter {
  const { stdout, stderr } = openOutputs();
  const isLive = stdout.isTerminal && process.env.TERM !== "dumb";
  const screen = isJson ? jsonScreen(stdout) : isLive ? liveScreen(role, stdout) : logScreen(role, stdout);
  const say = (line: string) => screen.above(stderr, `godwit: ${oneLine(line)}`);
  return {
    onEvent: (event) => {
      if (event.event === "error") screen.above(stderr, errorLine(event.message, event.vm, event.advice));
      if (event.event === "warning") say(event.message);
      if (event.event === "cancelled") say(`cancelled: ${event.vm}`);
      screen.show(event);
    },
    say,
    drained: async () => void (await Promise.all([stdout.drained(), stderr.drained()])),
  };
}

function jsonScreen(stdout: Output): Screen {
  return {
    show: (event) => {
      const isProgress = ["progress", "receiving", "keeping"].includes(event.event);
      if (isProgress && stdout.pendingBytes > SLOW_READER_BYTES) return;
      stdout.write(jsonLine(event));
    },
    above: writeLine,
  };
}

/** An event as a line of JSON. */
export function jsonLine(event: object): string {
  return `${JSON.stringify(event, roundNumbers)}\n`;
}

/** To the microsecond, where it is milliseconds. */
function roundNumbers(_key: string, value: unknown): unknown {
  return typeof value === "number" ? Math.round(value * 1000) / 1000 : value;
}

function logScreen(role: Role, stdout: Output): Screen {
  return {
    show: (event) => {
      const line = logLine(event, role);
      if (line !== undefined) stdout.write(`${line}\n`);
    },
    above: writeLine,
  };
}

function liveScreen(role: Role, stdout: Output): Screen {
  const colors = picocolors.createColors(process.env.NO_COLOR === undefined);
  // log-update wants a stream; the cursor stays visible, so that nothing has to be put right when the process is killed.
  const stream = Object.create(process.stdout, { write: { value: (text: string) => stdout.write(text) } });
  const live = createLogUpdate(stream, { showCursor: true });
  let view = initialView(role);
  const draw = () => {
    // 0 columns: a terminal that does not know its size, such as a serial console.
    const [first = "", ...rest] = renderView(view, process.stdout.columns || 80);
    live([colors.bold(first), ...rest].join("\n"));
  };
  const above = (output: Output, line: string) => {
    live.clear();
    writeLine(output, line);
  };
  return {
    show: (event) => {
      view = advanceView(view, event);
      const line = staysInSight(event) ? logLine(event, role) : undefined;
      if (line !== undefined) above(stdout, line);
      if (event.event !== "summary" && stdout.pendingBytes < SLOW_TERMINAL_BYTES) draw();
    },
    above,
  };
}

/** Above the view that is redrawn. Limits are part of that: there may be many. */
function staysInSight(event: MigrationEvent): boolean {
  if (event.event === "decision") return event.kind !== "limit" && event.kind !== "wait";
  return ["listening", "connected", "checkpoint", "summary"].includes(event.event);
}

function writeLine(output: Output, line: string): void {
  output.write(`${line}\n`);
}
