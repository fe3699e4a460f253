"""A typed reader over one mapping of a manifest.

It remembers which fields were asked for, so that `close` can refuse the rest, and reports every
problem with its path. A field that is null counts as absent, as it does for Kubernetes. After a
problem the reader returns the default, and parsing goes on to find the next problem.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from limpet.manifest.problems import shown, type_name

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from limpet.manifest.problems import Path, Report

# Says why a text is not acceptable, or None when it is.
Check: TypeAlias = "Callable[[str], str | None]"

INT32_MAX = 2**31 - 1


class Fields:
    """The fields of the mapping at `path`; anything that is no mapping is reported and empty."""

    def __init__(self, report: Report, path: Path, value: object) -> None:
        self.report = report
        self.path = path
        self._values: dict[str, object] = {}
        self._used: set[str] = set()
        self.is_present = isinstance(value, dict)
        if isinstance(value, dict):
            self._keep(value)
        elif value is not None:
            report.add(path, f"must be a mapping, not {type_name(value)}")

    def _keep(self, value: dict[object, object]) -> None:
        for key, item in value.items():
            if isinstance(key, str):
                self._values[key] = item
            else:
                self.report.add(self.path, f"field names must be strings, not {type_name(key)}")

    def __contains__(self, name: str) -> bool:
        return self._values.get(name) is not None

    def __len__(self) -> int:
        return len(self._values)

    def problem(self, why: str, *steps: str | int) -> None:
        """Report a problem of this mapping, or of the field that `steps` lead to."""
        self.report.add((*self.path, *steps), why)

    def raw(self, name: str, *, required: bool = False) -> object:
        """The field's value as it is; None when it is absent.

        A mapping that is itself absent is one problem, not one for each field it lacks.
        """
        self._used.add(name)
        value = self._values.get(name)
        if value is None and required and self.is_present:
            self.problem("is required", name)
        return value

    def text(
        self, name: str, *, default: str = "", required: bool = False, check: Check | None = None
    ) -> str:
        value = self.raw(name, required=required)
        if value is None:
            return default
        text = read_text(self, value, name)
        if text is None:
            return default
        why = check(text) if check else None
        if why is None and required and not text:
            why = "must not be empty"
        if why is not None:
            self.problem(why, name)
            return default
        return text

    def choice(
        self, name: str, choices: Collection[str], *, default: str = "", required: bool = False
    ) -> str:
        """A word out of `choices`; an empty one counts as absent, as it does for Kubernetes."""
        text = self.text(name, default=default, required=required) or default
        if text and text != default and text not in choices:
            self.problem(f"{shown(text)} is not one of {', '.join(choices)}", name)
            return default
        return text

    def integer(
        self,
        name: str,
        *,
        default: int = 0,
        minimum: int = 0,
        maximum: int = INT32_MAX,
        required: bool = False,
    ) -> int:
        value = self.raw(name, required=required)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int):
            self.problem(f"must be a whole number, not {_unlike_number(value)}", name)
            return default
        if not minimum <= value <= maximum:
            self.problem(f"must be between {minimum} and {maximum}, not {shown(value)}", name)
            return default
        return value

    def boolean(self, name: str, *, default: bool = False) -> bool:
        value = self.raw(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            self.problem(f"must be true or false, not {type_name(value)}", name)
            return default
        return value

    def mapping(self, name: str, *, required: bool = False) -> Fields:
        return Fields(self.report, (*self.path, name), self.raw(name, required=required))

    def items(self, name: str, *, required: bool = False) -> list[object]:
        value = self.raw(name, required=required)
        if value is None:
            return []
        if not isinstance(value, list):
            self.problem(f"must be a list, not {type_name(value)}", name)
            return []
        return value

    def mappings(self, name: str, *, required: bool = False) -> list[Fields]:
        items = self.items(name, required=required)
        for index, item in enumerate(items):
            if item is None:
                self.problem("must be a mapping, not null", name, index)
        return [Fields(self.report, (*self.path, name, i), item) for i, item in enumerate(items)]

    def texts(self, name: str) -> tuple[str, ...]:
        read = (read_text(self, item, name, i) for i, item in enumerate(self.items(name)))
        return tuple(text for text in read if text is not None)

    def text_map(
        self, name: str, *, key_check: Check | None = None, value_check: Check | None = None
    ) -> dict[str, str]:
        """A mapping of strings to strings; null values are refused, as there is no default."""
        inner = self.mapping(name)
        kept: dict[str, str] = {}
        for key in inner.names():
            text = read_text(inner, inner.get(key), key)
            why = key_check(key) if key_check else None
            if why is None and text is not None and value_check:
                why = value_check(text)
            if why is not None:
                inner.problem(why, key)
            elif text is not None:
                kept[key] = text
        return kept

    def names(self) -> list[str]:
        """Every key, null ones too, in the document's order."""
        return list(self._values)

    def get(self, name: str) -> object:
        """The value under a key that is data rather than a field."""
        return self._values.get(name)

    def accept(self, *names: str) -> None:
        """Fields that mean something to a cluster and nothing here."""
        self._used.update(names)

    def close(
        self, refusals: Mapping[str, str] | None = None, *, is_empty_refused: bool = False
    ) -> None:
        """Refuse what was not asked for: `refusals` knows why, the rest are unknown fields.

        A refused field that is null, false or empty asks for nothing and passes, except where a
        field's mere presence is a choice: of a volume's source, of a probe's handler.
        """
        refusals = refusals or {}
        for name, value in self._values.items():
            if name in self._used:
                continue
            if name in refusals:
                if value is not None and (is_empty_refused or not _is_empty(value)):
                    self.problem(refusals[name], name)
            else:
                self.problem("unknown field" + self.report.nearest(name, self._used), name)


def read_text(fields: Fields, value: object, *steps: str | int) -> str | None:
    """The value as text that a process can be given (no NUL, valid UTF-8), or None, reported."""
    if not isinstance(value, str):
        fields.problem(unlike_text(value), *steps)
        return None
    if "\0" in value:
        fields.problem("must not contain a NUL character", *steps)
        return None
    if not value.isascii() and not is_encodable(value):
        fields.problem("must be valid Unicode: it has half of a surrogate pair", *steps)
        return None
    return value


def unlike_text(value: object) -> str:
    """Why a value that is no string is refused, without showing it."""
    hint = ": quote it" if isinstance(value, (bool, int, float)) else ""
    return f"must be a string, not {type_name(value)}{hint}"


def is_encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def exactly_one(fields: Fields, names: Collection[str]) -> str | None:
    """Which one of `names` is there; reports when it is none or several."""
    present = [name for name in names if name in fields]
    if len(present) == 1:
        return present[0]
    if not fields.is_present:
        return None
    found = " and ".join(present) if present else "none"
    fields.problem(f"must have exactly one of {', '.join(names)}; it has {found}")
    return None


def _unlike_number(value: object) -> str:
    return "a fraction" if isinstance(value, float) else type_name(value)


def _is_empty(value: object) -> bool:
    """Null, false, "", [] and {}, and mappings of these: `status: {loadBalancer: {}}`."""
    if isinstance(value, dict):
        return not value or (
            len(value) == 1 and next(iter(value.values())) in (None, False, "", [], {})
        )
    return value is None or value is False or value in ("", [])
