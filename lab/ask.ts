import type { Vm } from "./vm.ts";

const ANSWER_TIMEOUT_MS = 60_000;
let asked = 0;

/**
 * What a shell command prints in a guest that is ready, on one line.
 *
 * @throws Error with the console's last lines when there is no answer within `timeoutMs`
 */
export async function answerOf({ console }: Vm, command: string, timeoutMs = ANSWER_TIMEOUT_MS): Promise<string> {
  const number = ++asked;
  const from = console.lines.length;
  console.send(`echo "answer ${number}:" $(${command})`);
  const [, answer] = await console.waitFor(new RegExp(`^answer ${number}:(.*)$`), timeoutMs, from);
  return answer!.trim();
}
