/** `godwit status` and `godwit resolve`: what is known of sessions here, and what a person may do to settle one. */
import { GodwitError, messageOf } from "../../errors.ts";
import { isLive } from "../../qemu/migrate.ts";
import type { QmpClient } from "../../qemu/qmp.ts";
import type { Journal } from "../../store/journal.ts";
import type { JournalContent, JournalHeader, JournalRole } from "../../store/journal-format.ts";
import { type ListedSession, SessionStore } from "../../store/session-store.ts";
import type { EventListener } from "../events.ts";
import type { SessionState } from "../hand-off/steps.ts";
import { putBack } from "../left-settings.ts";
import { type SettleOptions, settleLeft } from "../settle-source.ts";
import { type Advice, adviseOn, type Deed, type Option, type Owner, ownerOf } from "./advice.ts";
import { type FoundQemu, findQemu, giveBack, letRun } from "./qemu.ts";

/** One end of a session, as `godwit status` lists it. */
export interface SessionReport {
  readonly id: string;
  readonly role: JournalRole;
  readonly vm: JournalHeader["vm"] | null;
  readonly peer: string | null;
  /** Where its QEMU's monitor was. */
  readonly qmpPath: string | null;
  /** Null: nothing was done yet; or the journal can't be read. */
  readonly state: SessionState | null;
  readonly settled: boolean;
  /** Since when it is in that state: milliseconds since 1970. */
  readonly sinceMs: number | null;
  readonly owner: Owner;
  /** The godwit that is at it. */
  readonly pid: number | null;
  /** Why the journal can't be read. */
  readonly problem: string | null;
}

/** What `godwit resolve` says of one. */
export interface Resolution extends SessionReport, Advice {
  /** What was done just now. */
  readonly done: Deed | null;
}

export interface ResolveOptions {
  readonly stateDir: string;
  /** Its first digits; with `.source`, `.destination` or `.settings` behind them where the host has several ends of it. */
  readonly id: string;
  /** Null: only says what can be done. */
  readonly action: Deed | null;
  /** A person vouches for what can't be known. */
  readonly iKnow: boolean;
  /** How to reach the destination, to ask it for a VM that was handed over. */
  readonly ask?: Pick<SettleOptions, "security" | "to" | "reconnectForMs" | "signal"> | undefined;
  /** Where the QEMU's monitor is, if not where the journal says. */
  readonly qmpPath?: string | undefined;
  /** What went wrong beside what was asked for. */
  readonly warn: (message: string) => void;
}

/** One whose journal can be read. */
type ReadSession = Extract<ListedSession, { problem: null }>;

/** All sessions of a state folder, those that changed last first. @throws GodwitError STORE_STATE_DIR */
export async function listSessions(stateDir: string): Promise<SessionReport[]> {
  const store = await SessionStore.open(stateDir);
  return (await store.list()).map(reportOf);
}

function reportOf({ session: id, role, pid, content, subject, problem }: ListedSession): SessionReport {
  const { vm = null, peer = null, qmpPath = null } = subject ?? {};
  const end = { id, role, vm, peer, qmpPath, pid };
  if (content === null) {
    return { ...end, state: null, settled: false, sinceMs: null, owner: "unknown", problem: problem.message };
  }
  const { state, isSettled: settled, sinceMs } = content;
  return { ...end, state, settled, sinceMs, owner: ownerOf({ role, state }), problem: null };
}

/**
 * Says who owns the VM of a session, why, and what can be done; and does what is asked for, where that is safe or vouched for.
 *
 * @throws GodwitError STORE_STATE_DIR, STORE_SESSION_NONE, STORE_SESSION_AMBIGUOUS, STORE_JOURNAL_*, STORE_BUSY; MIGRATION_UNSAFE
 * when it must not be done, MIGRATION_NOT_VOUCHED when a person has to vouch; MIGRATION_NOT_RESUMED when QEMU does not do it
 */
export async function resolveSession(options: ResolveOptions): Promise<Resolution> {
  const store = await SessionStore.open(options.stateDir);
  const session = await pick(store, options);
  if (options.action === null) return look(session, options);
  if (await isAsked(session, options)) {
    await askForIt(session, options);
    return { ...(await look(await pick(store, options), options)), done: options.action };
  }
  const journal = await store.take(session.session, session.role);
  try {
    using qemu = await findQemu(journal.content.header, options.qmpPath);
    const advice = adviceOf({ pid: null, role: session.role }, journal.content, qemu);
    assertMay(advice, options.action, options.iKnow);
    await settle(options.action, journal, qemu, options.warn);
  } finally {
    await journal.close();
  }
  return { ...(await look(await pick(store, options), options)), done: options.action };
}

/** Whether the destination is to be asked, in place of a person. */
async function isAsked({ content }: ReadSession, { action, iKnow, ask, qmpPath }: ResolveOptions): Promise<boolean> {
  if (action !== "resume-source" || iKnow || ask === undefined || content.state !== "committed") return false;
  using qemu = await findQemu(content.header, qmpPath);
  return qemu.found === "stopped" && qemu.isCertain;
}

/** @throws GodwitError MIGRATION_UNSAFE when the destination runs the VM, or can't be reached */
async function askForIt({ content }: ReadSession, { stateDir, qmpPath, ask, warn }: ResolveOptions): Promise<void> {
  using qemu = await findQemu(content.header, qmpPath);
  const onEvent: EventListener = (event) => event.event === "warning" && warn(event.message);
  const outcome = await settleLeft(qemu.qmp!, { ...ask!, stateDir, wantsBack: true, onEvent });
  if (outcome === null || outcome.end === "aborted") return;
  const why =
    outcome.end === "completed"
      ? "the destination runs the VM"
      : `the destination was not reached (${messageOf(outcome.reason)})`;
  throw new GodwitError("MIGRATION_UNSAFE", `it can't be had back: ${why}`, { end: outcome.end });
}

async function look(session: ReadSession, { qmpPath }: ResolveOptions): Promise<Resolution> {
  using qemu = session.pid === null ? await findQemu(session.content.header, qmpPath) : undefined;
  return { ...reportOf(session), ...adviceOf(session, session.content, qemu), done: null };
}

function adviceOf(
  { pid, role }: Pick<ReadSession, "pid" | "role">,
  content: JournalContent,
  qemu: FoundQemu | undefined,
): Advice {
  const { state, isSettled, run, settings } = content;
  const { found = "unknown", isCertain = false, problem = null } = qemu ?? {};
  const advice = adviseOn({ role, state, isSettled, run, pid, found, isCertain, hasSettings: settings !== null });
  return problem === null ? advice : { ...advice, why: `${advice.why} (${problem})` };
}

async function pick(store: SessionStore, { id, action }: ResolveOptions): Promise<ReadSession> {
  const [prefix = "", role] = id.split(".");
  const ends = await store.find(prefix);
  const wanted = ends.filter((end) => {
    if (role !== undefined) return end.role === role;
    if (action === null || action === "close") return true;
    return (end.role === "destination") === (action === "run-destination");
  });
  const [only, other] = wanted;
  if (only === undefined) {
    const have = ends.map((end) => end.role).join(" and ");
    throw new GodwitError("STORE_SESSION_NONE", `of session ${prefix} this host has the ${have} only`, { id });
  }
  if (other === undefined) {
    if (only.problem !== null) throw only.problem;
    return only;
  }
  const names = wanted.map((end) => `${prefix}.${end.role}`).join(" or ");
  throw new GodwitError("STORE_SESSION_AMBIGUOUS", `this host has both ends of session ${prefix}: say ${names}`, {
    id,
  });
}

function assertMay({ can, why }: Advice, action: Deed, iKnow: boolean): void {
  const may: Option | undefined = can.find((option) => option.action === action);
  if (may === undefined) {
    const instead = can.find(({ action }) => action === "none" || action === "wait")?.text;
    const message = `that can't be done, as ${why}: ${instead ?? "without an action, godwit resolve says what can be"}`;
    throw new GodwitError("MIGRATION_UNSAFE", message, { action });
  }
  if (may.needsIKnow && !iKnow) {
    const message = `${why}; it ${may.text}; then say so with --i-know`;
    throw new GodwitError("MIGRATION_NOT_VOUCHED", message, { action });
  }
}

/** @param qemu was found, but where the session is only closed */
async function settle(action: Deed, journal: Journal, { qmp }: FoundQemu, warn: (message: string) => void) {
  switch (action) {
    case "close":
      return close(journal);
    case "run-destination":
      return runDestination(qmp!, journal);
    case "resume-source":
      return resumeSource(qmp!, journal, warn);
  }
}

/** In the order of the source's machine: the VM is taken back in the journal before the guest goes on. */
async function resumeSource(qmp: QmpClient, journal: Journal, warn: (message: string) => void): Promise<void> {
  const { header, state } = journal.content;
  if (header.role !== "settings") {
    if (state === "committed") await journal.note({ state: "aborted" });
    await giveBack(qmp, header.guestRuns);
    await journal.note({ state: "aborted", settled: true });
  }
  await putBack(qmp, journal).catch((error: unknown) => {
    warn(`QEMU's migration settings are not as they were before: ${messageOf(error)}`);
  });
}

/** As the machines end where QEMU is gone; of a VM that was handed over they know nothing more, and the state stays. */
async function close(journal: Journal): Promise<void> {
  const { header, state } = journal.content;
  const isKept = state === "committed" || state === "running";
  const ended = header.role === "destination" ? "aborted" : "lost";
  await journal.note({ state: isKept ? state : ended, settled: true });
}

/** In the order of the destination's machine: the VM is ours in the journal before the guest runs. */
async function runDestination(qmp: QmpClient, journal: Journal): Promise<void> {
  const { state, run } = journal.content;
  const isHandedOver = state === "committed" || state === "running";
  if (!isHandedOver) await journal.note({ state: "committed", run: true });
  const { status } = await qmp.execute("query-status");
  // A VM that was paused at the source is so here; one that a person asks for is to run.
  if (!isLive(status) && (run || !isHandedOver || state === "running")) await letRun(qmp);
  await journal.note({ state: "running" });
}
