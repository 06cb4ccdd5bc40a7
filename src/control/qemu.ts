/** What QEMU's pre-copy is known to do, for those who predict it and those who simulate it. */

/** ram_save_iterate returns after so long (MAX_WAIT, migration/ram.c); only then QEMU looks at what remains. */
export const ITERATION_MS = 50;
/** QEMU measures its bandwidth over windows of this length (BUFFER_DELAY, migration/migration.c). */
export const WINDOW_MS = 100;
/** QEMU's largest downtime-limit (MAX_MIGRATE_DOWNTIME, migration/options.h): it then switches over whatever remains. */
export const MAX_DOWNTIME_LIMIT_MS = 2_000_000;
