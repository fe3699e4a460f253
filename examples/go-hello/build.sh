#!/bin/sh
# Build go-hello.wasm beside this script, or in the folder given. GO names the go command.
set -eu
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
output=$(CDPATH='' cd -- "${1:-$here}" && pwd)/go-hello.wasm
cd "$here"
GOOS=wasip1 GOARCH=wasm GOFLAGS='' GOWORK=off exec "${GO:-go}" build -trimpath -buildvcs=false \
    -ldflags='-s -w -buildid=' -o "$output" .
