"""YAML text -> plain objects that remember their lines.

Objects are composed here from the parser's events, not by the YAML library: so no tag ever
constructs anything, and depth, size and aliases are bounded before they cost anything.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import yaml

from limpet.manifest.compose import ComposeError, Composer, Node
from limpet.manifest.problems import ManifestError, Problem, render_path, type_name

if TYPE_CHECKING:
    from collections.abc import Iterator

    from limpet.manifest.problems import Path

MAXIMUM_FILE_BYTES = 4 << 20
MAXIMUM_DOCUMENTS = 1000

# Also what breaks lines for YAML 1.1 and not for JSON: U+0085, U+2028, U+2029.
_UNPRINTABLE = re.compile(
    "[^\t\n\r\x20-\x7e\xa0-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]"
)
_JSON_PAIR = re.compile(
    r"(?<!\\)((?:\\\\)*)\\u([dD][89abAB][0-9a-fA-F]{2})\\u([dD][c-fC-F][0-9a-fA-F]{2})"
)
_LIST_FIELDS = ("apiVersion", "kind", "metadata", "items")

# libyaml's parser where it is there: ten times as fast, and it bounds its own lookahead.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True, slots=True)
class Document:
    """One object of a file. `object` has JSON's types only, and shares nothing."""

    object: dict[str, object] = field(repr=False)
    file: str
    _root: Node = field(repr=False)

    def locate(self, path: tuple[str | int, ...]) -> str:
        """`file:line` of the field, or of the nearest thing around it that exists."""
        return f"{self.file}:{_find(self._root, path).line}"


def load_documents(text: str | bytes, *, file: str) -> list[Document]:
    """The objects of a YAML or JSON file; empty documents are skipped, a `List` is its items.

    Raises `ManifestError` with `file:line` for whatever is not plain, bounded YAML.
    """
    source = _decode(text, file)
    problems: list[Problem] = []
    documents: list[Document] = []
    for root in _compose(source, file, problems):
        for item in _expand(root, file, problems):
            plain = item.plain()
            if isinstance(plain, dict):
                documents.append(Document(plain, file, item))
            elif plain is not None:
                where = f"{file}:{item.line}"
                why = f"an object must be a mapping, not {type_name(plain)}"
                problems.append(Problem(where, "", why))
    if problems:
        raise ManifestError(problems)
    return documents


def _decode(text: str | bytes, file: str) -> str:
    """The text, if it is short enough and made of characters that YAML allows."""
    too_large = Problem(f"{file}:1", "", "is larger than 4Mi; split it into several files")
    if len(text) > MAXIMUM_FILE_BYTES:
        raise ManifestError([too_large])
    try:
        raw = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
        text = raw.decode("utf-8") if isinstance(text, bytes) else text
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ManifestError([Problem(f"{file}:{line}", "", "is not UTF-8")]) from error
    if len(raw) > MAXIMUM_FILE_BYTES:
        raise ManifestError([too_large])
    text = text.removeprefix("\ufeff")
    match = _UNPRINTABLE.search(text)
    if match is not None:
        line = text.count("\n", 0, match.start()) + 1
        why = f"the character U+{ord(match[0]):04X} is not allowed as it is; write an escape"
        raise ManifestError([Problem(f"{file}:{line}", "", why)])
    if text.lstrip()[:1] in {"{", "["}:
        text = _JSON_PAIR.sub(_join_pair, text)
    return text


def _join_pair(match: re.Match[str]) -> str:
    """JSON writes characters beyond U+FFFF as two escapes, which YAML does not know."""
    high, low = int(match[2], 16), int(match[3], 16)
    return match[1] + chr(0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00))


def _compose(text: str, file: str, problems: list[Problem]) -> Iterator[Node]:
    """The documents' roots. What is wrong inside a document does not hide the next one."""
    composer = Composer(yaml.parse(text, Loader=_LOADER))
    try:
        for count, root in enumerate(composer.documents(), start=1):
            if count > MAXIMUM_DOCUMENTS:
                raise ComposeError(root.line, f"has more than {MAXIMUM_DOCUMENTS} documents")
            problems += _found(composer, file)
            yield root
    except ComposeError as error:
        problems += _found(composer, file)
        problems.append(Problem(f"{file}:{error.line}", render_path(error.path), error.why))
    except yaml.YAMLError as error:
        problems += _found(composer, file)
        problems.append(_syntax_problem(error, text, file))


def _found(composer: Composer, file: str) -> list[Problem]:
    found, composer.found = composer.found, []
    return [Problem(f"{file}:{item.line}", render_path(item.path), item.why) for item in found]


def _syntax_problem(error: yaml.YAMLError, text: str, file: str) -> Problem:
    """Only what the parser says: its marks quote the line, and the line may hold a secret."""
    line, why = 1, "is not YAML"
    if isinstance(error, yaml.MarkedYAMLError):
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        why = "is not YAML: " + ", ".join(filter(None, (error.context, error.problem)))
    lines = text.split("\n", line)
    if len(lines) >= line and "\t" in lines[line - 1][: -len(lines[line - 1].lstrip()) or None]:
        why += "; indent with spaces, not tabs"
    return Problem(f"{file}:{line}", "", why)


def _expand(root: Node, file: str, problems: list[Problem]) -> list[Node]:
    """A `v1` List's items; every other document is itself."""
    fields = root.value
    if not isinstance(fields, dict) or "items" not in fields or "kind" not in fields:
        return [root]
    version = fields.get("apiVersion")
    if fields["kind"].value != "List" or version is None or version.value != "v1":
        return [root]
    for name, node in fields.items():
        if name not in _LIST_FIELDS:
            why = "unknown field; a List has items"
            problems.append(Problem(f"{file}:{node.line}", render_path((name,)), why))
    items = fields["items"]
    if isinstance(items.value, list):
        return items.value
    if items.value is not None:
        why = f"must be a list, not {type_name(items.plain())}"
        problems.append(Problem(f"{file}:{items.line}", "items", why))
    return []


def _find(node: Node, path: Path) -> Node:
    for step in path:
        inner = _child(node, step)
        if inner is None:
            break
        node = inner
    return node


def _child(node: Node, step: str | int) -> Node | None:
    if isinstance(node.value, dict) and isinstance(step, str):
        return node.value.get(step)
    if isinstance(node.value, list) and isinstance(step, int) and 0 <= step < len(node.value):
        return node.value[step]
    return None
