import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { SHAPES } from "../../src/wire/messages.ts";
import { MessageOrder, RULES } from "../../src/wire/sequence.ts";
import { encode, exchange } from "./wire-fixtures.ts";

const document = readFileSync(new URL("../../docs/wire-protocol.md", import.meta.url), "utf8");

test("the example exchange is what the encoder writes", () => {
  expect(/<!-- example:[^\n]*-->\n\n```\n(.*?)```/s.exec(document)?.[1]).toBe(exampleText());
});

test("the example exchange is in order", () => {
  const order = new MessageOrder("sender");
  for (const { type } of exchange) {
    if (fromOf(type) === "S") order.sent(type);
    else order.received(type);
  }
});

test("the order table is the one that is checked", () => {
  expect(/<!-- order:[^\n]*-->\n\n(.*?)\n\n/s.exec(document)?.[1]).toBe(orderTable());
});

test("codes and limits are those of the code", () => {
  for (const [type, { code, minBytes, maxBytes }] of Object.entries(SHAPES)) {
    const bytes = minBytes === maxBytes ? `${minBytes}` : `${minBytes} to ${maxBytes.toLocaleString("en")}`;
    const row = document
      .split("\n")
      .find((line) => line.startsWith(`| 0x${code.toString(16).padStart(2, "0")} | [${type}]`));
    expect(row).toContain(` | ${bytes} | `);
  }
});

/** PONG answers the sender's PING in the example. */
function fromOf(type: (typeof exchange)[number]["type"]): "S" | "R" {
  return type !== "PONG" && RULES[type][0]?.from === "sender" ? "S" : "R";
}

function exampleText(): string {
  return exchange.map((message) => `${fromOf(message.type)} ${message.type}\n${hexDump(encode(message))}`).join("\n");
}

function hexDump(bytes: Uint8Array): string {
  const line = (at: number) => {
    const part = Buffer.from(bytes.subarray(at, at + 16));
    const hex = part.toString("hex").replace(/..(?!$)/g, "$& ");
    return `  ${hex.padEnd(47)}  ${part.toString("latin1").replace(/[^ -~]/g, ".")}\n`;
  };
  return Array.from({ length: Math.ceil(bytes.length / 16) }, (_, i) => line(i * 16)).join("");
}

function orderTable(): string {
  const head = "| message | from | after | not after |\n|---|---|---|---|";
  const rows = Object.entries(RULES).flatMap(([type, rules]) =>
    rules.map(({ from, after, notAfter }) => `| ${type} | ${from} | ${after.join(", ")} | ${notAfter.join(", ")} |`),
  );
  return [head, ...rows].join("\n");
}
