"""The parser's events -> nodes with lines, within bounds.

Counted is what a document would be with its aliases written out: the first alias that passes the
bound is refused, before anything of it exists.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import yaml

from limpet.manifest.problems import shown
from limpet.manifest.scalars import ScalarError, parse_scalar

if TYPE_CHECKING:
    from collections.abc import Iterator

    from limpet.manifest.problems import Path

MAXIMUM_NODES = 10_000
MAXIMUM_DEPTH = 64

_TAG = "tag:yaml.org,2002:"
_TAG_WHY = "has a tag, and manifests are plain data; quote a text with !"
_MERGE_WHY = 'is a merge key, which YAML 1.2 does not have; write the fields out, or quote "<<"'


@dataclass(slots=True)
class Node:
    """A value and the line it starts on; `size` and `height` count aliases as written out.

    A mapping's value starts on the line of its key.
    """

    line: int
    value: bool | int | float | str | list[Node] | dict[str, Node] | None
    size: int = 1
    height: int = 1

    def plain(self) -> object:
        """The value in JSON's types, nothing shared."""
        if isinstance(self.value, dict):
            return {key: node.plain() for key, node in self.value.items()}
        if isinstance(self.value, list):
            return [node.plain() for node in self.value]
        return self.value


class ComposeError(Exception):
    """Composing can't go on."""

    def __init__(self, line: int, why: str, path: Path = ()) -> None:
        self.line = line
        self.path = path
        self.why = why
        super().__init__(why)


class Composer:
    """Composes documents one by one. `found` collects problems that leave the rest readable.

    Problems show no values, tags or aliases: any of them may be somebody's badly quoted password.
    """

    def __init__(self, events: Iterator[yaml.Event]) -> None:
        self.found: list[ComposeError] = []
        self._events = events
        self._anchors: dict[str, Node | None] = {}
        self._count = 0

    def documents(self) -> Iterator[Node]:
        """Raises `ComposeError` at a bound, `yaml.YAMLError` where the text is not YAML."""
        for event in self._events:
            if isinstance(event, yaml.DocumentStartEvent):
                self._anchors.clear()
                self._count = 0
                yield self._compose(next(self._events), (), 1)

    def _compose(self, event: yaml.Event, path: Path, depth: int) -> Node:
        line = _line(event)
        if depth > MAXIMUM_DEPTH:
            raise ComposeError(line, f"is nested more than {MAXIMUM_DEPTH} deep", path[:4])
        if isinstance(event, yaml.AliasEvent):
            return self._resolve(event, path, depth)
        assert isinstance(event, yaml.NodeEvent)
        self._add(line, 1)
        anchor: str | None = event.anchor
        if anchor is not None:
            self._anchors[anchor] = None
        node = self._build(event, path, depth)
        if anchor is not None:
            self._anchors[anchor] = node
        return node

    def _build(self, event: yaml.Event, path: Path, depth: int) -> Node:
        line = _line(event)
        if isinstance(event, yaml.ScalarEvent):
            return Node(line, self._scalar(event, path))
        if isinstance(event, yaml.SequenceStartEvent):
            self._check_tag(event, path, "seq")
            return self._sequence(line, path, depth)
        assert isinstance(event, yaml.MappingStartEvent)
        self._check_tag(event, path, "map")
        return self._mapping(line, path, depth)

    def _sequence(self, line: int, path: Path, depth: int) -> Node:
        items: list[Node] = []
        node = Node(line, items)
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            item = self._compose(event, (*path, len(items)), depth + 1)
            items.append(item)
            _grow(node, item)
        return node

    def _mapping(self, line: int, path: Path, depth: int) -> Node:
        fields: dict[str, Node] = {}
        node = Node(line, fields)
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            key_line = _line(event)
            key = self._key(event, path, depth)
            inner = path if key is None else (*path, key)
            value = self._compose(next(self._events), inner, depth + 1)
            _grow(node, value)
            if key is None:
                continue
            if key in fields:
                self._report(key_line, inner, f"is there twice, first on line {fields[key].line}")
                continue
            fields[key] = Node(key_line, value.value, value.size, value.height)
        return node

    def _key(self, event: yaml.Event, path: Path, depth: int) -> str | None:
        """The name of a field; None when it is reported."""
        line = _line(event)
        if not isinstance(event, yaml.ScalarEvent):
            self._compose(event, path, depth + 1)
            self._report(line, path, "field names must be plain strings")
            return None
        node = self._compose(event, path, depth + 1)
        if event.value == "<<" and event.implicit[0]:
            self._report(line, (*path, "<<"), _MERGE_WHY)
            return None
        if not isinstance(node.value, str):
            why = f"field names must be strings: quote {shown(event.value)}"
            self._report(line, path, why)
            return None
        return node.value

    def _scalar(self, event: yaml.ScalarEvent, path: Path) -> bool | int | float | str | None:
        self._check_tag(event, path, "str")
        text: str = event.value
        if not event.implicit[0]:
            return text
        try:
            return parse_scalar(text)
        except ScalarError as error:
            self._report(_line(event), path, str(error))
            return None

    def _resolve(self, event: yaml.AliasEvent, path: Path, depth: int) -> Node:
        line = _line(event)
        if event.anchor not in self._anchors:
            raise ComposeError(line, "is an alias without an anchor: quote a text with *", path)
        node = self._anchors[event.anchor]
        if node is None:
            raise ComposeError(line, "is an alias that contains itself", path)
        if depth + node.height - 1 > MAXIMUM_DEPTH:
            raise ComposeError(line, f"is nested more than {MAXIMUM_DEPTH} deep", path[:4])
        self._add(line, node.size)
        return node

    def _add(self, line: int, count: int) -> None:
        self._count += count
        if self._count > MAXIMUM_NODES:
            why = f"the document has more than {MAXIMUM_NODES} values, aliases written out"
            raise ComposeError(line, why)

    def _check_tag(self, event: yaml.NodeEvent, path: Path, expected: str) -> None:
        tag: str | None = event.tag  # type: ignore[attr-defined]
        if tag is not None and tag != _TAG + expected:
            self._report(_line(event), path, _TAG_WHY)

    def _report(self, line: int, path: Path, why: str) -> None:
        self.found.append(ComposeError(line, why, path))


def _line(event: yaml.Event) -> int:
    return event.start_mark.line + 1 if event.start_mark else 1


def _grow(node: Node, child: Node) -> None:
    node.size += child.size
    node.height = max(node.height, child.height + 1)
