import { exitNow } from "./exit.ts";
import { CANCEL_SIGNALS, type CancelSignal, signalExitCode } from "./exit-codes.ts";
import { writeLastWords } from "./output.ts";

export interface Cancellation extends Disposable {
  /** Aborted by the first signal. */
  readonly signal: AbortSignal;
  /** The first signal that came. */
  readonly cause: CancelSignal | undefined;
}

export interface CancelWords {
  /** For the second signal, in one clause. */
  readonly waitingFor: string;
  /** For the third: what may be left behind and what to do about it, in one clause. */
  readonly leftBehind: string;
}

/**
 * Turns SIGINT, SIGTERM and SIGHUP into a clean cancellation.
 *
 * The first asks; the second says what is waited for, as nothing may end the process while it is not settled where the VM
 * is; the third ends it all the same.
 */
export function cancelOnSignals(say: (line: string) => void, words: CancelWords): Cancellation {
  const controller = new AbortController();
  let cause: CancelSignal | undefined;
  let count = 0;
  const onSignal = (signal: NodeJS.Signals) => {
    const name = signal as CancelSignal;
    count++;
    if (count === 1) {
      cause = name;
      controller.abort(new Error(name === "SIGINT" ? "cancelled by Ctrl-C" : `cancelled by ${name}`));
    } else if (count === 2) {
      say(`${words.waitingFor}; once more ends godwit at once, whatever it leaves behind`);
    } else {
      writeLastWords(`godwit: ended at once; ${words.leftBehind}\n`);
      exitNow(signalExitCode(name));
    }
  };
  const names = Object.keys(CANCEL_SIGNALS) as CancelSignal[];
  for (const name of names) process.on(name, onSignal);
  return {
    signal: controller.signal,
    get cause() {
      return cause;
    },
    [Symbol.dispose]: () => {
      for (const name of names) process.off(name, onSignal);
    },
  };
}
