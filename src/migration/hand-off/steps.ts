/** What the two machines of the hand-off have in common. Pure. */

/** Where a session stands, as an end's journal says (docs/journal-format.md). */
export type SessionState =
  /** The guest runs at the source, or is just stopped there; the stream flows. */
  | "streaming"
  /** Destination only: its QEMU has it all, and holds it. */
  | "loaded"
  /** The VM was handed over. */
  | "committed"
  /** The VM runs at the destination, or is paused there as it was. */
  | "running"
  /** The VM is the source's; the destination's copy is gone or will never run. */
  | "aborted"
  /** Source only: its QEMU has ended before the VM was handed over. */
  | "lost";

/** A record of the journal that must be on the disk before anything behind it is done. */
export interface JournalAction {
  readonly do: "journal";
  readonly state: SessionState;
  /** COMMIT's: whether the guest is to run. */
  readonly run?: boolean;
  /** Nothing is left to do for this end, and nobody is left to be told. */
  readonly isSettled?: boolean;
}

export interface NotJournalled {
  readonly type: "not-journalled";
  /** The record that could not be written; it may stand there all the same. */
  readonly record: JournalAction;
}

/** A state, and what is to be done now: in order, each only once the one before it has been done. */
export interface Step<S, A> {
  readonly state: S;
  readonly actions: readonly A[];
}
