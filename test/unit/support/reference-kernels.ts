import type { PageKernels } from "../../../src/compact/page-kernels.ts";
import { keyedBlake3 } from "../../../src/compact/reference/blake3.ts";
import { applyDelta, encodeDelta } from "../../../src/compact/reference/delta.ts";
import { xxh3 } from "../../../src/compact/reference/xxh3.ts";
import { PAGE_BYTES } from "./pages.ts";

type CacheKernels = Pick<
  PageKernels,
  "hashPages" | "tagRuns" | "encodeDeltas" | "checkDeltas" | "applyDeltas" | "copyPages"
>;

/** What the page cache needs of the kernels, over a memory of ours and from the plain references. */
export function referenceKernels(memory: Uint8Array): PageKernels {
  const view = new DataView(memory.buffer, memory.byteOffset);
  const word = (list: number, index: number) => view.getUint32(list + index * 4, true);
  const pageAt = (at: number) => memory.subarray(at, at + PAGE_BYTES);
  const pages = (addresses: number, count: number) =>
    Array.from({ length: count }, (_, index) => pageAt(word(addresses, index)));
  const isDelta = (delta: Uint8Array, bytes: number) =>
    delta.length === bytes && applyDelta(new Uint8Array(PAGE_BYTES), delta) !== undefined;

  const kernels: CacheKernels = {
    hashPages(secret, addresses, count, out) {
      const bytes = memory.slice(secret, secret + 192);
      pages(addresses, count).forEach((page, index) => {
        view.setBigUint64(out + index * 8, xxh3(page, bytes), true);
      });
    },
    tagRuns(key, _scratch, runs, count, stride, out) {
      const bytes = memory.slice(key, key + 32);
      for (let run = 0; run < count; run++) {
        const pages = Array.from({ length: word(runs, run * 2 + 1) }, (_, page) =>
          pageAt(word(runs, run * 2) + page * stride),
        );
        memory.set(keyedBlake3(bytes, Buffer.concat(pages)), out + run * 16);
      }
    },
    encodeDeltas(olds, news, count, limit, out, lengths) {
      let at = out;
      for (let i = 0; i < count; i++) {
        const delta = encodeDelta(pageAt(word(olds, i)), pageAt(word(news, i)), limit);
        view.setUint32(lengths + i * 4, delta?.length ?? 0, true);
        memory.set(delta ?? [], at);
        at += delta?.length ?? 0;
      }
      return at - out;
    },
    checkDeltas(count, from, end, lengths) {
      for (let i = 0, at = from; i < count; i++) {
        const bytes = word(lengths, i);
        if (!isDelta(memory.subarray(at, Math.min(end, at + bytes)), bytes)) return i;
        at += bytes;
      }
      return count;
    },
    applyDeltas(olds, news, count, from, end, lengths) {
      const sound = kernels.checkDeltas(count, from, end, lengths);
      for (let i = 0, at = from; i < sound; i++) {
        memory.set(applyDelta(pageAt(word(olds, i)), memory.subarray(at, at + word(lengths, i)))!, word(news, i));
        at += word(lengths, i);
      }
      return sound;
    },
    copyPages(from, fromStride, to, toStride, count) {
      for (let i = 0; i < count; i++) memory.set(pageAt(from + i * fromStride).slice(), to + i * toStride);
    },
  };
  return kernels as PageKernels;
}
