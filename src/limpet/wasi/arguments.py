"""Checks of enumerations and flags that a guest passes by value.

What the witx does not declare ends the guest with a trap, as in Wasmtime; within records that the
guest wrote to memory it is EINVAL instead.
"""

from __future__ import annotations

from limpet.wasi.endings import GuestTrap


def check_enum(kind: str, value: int, count: int) -> None:
    """`value` must be one of the `count` cases of the witx type `kind`."""
    if value >= count:
        raise GuestTrap(f"invalid argument: {value} is no {kind}")


def check_flags(kind: str, value: int, allowed: int) -> None:
    """`value` may have only the bits `allowed` of the witx type `kind`."""
    if value & ~allowed:
        raise GuestTrap(f"invalid argument: {value:#x} has bits that {kind} does not")
