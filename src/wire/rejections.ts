import { GodwitError } from "../errors.ts";

/** Reports the first refusal of a kind at once, and those of the same kind that follow within a time as one. So no flood fills a log. */
export class RejectionLog implements Disposable {
  readonly #report: (error: GodwitError) => void;
  readonly #quietMs: number;
  readonly #kinds = new Map<string, { timer: NodeJS.Timeout; last: GodwitError | undefined; count: number }>();

  constructor(report: (error: GodwitError) => void, quietMs: number) {
    this.#report = report;
    this.#quietMs = quietMs;
  }

  add(error: GodwitError): void {
    const kind = this.#kinds.get(error.code);
    if (kind !== undefined) {
      kind.count++;
      kind.last = error;
      return;
    }
    this.#report(error);
    const timer = setInterval(() => this.#onQuiet(error.code), this.#quietMs).unref();
    this.#kinds.set(error.code, { timer, last: undefined, count: 0 });
  }

  #onQuiet(code: string): void {
    const { timer, last, count } = this.#kinds.get(code)!;
    if (last === undefined) {
      clearInterval(timer);
      this.#kinds.delete(code);
      return;
    }
    const more = count === 1 ? "1 more connection was" : `${count} more connections were`;
    const message = `${more} refused within ${this.#quietMs / 1000} s, the last: ${last.message}`;
    this.#kinds.set(code, { timer, last: undefined, count: 0 });
    this.#report(new GodwitError(last.code, message, { ...last.details, count }));
  }

  /** What was not reported yet is forgotten. */
  [Symbol.dispose](): void {
    for (const { timer } of this.#kinds.values()) clearInterval(timer);
    this.#kinds.clear();
  }
}
