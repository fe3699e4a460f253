"""WWW-Authenticate: what a registry wants before it answers. Pure, and its input is hostile.

The grammar is RFC 9110's (sections 11.2 to 11.6.1), the Bearer challenge the distribution project's token
specification. Whatever is no challenge is skipped; nothing here backtracks or grows with the input.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_MOST_CHARACTERS = 8192
_MOST_CHALLENGES = 8
_MOST_PARAMETERS = 16
_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # noqa: S105 - the grammar's word
_PARAMETER = re.compile(rf'({_TOKEN})[ \t]*=[ \t]*(?:"((?:[^"\\]|\\.)*)"|({_TOKEN}))')
_SCHEME = re.compile(rf"({_TOKEN})(?=[ \t,]|\Z)")
_GAP = re.compile(r"[ \t,]*")
_ESCAPE = re.compile(r"\\(.)")


@dataclass(frozen=True, slots=True)
class Challenge:
    """One way in: `scheme` and the names of `parameters` are in lower case."""

    scheme: str
    parameters: Mapping[str, str] = field(default_factory=dict)


def parse_challenges(header: str) -> tuple[Challenge, ...]:
    """The challenges of a header's value, in order; of several headers, joined by commas."""
    text = header[:_MOST_CHARACTERS]
    found: list[tuple[str, dict[str, str]]] = []
    at = _skip(_GAP, text, 0)
    while at < len(text) and len(found) <= _MOST_CHALLENGES:
        parameter = _PARAMETER.match(text, at)
        if parameter is not None and found:
            name, quoted, plain = parameter.groups()
            value = plain if quoted is None else _ESCAPE.sub(r"\1", quoted)
            parameters = found[-1][1]
            if len(parameters) < _MOST_PARAMETERS and value.isprintable():
                parameters.setdefault(name.lower(), value)
            at = parameter.end()
        elif (scheme := _SCHEME.match(text, at)) is not None:
            found.append((scheme.group(1).lower(), {}))
            at = scheme.end()
        else:
            at += 1
        at = _skip(_GAP, text, at)
    return tuple(Challenge(scheme, values) for scheme, values in found[:_MOST_CHALLENGES])


def _skip(pattern: re.Pattern[str], text: str, at: int) -> int:
    match = pattern.match(text, at)
    return match.end() if match is not None else at
