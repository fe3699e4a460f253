#!/bin/sh
# Build socket-server.wasm beside this script, or in the folder given. PYTHON names a python with
# ziglang.
set -eu
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
exec "$here/../cc.sh" "${1:-$here}/socket-server.wasm" "$here/socket-server.c"
