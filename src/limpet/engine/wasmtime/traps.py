"""What an abnormal end of a guest means, in one line for people."""

from __future__ import annotations

import ctypes

from limpet.engine.wasmtime import binding

# wasmtime/trap.h, enum wasmtime_trap_code_enum: what a module without the GC proposal can hit.
STACK_OVERFLOW = 0
UNREACHABLE = 9
OUT_OF_FUEL = 11
_CODES = {
    STACK_OVERFLOW: "call stack exhausted",
    1: "out of bounds memory access",
    2: "misaligned memory access",
    3: "out of bounds table access",
    4: "call through an empty table entry",
    5: "indirect call type mismatch",
    6: "integer overflow",
    7: "integer divide by zero",
    8: "invalid conversion to integer",
    UNREACHABLE: "`unreachable` instruction executed",
    10: "interrupted",
    13: "null reference",
}
_MAX_NAME = 200


def take_trap(trap: int) -> tuple[int, str]:
    """The code (-1: none) and the text of a `wasm_trap_t`, which is freed."""
    try:
        code = ctypes.c_uint8()
        number = code.value if binding.trap_code(trap, ctypes.byref(code)) else -1
        text = _CODES.get(number) or _last_line(_message(trap))
        function = _top_function(trap)
        return number, f"{text} in {function}" if function else text
    finally:
        binding.trap_delete(trap)


def _message(trap: int) -> str:
    message = binding.ByteVec()
    binding.trap_message(trap, ctypes.byref(message))
    return binding.take_bytes(message).rstrip(b"\0").decode(errors="replace")


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "unknown trap"


def _top_function(trap: int) -> str:
    """The name of the function that trapped, as far as the module kept names."""
    frames = binding.PointerVec()
    binding.trap_trace(trap, ctypes.byref(frames))
    try:
        if not frames.size:
            return ""
        top = frames.data[0]
        name = binding.read_name(binding.frame_func_name(top))
        printable = "".join(char if char.isprintable() else "?" for char in name[:_MAX_NAME])
        return printable or f"function {binding.frame_func_index(top)}"
    finally:
        binding.frame_vec_delete(ctypes.byref(frames))
