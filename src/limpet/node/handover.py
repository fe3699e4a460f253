"""What one launcher leaves to the next when another version's interpreter takes its process over.

The process stays the same, and with it its number and its children; what it holds open is inherited by
descriptor, and a file in memory says what each descriptor is (docs/decisions/upgrade.md). The format is read
by other versions: fields that are not known are ignored, and a descriptor that is closed is left out.
"""

from __future__ import annotations

import json
import os
import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from limpet.node.holdings import End, Held

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

FORMAT = 1
_MAX_BYTES = 64 << 20


class HandoverError(Exception):
    """What was left can't be understood."""


@dataclass(frozen=True, slots=True)
class Trial:
    """What a launcher knows whose version is on trial: the interpreter of the version before it, and the
    descriptor of what that has left.
    """

    back: str
    descriptor: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Handover:
    """Listening sockets and what agents have left, both by name; the unlock key's descriptor."""

    sockets: Mapping[str, socket.socket] = field(default_factory=dict)
    held: Mapping[str, Held] = field(default_factory=dict)
    unlock: int | None = None


def write_handover(handover: Handover) -> int:
    """Return the descriptor of a file in memory that `read_handover` reads. Both are kept by exec.

    Raises OSError.
    """
    document = {
        "format": FORMAT,
        "sockets": {name: each.fileno() for name, each in handover.sockets.items()},
        "held": [
            {
                "name": name,
                "pid": held.pid,
                "text": held.text,
                "descriptors": held.descriptors,
                "end": [held.end.status, held.end.peak_bytes, held.end.at] if held.end else None,
            }
            for name, held in handover.held.items()
        ],
        "unlock": handover.unlock,
    }
    descriptor = os.memfd_create("limpet-handover", 0)
    with os.fdopen(os.dup(descriptor), "wb") as file:
        file.write(json.dumps(document).encode())
    leave_open(handover)
    return descriptor


def leave_open(handover: Handover) -> None:
    """Let the next program that is executed have the descriptors."""
    _set_inheritable(_descriptors(handover), flag=True)


def keep_back(handover: Handover) -> None:
    """Undo what `write_handover` did to the descriptors: nothing was executed."""
    _set_inheritable(_descriptors(handover), flag=False)


def read_handover(descriptor: int) -> Handover:
    """Take what was left; no other program that is executed later inherits it. Raises `HandoverError`."""
    try:
        document = json.loads(os.pread(descriptor, _MAX_BYTES, 0))
        if document["format"] != FORMAT:
            raise HandoverError(f"it has format {document['format']}, not {FORMAT}")
        unlock = document["unlock"]
        handover = Handover(
            sockets={
                name: socket.socket(fileno=number)
                for name, number in document["sockets"].items()
                if _is_open(number)
            },
            held={each["name"]: _held(each) for each in document["held"]},
            unlock=unlock if unlock is not None and _is_open(unlock) else None,
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise HandoverError(f"it can't be read: {error!r}") from error
    _set_inheritable(_descriptors(handover), flag=False)
    return handover


def _held(told: dict[str, Any]) -> Held:
    descriptors = tuple(told["descriptors"])
    end = End(*told["end"]) if told["end"] is not None else None
    return Held(
        told["pid"], told["text"], descriptors if all(map(_is_open, descriptors)) else (), end
    )


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def _descriptors(handover: Handover) -> Iterable[int]:
    yield from (each.fileno() for each in handover.sockets.values())
    for held in handover.held.values():
        yield from held.descriptors
    if handover.unlock is not None:
        yield handover.unlock


def _set_inheritable(descriptors: Iterable[int], *, flag: bool) -> None:
    for descriptor in descriptors:
        os.set_inheritable(descriptor, flag)
