import { describe, expect, test } from "vitest";
import type { MessageType } from "../../src/wire/messages.ts";
import { MessageOrder, type Role, RULES } from "../../src/wire/sequence.ts";
import { exchange } from "./wire-fixtures.ts";

/** Whether the message may come after these, given as "s HELLO" or "r WELCOME", seen from both ends. */
function allowed(history: readonly string[], next: string): boolean {
  const results = (["sender", "receiver"] as const).map((own) => {
    const order = new MessageOrder(own);
    const step = (line: string) => {
      const from: Role = line.startsWith("s ") ? "sender" : "receiver";
      const type = line.slice(2) as MessageType;
      if (from === own) order.sent(type);
      else order.received(type);
    };
    history.forEach(step);
    try {
      step(next);
      return true;
    } catch (error) {
      expect(error).toMatchObject({ code: "WIRE_OUT_OF_ORDER" });
      return false;
    }
  });
  expect(results[0]).toBe(results[1]);
  return results[0] === true;
}

const greeted = ["s HELLO", "r WELCOME"];
const switched = [...greeted, "s DATA", "s SWITCHOVER", "s DATA"];
const loaded = [...switched, "r LOADED"];
const committed = [...loaded, "s COMMIT"];

describe("message order", () => {
  test("an exchange of every message is in order", () => {
    const lines = exchange.map(({ type }) => `${type === "PONG" ? "r" : RULES[type][0]?.from[0]} ${type}`);
    expect(allowed(lines.slice(0, -1), lines.at(-1) ?? "")).toBe(true);
  });

  test("nothing but HELLO or a refusal comes first, and HELLO only once", () => {
    for (const [type, rules] of Object.entries(RULES)) {
      for (const { from } of rules)
        expect(allowed([], `${from[0]} ${type}`)).toBe(type === "HELLO" || type === "REFUSE");
    }
    expect(allowed(["s HELLO"], "s HELLO")).toBe(false);
    expect(allowed(["s REFUSE"], "s HELLO")).toBe(false);
  });

  test("between HELLO and WELCOME only the receiver speaks, unless the sender refuses", () => {
    const next = Object.entries(RULES).flatMap(([type, rules]) => rules.map(({ from }) => `${from[0]} ${type}`));
    expect(next.filter((line) => allowed(["s HELLO"], line))).toEqual(["r WELCOME", "s REFUSE", "r REFUSE"]);
  });

  test.each([
    [greeted, "s DATA", true],
    [greeted, "r DATA", false],
    [greeted, "s REFUSE", true],
    [greeted, "r REFUSE", false],
    [[...greeted, "s DATA"], "s REFUSE", false],
    [[...greeted, "s REFUSE"], "s DATA", false],
    [greeted, "r LOADED", false],
    [greeted, "s COMMIT", false],
    [switched, "s SWITCHOVER", false],
    [[...greeted, "s DATA", "s END"], "s DATA", false],
    [[...greeted, "s DATA", "s END"], "s SWITCHOVER", true],
    [switched, "s COMMIT", false],
    [loaded, "s DATA", true],
    [loaded, "s ABORT", true],
    [loaded, "r RUNNING", false],
    [loaded, "s COMMIT", true],
    [[...loaded, "r ABORT"], "s COMMIT", true],
    [[...loaded, "s ABORT"], "s COMMIT", false],
    [[...switched, "s ABORT"], "r LOADED", true],
    [committed, "s COMMIT", false],
    [committed, "s ABORT", false],
    [committed, "s DATA", false],
    [committed, "r ABORT", true],
    [committed, "r RUNNING", true],
    [committed, "s END", true],
    [[...committed, "r RUNNING"], "r ABORT", false],
    [[...committed, "r ABORT"], "r RUNNING", false],
    [[...greeted, "r RETURN_END"], "r RETURN", false],
    [[...greeted, "s SWITCHOVER"], "s REFUSE", false],
    [[...greeted, "s REFUSE"], "s SWITCHOVER", false],
    [[...greeted, "s REFUSE"], "s PING", true],
    [[...switched, "r ABORT"], "r ACK", true],
    [[...switched, "r ABORT"], "r LOADED", false],
    [[...greeted, "s ABORT"], "s DATA", true],
    [[...greeted, "s PING"], "r PONG", true],
    [[...greeted, "s PING"], "s PONG", false],
    [greeted, "r NACK", true],
    [greeted, "s REPAIR", false],
    [[...greeted, "r NACK"], "s REPAIR", true],
    [[...switched, "s END", "r NACK"], "s REPAIR", true],
  ] as const)("after %j, %s: %s", (history, next, expected) => {
    expect(allowed(history, next)).toBe(expected);
  });

  test("the error names the message and what is missing", () => {
    expect(() => new MessageOrder("receiver").received("DATA")).toThrow(
      "the sender sent DATA out of order: it needs WELCOME first",
    );
  });
});
