"""What is wrong with a manifest, all of it at once, in the order of the document.

A `Report` collects while parsing goes on with placeholders; `raise_problems` ends it. Values are
shown only through `shown`, and never by code that reads Secrets.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from limpet.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

Path: TypeAlias = tuple[str | int, ...]

_PLAIN_STEP = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
_SHOWN_LENGTH = 64
_NEAREST_LIMIT = 20  # difflib is slow: hostile input gets help with its first few mistakes only
_NEAREST_WORD_LENGTH = 64


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing to mend: `where` is `file:line` or `Kind/name`."""

    where: str
    path: str
    why: str

    def __str__(self) -> str:
        return ": ".join(part for part in (self.where, self.path, self.why) if part)


class ManifestError(InvalidInputError):
    """A manifest can't be used; `problems` holds every reason, in the document's order."""

    reason = "InvalidManifest"

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))

    def __reduce__(self) -> tuple[type[ManifestError], tuple[tuple[Problem, ...]]]:
        return type(self), (self.problems,)


def shown(value: object) -> str:
    """A value as a message may show it: quoted, printable, short."""
    if isinstance(value, str):
        text = value if len(value) <= _SHOWN_LENGTH else value[: _SHOWN_LENGTH - 3] + "..."
        return '"' + "".join(c if c.isprintable() else _escaped(c) for c in text) + '"'
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value) if value.bit_length() <= 64 else "a huge number"
    if isinstance(value, float):
        return repr(value)
    return type_name(value)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")


def type_name(value: object) -> str:
    """What a manifest's author calls a value of this type."""
    names = {type(None): "null", bool: "a boolean", int: "a number", float: "a number"}
    names |= {str: "a string", list: "a list", dict: "a mapping"}
    return names.get(type(value), "something that JSON does not have")


def render_path(path: Path) -> str:
    """`spec.containers[0].name`; steps that are not plain words are bracketed and quoted."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        elif _PLAIN_STEP.fullmatch(step) and len(step) <= _SHOWN_LENGTH:
            text += f".{step}" if text else step
        else:
            text += f"[{shown(step)}]"
    return text


class Report:
    """Collects problems of one object. `locate` gives `file:line` of a path, `label` stands in."""

    def __init__(
        self, root: object, *, label: str, locate: Callable[[Path], str] | None = None
    ) -> None:
        self._root = root
        self._label = label
        self._locate = locate
        self._found: list[tuple[Path, str]] = []
        self._positions: dict[int, dict[object, int]] = {}
        self._nearest_left = _NEAREST_LIMIT

    @property
    def is_clean(self) -> bool:
        return not self._found

    def add(self, path: Path, why: str) -> None:
        self._found.append((path, why))

    def nearest(self, word: str, known: Iterable[str]) -> str:
        """`; did you mean x?`, or nothing when nothing known is near."""
        if self._nearest_left == 0 or len(word) > _NEAREST_WORD_LENGTH:
            return ""
        self._nearest_left -= 1
        return nearest(word, known)

    def raise_problems(self) -> None:
        """Raise `ManifestError` if anything was collected."""
        if not self._found:
            return
        ordered = sorted(self._found, key=lambda found: self._order(found[0]))
        raise ManifestError(
            Problem(self._locate(path) if self._locate else self._label, render_path(path), why)
            for path, why in ordered
        )

    def _order(self, path: Path) -> tuple[int, ...]:
        """Where the path stands in the document: a missing field counts as its parent."""
        order: list[int] = []
        here = self._root
        for step in path:
            if isinstance(here, dict) and step in here:
                order.append(self._position(here, step))
                here = here[step]
            elif isinstance(here, list) and isinstance(step, int) and step < len(here):
                order.append(step)
                here = here[step]
            else:
                break
        return tuple(order)

    def _position(self, mapping: dict[object, object], key: object) -> int:
        positions = self._positions.get(id(mapping))
        if positions is None:
            positions = {known: index for index, known in enumerate(mapping)}
            self._positions[id(mapping)] = positions
        return positions[key]


def nearest(word: str, known: Iterable[str]) -> str:
    """`; did you mean x?` for the known word nearest to `word`, or nothing."""
    from difflib import get_close_matches

    by_lower = {name.lower(): name for name in known}
    matches = get_close_matches(word.lower(), by_lower, n=1)
    return f"; did you mean {by_lower[matches[0]]}?" if matches else ""
