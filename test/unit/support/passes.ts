import { vi } from "vitest";

/** Waits until a check passes. It does at once, or never; a busy machine takes its time. */
export function passes(check: () => unknown): Promise<unknown> {
  return vi.waitFor(check, { timeout: 20_000 });
}
