"""What the error means with which a component's call ended.

The C API gives an error for every end of a call, and of a trap in it only the text: a list of causes
below a backtrace. The words of each trap are those of `Trap`'s Display in Wasmtime.
"""

from __future__ import annotations

import re

from limpet.engine.wasmtime import traps

_CODES = {
    "wasm `unreachable` instruction executed": traps.UNREACHABLE,
    "call stack exhausted": traps.STACK_OVERFLOW,
    "all fuel consumed by WebAssembly": traps.OUT_OF_FUEL,
}
# "    0:   0x1c2a - module.wasm!function_name"
_FRAME = re.compile(r"^\s*\d+:\s+0x[0-9a-f]+ - \S*?!(?P<name>.*)$", re.MULTILINE)
_MAX_TEXT = 400
_MAX_NAME = 200


def parse_error(text: str) -> tuple[int, str]:
    """The code (-1: another one, or no trap) and one line for people."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    cause = re.sub(r"^\d+: ", "", lines[-1]) if lines else "unknown trap"
    cause = cause.removeprefix("wasm trap: ")
    code = _CODES.get(cause, -1)
    frame = _FRAME.search(text)
    name = frame["name"][:_MAX_NAME] if frame else ""
    name = re.sub(r"^<wasm (function \d+)>$", r"\1", name)  # of a module that kept no names
    printable = "".join(char if char.isprintable() else "?" for char in name)
    return code, f"{cause[:_MAX_TEXT]} in {printable}" if printable else cause[:_MAX_TEXT]
