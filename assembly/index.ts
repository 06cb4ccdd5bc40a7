export { tagPages, tagRuns } from "./blake3";
export { copyPages } from "./copy";
export { applyDeltas, checkDeltas, encodeDeltas } from "./delta";
export { expandBlank, expandZero } from "./expand";
export { compressLz4, decompressLz4 } from "./lz4";
export { insertPages, lookupPages } from "./page-index";
export { scanPages } from "./scan";
export { hashPages } from "./xxh3";
export { isZero, listNonZero } from "./zero";
