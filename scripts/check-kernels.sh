#!/bin/sh
# Fails if the committed kernels are not what assembly/ builds to.
set -eu
cd "$(dirname "$0")/.."
built=$(mktemp) && trap 'rm -f "$built"' EXIT
sh scripts/build-kernels.sh "$built"
cmp "$built" assembly/kernels.wasm || {
  echo "assembly/kernels.wasm is not what assembly/ builds to: run npm run build:kernels and commit it" >&2
  exit 1
}
