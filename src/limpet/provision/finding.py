"""What an examination found: one line a matter, with what to do where something is amiss."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


class Level(StrEnum):
    """`missing`: an app may be refused or less guarded. `hint`: works, and could be better."""

    OK = "ok"
    MISSING = "missing"
    HINT = "hint"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One matter: `found` is what is there, `without` what is lost, `fix` what helps.

    `name` is a `limpet.manifest.model.Facility` where it is one. `details` is for programs.
    """

    name: str
    level: Level
    found: str
    without: str = ""
    fix: str = ""
    details: Mapping[str, object] = field(default_factory=dict)
