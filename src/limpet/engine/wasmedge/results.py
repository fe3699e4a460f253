"""What WasmEdge's results mean, in one line for people: the same words as of the other engine."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from limpet.engine.wasmedge.binding import Binding

# Source: include/common/enum.inc, UseErrCode, execution phase.
UNREACHABLE = 0x040A
_TEXTS = {
    0x0404: "integer divide by zero",
    0x0405: "integer overflow",
    0x0406: "invalid conversion to integer",
    0x0407: "out of bounds table access",
    0x0408: "out of bounds memory access",
    UNREACHABLE: "`unreachable` instruction executed",
    0x040B: "call through an empty table entry",
    0x040C: "out of bounds table access",
    0x040D: "indirect call type mismatch",
    0x0413: "null reference",
}


def describe_trap(binding: Binding, result: int) -> str:
    return _TEXTS.get(result) or binding.message(result)
