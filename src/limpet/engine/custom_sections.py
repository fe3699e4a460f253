"""Reads what toolchains say of themselves in a module's custom sections.

Nothing depends on them: the specification has consumers ignore a custom section that they can't
read, so a damaged one says nothing here.

Sources: the tool conventions' `ProducersSection.md` and `Linking.md` (target features), and
WasmEdge's loader for the section that holds native code.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from limpet.engine.protocol import ModuleError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from limpet.engine.binary import Reader, Section

# What WasmEdge runs in a module's stead when it is told so. Ours never is: docs/security.md.
NATIVE_CODE = frozenset({"wasmedge"})
_PRODUCERS, _TARGET_FEATURES = "producers", "target_features"
_USED = ord("+")
_MAX_ENTRIES = 64
_MAX_LENGTH = 200


def find_native_code(sections: Iterable[Section]) -> list[Section]:
    """The custom sections with machine code that an engine might run."""
    return [section for section in sections if section.name in NATIVE_CODE]


def read_producers(reader: Reader, sections: Iterable[Section]) -> dict[str, list[str]]:
    """What made the module: `language`, `processed-by` and `sdk`, each as `name version`."""
    producers: dict[str, list[str]] = {}
    for section in sections:
        if section.name != _PRODUCERS:
            continue
        body = _body(reader, section)
        try:
            for _ in range(min(body.count(), _MAX_ENTRIES)):
                field = body.name()[:_MAX_LENGTH]
                known = producers.setdefault(field, [])
                for _ in range(min(body.count(), _MAX_ENTRIES)):
                    text = f"{body.name()} {body.name()}".strip()[:_MAX_LENGTH]
                    if text not in known:
                        known.append(text)
        except ModuleError:
            continue  # says nothing more: see the module's docstring
    return producers


def read_target_features(reader: Reader, sections: Iterable[Section]) -> list[str]:
    """The WebAssembly features that the compiler was allowed to use, as LLVM calls them."""
    features: list[str] = []
    for section in sections:
        if section.name != _TARGET_FEATURES:
            continue
        body = _body(reader, section)
        try:
            for _ in range(min(body.count(), _MAX_ENTRIES)):
                is_used = body.byte() == _USED
                name = body.name()[:_MAX_LENGTH]
                if is_used and name not in features:
                    features.append(name)
        except ModuleError:
            continue  # says nothing more: see the module's docstring
    return features


def _body(reader: Reader, section: Section) -> Reader:
    """Behind the name."""
    body = reader.within(section.body, section.end)
    body.name()
    return body
