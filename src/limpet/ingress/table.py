"""The routing table: which host and path lead to which app (Kubernetes' Ingress). Pure.

Exact hosts come before wildcards, wildcards before rules for any host; for one host exact paths
come before prefixes and longer prefixes before shorter ones. A host's rules that match no path
leave the request to the next less specific host, so that a default backend serves what is left.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

Address = tuple[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One path of an Ingress. `target` is None while nothing serves its Service.

    `patience_seconds` is how long the target may stay silent.
    """

    host: str
    path: str
    is_exact: bool
    target: Address | None
    patience_seconds: float


@dataclass(slots=True)
class _Paths:
    """One host's rules. A prefix is kept without its trailing slash, as its elements joined."""

    exact: dict[bytes, Rule] = field(default_factory=dict)
    prefixes: dict[bytes, Rule] = field(default_factory=dict)
    depth: int = 0

    def add(self, rule: Rule) -> None:
        path = canonical_path(rule.path.encode())
        if rule.is_exact:
            self.exact.setdefault(path, rule)
        else:
            prefix = path.rstrip(b"/")
            self.prefixes.setdefault(prefix, rule)
            self.depth = max(self.depth, prefix.count(b"/"))

    def find(self, path: bytes) -> Rule | None:
        rule = self.exact.get(path)
        if rule is not None or not self.prefixes:
            return rule
        # No more elements than the longest prefix has: a path of thousands costs nothing more.
        elements = path.rstrip(b"/").split(b"/", self.depth + 1)[: self.depth + 1]
        while elements:
            rule = self.prefixes.get(b"/".join(elements))
            if rule is not None:
                return rule
            elements.pop()
        return None


class RouteTable:
    """Finds the rule for a request; the first of several equal rules wins."""

    def __init__(self, rules: Iterable[Rule] = ()) -> None:
        self._hosts: dict[bytes, _Paths] = {}
        self._wildcards: dict[bytes, _Paths] = {}
        self._any = _Paths()
        for rule in rules:
            self._paths(rule.host.encode()).add(rule)

    def _paths(self, host: bytes) -> _Paths:
        if not host:
            return self._any
        if host.startswith(b"*."):
            return self._wildcards.setdefault(host[2:].lower(), _Paths())
        return self._hosts.setdefault(host.lower(), _Paths())

    def find(self, authority: bytes, path: bytes) -> Rule | None:
        """Return the rule for a Host header's value and a request's path, if there is one."""
        if not path.startswith(b"/"):
            return None
        path = canonical_path(path)
        for paths in self._candidates(canonical_host(authority)):
            rule = paths.find(path)
            if rule is not None:
                return rule
        return None

    def _candidates(self, host: bytes) -> Iterator[_Paths]:
        exact = self._hosts.get(host)
        if exact is not None:
            yield exact
        label, _, rest = host.partition(b".")
        wildcard = self._wildcards.get(rest) if label else None
        if wildcard is not None:
            yield wildcard
        yield self._any


def parse_table(text: str) -> RouteTable:
    """Read what the agent sends: a JSON list of [host, path, is exact, "address:port", seconds]."""
    return RouteTable(
        Rule(
            host=host,
            path=path,
            is_exact=is_exact,
            target=_parse_target(target),
            patience_seconds=float(seconds),
        )
        for host, path, is_exact, target, seconds in json.loads(text)
    )


def _parse_target(text: str) -> Address | None:
    host, _, port = text.rpartition(":")
    return (host.strip("[]"), int(port)) if text else None


def canonical_host(authority: bytes) -> bytes:
    """Reduce `Host[:port]` to the host in lower case, without the root's dot."""
    if authority.startswith(b"["):
        return authority.partition(b"]")[0].lower() + b"]"
    return authority.partition(b":")[0].lower().removesuffix(b".")


def canonical_path(path: bytes) -> bytes:
    """Spell a path in the one way that rules are compared in; what is forwarded is left as it came.

    Percent-encoding, dot segments and empty segments can spell one path in many ways. An app treats
    them alike, so the router must, or `/%61dmin` would go round a rule for `/admin`.
    """
    if b"%" in path:
        path = unquote_to_bytes(path)
    if b"//" not in path and b"/." not in path:
        return path
    segments = path.split(b"/")
    kept: list[bytes] = []
    for segment in segments:
        if segment == b"..":
            if kept:
                kept.pop()
        elif segment not in (b"", b"."):
            kept.append(segment)
    is_folder = bool(kept) and segments[-1] in (b"", b".", b"..")
    return b"/" + b"/".join(kept) + (b"/" if is_folder else b"")
