/**
 * The one error class of godwit, and the words every message to a person is made of.
 *
 * A person needs three things: what happened, what it means for the VM, and what to do. The first is the error's
 * message; the other two are added where the state of the VM is known (the migration and the commands).
 */

/** Codes are stable: scripts match on them. The part before the first underscore names the folder that throws. */
export type ErrorCode =
  | `QMP_${string}`
  | `STREAM_${string}`
  | `WIRE_${string}`
  | `FORM_${string}`
  | `PEER_${string}`
  | `STORE_${string}`
  | `CONTROL_${string}`
  | `MIGRATION_${string}`
  | `CLI_${string}`;

/** An error with a stable code and typed details. `message` is one clause without a full stop, for people. */
export class GodwitError extends Error {
  override readonly name = "GodwitError";
  readonly code: ErrorCode;
  readonly details: Readonly<Record<string, unknown>>;

  constructor(code: ErrorCode, message: string, details: Record<string, unknown> = {}, options?: ErrorOptions) {
    super(message, options);
    this.code = code;
    this.details = details;
  }
}

/** What went wrong in one clause, whatever was thrown. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
