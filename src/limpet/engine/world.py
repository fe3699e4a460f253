"""Which worlds of components have a place here: what they may import, and how they are run.

The worlds are those of WASI 0.2 (wit files of its proposals); what is offered of them is in
`limpet.wasi.preview2`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from limpet.engine.component_binary import (
    TYPE,
    ComponentShape,
    Extern,
    Interface,
    parse_interface,
)
from limpet.engine.inspection import cut_list, find_feature_problems, indent_lines
from limpet.wasi.preview2.offered import interface_names, strip_version

if TYPE_CHECKING:
    from collections.abc import Iterable

RUN = "wasi:cli/run"
INCOMING_HTTP = "wasi:http/incoming-handler"

OFFERED = frozenset(interface_names())
"""Interfaces that a component may import, without their versions."""

_WASI = "wasi:"
_HTTP = "wasi:http"
_PACKAGES = tuple(dict.fromkeys(name.partition("/")[0] for name in interface_names()))


def find_problems(shape: ComponentShape) -> list[str]:
    """What keeps a component from running here, in plain words; empty when nothing does."""
    problems = [
        problem for module in shape.modules for problem in find_feature_problems(module.shape)
    ]
    missing = [f"{each.name} - {why}" for each in shape.imports if (why := extern_problem(each))]
    if missing:
        problems.append(
            "the component imports what Limpet does not offer; it offers WASI 0.2 "
            f"({', '.join(_PACKAGES)}):\n" + indent_lines(missing)
        )
    if not has_export(shape.exports, RUN):
        problems.append(_missing_run(shape))
    return list(dict.fromkeys(problems))


def extern_problem(each: Extern) -> str | None:
    """Why an import of a component is not offered, and what would help; None when it is."""
    if each.kind == TYPE:
        return None  # another name for a type that is known: nothing is asked of the host
    interface = parse_interface(each.name)
    if interface is None:
        return (
            f"a {each.kind} of its own: compose the component with the one that has it (wac plug)"
        )
    if not interface.package.startswith(_WASI):
        return "of another component: compose it with the one that exports this (wac plug)"
    if interface.path not in OFFERED:
        return _unknown_interface(interface)
    if strip_version(each.name) is None:
        return f"of version {interface.version or 'unknown'}: build for WASI 0.2 (wasm32-wasip2)"
    return None


def is_known(interface: Interface) -> bool:
    """Whether it is one of WASI's own that belong to 0.2, offered or not."""
    return strip_version(str(interface)) is not None and interface.package in {*_PACKAGES, _HTTP}


def has_export(exports: Iterable[Extern], path: str) -> bool:
    """Whether an interface of this name is exported, in a version 0.2.z."""
    return any(strip_version(each.name) == path for each in exports)


def _unknown_interface(interface: Interface) -> str:
    if interface.package == _HTTP:
        return (
            "HTTP out of a component is not offered: connect through wasi:sockets, or build the "
            "program for wasm32-wasip1"
        )
    return "a proposal that is not offered: build without the library that needs it"


def _missing_run(shape: ComponentShape) -> str:
    if has_export(shape.exports, INCOMING_HTTP):
        return (
            f"the component handles HTTP requests itself ({INCOMING_HTTP}), which is not offered: "
            f"build a program with a main function ({RUN}, wasm32-wasip2 or wasip1); it gets each "
            "request as a CGI program does"
        )
    found = ", ".join(cut_list([each.name for each in shape.exports])) or "nothing"
    return (
        f"the component exports no {RUN} of WASI 0.2, where a program starts (it exports {found})"
        ": build a program with a main function, for wasm32-wasip2"
    )
