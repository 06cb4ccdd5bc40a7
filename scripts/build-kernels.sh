#!/bin/sh
# Builds the kernels of assembly/ into FILE (default: assembly/kernels.wasm, which is committed).
# `npm run check:kernels` builds them again and compares, so that what is committed is what the sources say.
set -eu
cd "$(dirname "$0")/.."
exec node_modules/.bin/asc assembly/index.ts --outFile "${1:-assembly/kernels.wasm}" \
  --runtime stub --importMemory --sharedMemory --initialMemory 1 --maximumMemory 65536 \
  --enable simd --enable relaxed-simd --enable threads --enable bulk-memory -O3 --noAssert
