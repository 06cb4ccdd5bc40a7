import { isatty } from "node:tty";

/** A line on the terminal that is written over and over, and gone in the end; nothing at all where stderr is no terminal. */
export interface ProgressLine extends Disposable {
  show(text: string): void;
}

const CLEAR_LINE = "\r\u001b[K";

export function openProgressLine(): ProgressLine {
  const isLive = isatty(2) && process.env.TERM !== "dumb";
  return {
    show: (text) =>
      void (isLive && process.stderr.write(`${CLEAR_LINE}${text.slice(0, (process.stderr.columns || 80) - 1)}`)),
    [Symbol.dispose]: () => void (isLive && process.stderr.write(CLEAR_LINE)),
  };
}
