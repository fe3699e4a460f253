#!/bin/sh
# Compile C to a WASI preview 1 command module: cc.sh OUTPUT SOURCE...
#
# The same sources and compiler give the same bytes in any folder: no paths, names or times
# are left in the output, and any other compiler version is refused.
set -eu

zig_version=0.17.1
output=$1
shift

PYTHON=${PYTHON:-python3}
found=$("$PYTHON" -m ziglang version) || {
    echo "cc.sh: $PYTHON has no ziglang; try: $PYTHON -m pip install ziglang==$zig_version" >&2
    exit 1
}
if [ "$found" != "$zig_version" ]; then
    echo "cc.sh: ziglang is $found, the modules are built with $zig_version" >&2
    exit 1
fi

# The stack comes first in memory, so overflowing it traps and overwrites nothing.
"$PYTHON" -m ziglang cc --target=wasm32-wasi -std=c11 -D_POSIX_C_SOURCE=200809L -Os -DNDEBUG -flto \
    -Wall -Wextra -Werror -ffunction-sections -fdata-sections \
    -Wl,--gc-sections -Wl,--strip-all -Wl,-z,stack-size=65536 \
    -o "$output" "$@"
chmod 644 "$output"
