import type { JournalAction, NotJournalled, Step } from "./steps.ts";

interface Action {
  readonly do: string;
}

/**
 * Runs a machine of the hand-off as the explorer does: one event after the other; all actions of a step, in order, each done before the
 * next; and what came of an action before anything else that has happened meanwhile.
 */
export class Runner<S, E extends { readonly type: string }, A extends Action> {
  readonly #step: (state: S, event: E) => Step<S, A>;
  /** Does an action; resolves with what came of it, where the machine wants to know. */
  readonly #perform: (action: A) => E | undefined | Promise<E | undefined>;
  readonly #events: E[] = [];
  #state: S;
  #isBusy = false;

  constructor(
    begin: Step<S, A>,
    step: (state: S, event: E) => Step<S, A>,
    perform: (action: A) => E | undefined | Promise<E | undefined>,
  ) {
    this.#state = begin.state;
    this.#step = step;
    this.#perform = perform;
    if (begin.actions.length > 0) void this.#run(begin);
  }

  get state(): S {
    return this.#state;
  }

  /** Something has happened. */
  tell(event: E): void {
    this.#events.push(event);
    if (!this.#isBusy) void this.#run(undefined);
  }

  async #run(begin: Step<S, A> | undefined): Promise<void> {
    this.#isBusy = true;
    let step = begin;
    for (;;) {
      const answer = step && (await this.#take(step));
      const event = answer ?? this.#events.shift();
      if (event === undefined) break;
      step = this.#step(this.#state, event);
    }
    this.#isBusy = false;
  }

  async #take({ state, actions }: Step<S, A>): Promise<E | undefined> {
    this.#state = state;
    let answer: E | undefined;
    for (const action of actions) {
      answer = (await this.#perform(action)) ?? answer;
      // What was to come behind a record that is not on the disk is not done.
      if (answer?.type === "not-journalled") break;
    }
    return answer;
  }
}

/** Notes a step in the journal, if there is one. */
export async function noteStep(
  journal: { note(step: Omit<JournalAction, "do" | "isSettled"> & { settled?: boolean }): Promise<void> } | undefined,
  action: JournalAction,
  warn: (error: unknown) => void,
): Promise<NotJournalled | undefined> {
  const { state, run, isSettled } = action;
  try {
    await journal?.note({ state, ...(run !== undefined && { run }), ...(isSettled && { settled: true }) });
    return undefined;
  } catch (error) {
    warn(error);
    return { type: "not-journalled", record: action };
  }
}
