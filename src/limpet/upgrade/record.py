"""What a node remembers of its last upgrade: one small file beside its state, written before each step.

While `state` is "trial", whoever reads it and is not that version on trial knows that the trial has ended
and how: by a power cut, or because it failed.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from limpet.store.files import write_atomically

if TYPE_CHECKING:
    from pathlib import Path

State: TypeAlias = Literal["trial", "complete", "failed"]
_NAME = "upgrade.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One upgrade. Times are seconds since 1970; `ready` names the apps that were ready before it."""

    state: State
    version: str
    previous: str
    started_at: float
    ready: tuple[str, ...] = ()
    ended_at: float | None = None
    reason: str = ""


def read_record(data_directory: Path) -> Record | None:
    """Return the last upgrade; None when there was none, or its file is of another version."""
    try:
        told = json.loads((data_directory / _NAME).read_bytes())
        known = {name: told[name] for name in Record.__slots__ if name in told}
        record = Record(**known | {"ready": tuple(map(str, told.get("ready", ())))})
    except (OSError, ValueError, TypeError, AttributeError):
        return None
    return record if record.state in ("trial", "complete", "failed") else None


def write_record(data_directory: Path, record: Record) -> None:
    """Remember an upgrade; durable on return. Raises OSError."""
    write_atomically(data_directory / _NAME, json.dumps(asdict(record)).encode() + b"\n")
