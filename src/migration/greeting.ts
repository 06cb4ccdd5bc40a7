import packageJson from "../../package.json" with { type: "json" };
import { GodwitError } from "../errors.ts";
import { compareFacts, type VmFacts, vmFactsSchema } from "../qemu/facts.ts";
import type { OfferedCheckpoint } from "../wire/messages.ts";
import type { KnownCheckpoint } from "./events.ts";

/** What HELLO and WELCOME say of a program. */
export const PROGRAM = `godwit ${packageJson.version}`;

/**
 * The peer's facts, checked.
 *
 * @throws GodwitError PEER_BAD_FACTS
 */
export function parseFacts(facts: unknown): VmFacts {
  const parsed = vmFactsSchema.safeParse(facts);
  if (!parsed.success) {
    throw new GodwitError(
      "PEER_BAD_FACTS",
      "the peer describes its VM in a way that can't be read",
      {},
      { cause: parsed.error },
    );
  }
  return parsed.data;
}

/** Differences that one line names: a peer may tell of thousands of disks. */
const MAX_TOLD = 16;

/**
 * Compares what can be compared before the guest is touched.
 *
 * @throws GodwitError MIGRATION_MISMATCH that names the differences in one line
 */
export function assertMatch(source: VmFacts, destination: VmFacts, allowOlderQemu: boolean): void {
  const mismatches = compareFacts(source, destination, { allowOlderQemu });
  if (mismatches.length === 0) return;
  const texts = mismatches.slice(0, MAX_TOLD).map(({ text }) => text);
  if (mismatches.length > MAX_TOLD) texts.push(`and ${mismatches.length - MAX_TOLD} more`);
  const message = `the two QEMUs do not match: ${texts.join("; ")}`;
  throw new GodwitError("MIGRATION_MISMATCH", message, { mismatches });
}

/**
 * Holds a sender to the VM that the destination's user named: by its UUID, or by its name.
 *
 * @throws GodwitError MIGRATION_OTHER_VM
 */
export function assertExpectedVm({ name, uuid }: VmFacts, expected: string | undefined): void {
  if (expected === undefined || name === expected || uuid.toLowerCase() === expected.toLowerCase()) return;
  const message = `the destination takes the VM ${expected} only (--vm), and this is ${name ?? "one without a name"}, ${uuid}`;
  throw new GodwitError("MIGRATION_OTHER_VM", message, { expected, name, uuid });
}

/** @throws GodwitError PEER_PAGE_FORMAT when the peer packs pages in another way than we do */
export function assertPageFormat(theirs: number, ours: number): void {
  if (theirs === ours) return;
  const message = `the peer uses page format ${theirs}, this godwit ${ours}: use the same version at both ends`;
  throw new GodwitError("PEER_PAGE_FORMAT", message, { theirs, ours });
}

/** Of the checkpoints in WELCOME, what people are told: the newest comes first. */
export function newestOf([offer]: readonly OfferedCheckpoint[]): KnownCheckpoint | null {
  return offer === undefined ? null : { id: offer.id, pages: offer.pages, createdMs: offer.createdMs };
}
