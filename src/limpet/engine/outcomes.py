"""How a run ended, in the words that all engines share."""

from __future__ import annotations

from limpet.engine.protocol import Outcome, OutcomeKind
from limpet.wasi.endings import GuestDeadline, GuestExit, GuestInterrupted, GuestTrap

PAGE_BYTES = 65536


def explain_ending(ending: BaseException, memory_bytes: int) -> Outcome:
    """The outcome of a run that the host ended, for the reason that its callback noted.

    Raises what is meant for the host rather than for the guest: KeyboardInterrupt, SystemExit.
    """
    if isinstance(ending, GuestExit):
        return Outcome(OutcomeKind.EXIT, ending.code, memory_bytes=memory_bytes)
    if isinstance(ending, GuestDeadline):
        return deadline_exceeded(memory_bytes)
    if isinstance(ending, GuestInterrupted):
        return interrupted(memory_bytes)
    if isinstance(ending, GuestTrap):
        return Outcome(OutcomeKind.TRAP, message=ending.message, memory_bytes=memory_bytes)
    if isinstance(ending, Exception):
        text = f"a host function failed: {type(ending).__name__}: {ending}"
        return Outcome(OutcomeKind.TRAP, message=text, memory_bytes=memory_bytes)
    raise ending


def deadline_exceeded(memory_bytes: int) -> Outcome:
    return Outcome(OutcomeKind.DEADLINE, message="deadline exceeded", memory_bytes=memory_bytes)


def interrupted(memory_bytes: int) -> Outcome:
    return Outcome(OutcomeKind.INTERRUPTED, message="interrupted", memory_bytes=memory_bytes)


def cost_exceeded(limit: int | None, memory_bytes: int) -> Outcome:
    text = f"did more work than its limit of {limit} allows"
    return Outcome(OutcomeKind.COST, message=text, memory_bytes=memory_bytes)


def explain_trap(
    text: str, *, is_unreachable: bool, memory_bytes: int, limit_bytes: int
) -> Outcome:
    """Tell running out of memory from other traps, as far as that can be told.

    Whether a growth was refused is not visible from outside. A guest that aborts with its memory
    within a page of the limit has run out of it; one that aborts with more than half of the limit in
    use may have asked for the double, so its message says so.
    """
    text = " ".join(text.split())
    if is_unreachable and memory_bytes + PAGE_BYTES > limit_bytes:
        text = f"reached its memory limit, with {memory_bytes / (1 << 20):.1f} MiB in use: {text}"
        return Outcome(OutcomeKind.OUT_OF_MEMORY, message=text, memory_bytes=memory_bytes)
    if is_unreachable and 2 * memory_bytes > limit_bytes:
        text += f" (memory at {memory_bytes} of {limit_bytes} bytes: perhaps a growth was refused)"
    return Outcome(OutcomeKind.TRAP, message=text, memory_bytes=memory_bytes)
