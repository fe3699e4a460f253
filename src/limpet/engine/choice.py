"""Decides which engine runs a module, and as what it is best run.

Pure: the agent asks when it prepares an app, `limpet inspect` when it reports. Imports are given as
`ModuleInfo.imports` has them: `module.name` of a core module, `interface.function` of a component,
such as `wasi:cli/stdout@0.2.3.get-stdout`; the interface alone will do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from limpet.engine.protocol import ModuleError
from limpet.wasi import abi

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

WASMTIME, WASMEDGE = "wasmtime", "wasmedge"
ENGINES = (WASMTIME, WASMEDGE)
AUTO = "auto"
INTERPRETER = "interpreter"

HTTP, COMMAND, SOCKET = "http", "command", "socket"
TRIGGERS = (HTTP, COMMAND, SOCKET)

_LISTENING = frozenset({f"{abi.MODULE}.sock_listen", f"{abi.MODULE}.sock_listen_v2"})
_START_LISTEN = ".[method]tcp-socket.start-listen"
_TCP, _INCOMING_HTTP = "wasi:sockets/tcp", "wasi:http/incoming-handler"
_SOCKETS_PREFIX = f"{abi.MODULE}.sock_"
_PREVIEW1 = frozenset(f"{abi.MODULE}.{name}" for name in abi.PREVIEW1)
_HELP = {WASMEDGE: "limpet engine install wasmedge"}
_NOT_INSTALLED = "it is not installed"


@dataclass(frozen=True, slots=True)
class Choice:
    """`reason` completes "ENGINE, because ..." for people."""

    engine: str
    reason: str


def choose_engine(
    wanted: str, imports: Sequence[str], *, is_component: bool, usable: Mapping[str, str]
) -> Choice:
    """The engine for a module; `wanted` is auto or an engine's name.

    `usable` has an engine's name and "" when it can be used here, or why it can't; one that it
    lacks is not installed. Raises `ModuleError` when the wanted one can't run the module, or none.
    """
    if wanted == AUTO:
        return _choose(imports, is_component=is_component, usable=usable)
    if wanted not in ENGINES:
        raise ModuleError(
            f"no engine is called {wanted!r}: choose from {', '.join((AUTO, *ENGINES))}"
        )
    if wanted == WASMEDGE and is_component:
        raise ModuleError(
            "WasmEdge runs no components: leave the choice of the engine to Limpet "
            f"({AUTO}), or build a core module, for wasm32-wasip1"
        )
    if why := unusable_reason(wanted, usable):
        raise ModuleError(f"the app wants the engine {wanted}, but {why}")
    return Choice(wanted, "it was asked for")


def unusable_reason(engine: str, usable: Mapping[str, str]) -> str:
    """Why this engine can't be used here and what helps; empty when it can."""
    why = usable.get(engine, _NOT_INSTALLED)
    help_text = _HELP.get(engine, "")
    if why and help_text and help_text not in why:
        return f"{why}: {help_text}"
    return why


def uses_socket_extension(imports: Sequence[str]) -> bool:
    """Whether a core module imports what WasmEdge added to preview 1."""
    return any(name.startswith(_SOCKETS_PREFIX) and name not in _PREVIEW1 for name in imports)


def is_listening(imports: Sequence[str]) -> bool:
    """Whether a module opens a listening socket of its own, as far as its imports tell.

    Of a component, functions of wasi:sockets/tcp tell; the interface alone counts as all of them.
    """
    return any(name in _LISTENING or _is_listening_on_tcp(name) for name in imports)


def _is_listening_on_tcp(name: str) -> bool:
    is_tcp = name.partition("@")[0].partition(".")[0] == _TCP
    return is_tcp and ("[" not in name or name.endswith(_START_LISTEN))


def suggested_trigger(imports: Sequence[str], exports: Sequence[str] = ()) -> str:
    """As what to run a module when nobody says: socket for one that listens, else http.

    A component that exports wasi:http/incoming-handler is http whatever it imports: the socket
    interfaces come along with some languages' libraries.
    """
    if any(name.partition("@")[0] == _INCOMING_HTTP for name in exports):
        return HTTP
    return SOCKET if is_listening(imports) else HTTP


def _choose(imports: Sequence[str], *, is_component: bool, usable: Mapping[str, str]) -> Choice:
    without = {engine: unusable_reason(engine, usable) for engine in ENGINES}
    if is_component:
        if without[WASMTIME]:
            raise ModuleError(f"components need the engine {WASMTIME}, but {without[WASMTIME]}")
        return Choice(WASMTIME, "it runs components")
    if uses_socket_extension(imports):
        if not without[WASMEDGE]:
            return Choice(WASMEDGE, "the module uses WasmEdge's socket functions")
        if not without[WASMTIME]:
            return Choice(
                WASMTIME,
                "the module uses WasmEdge's socket functions, which work the same there; "
                "WasmEdge can't be used here: see `limpet engine list`",
            )
    if not without[WASMTIME]:
        return Choice(WASMTIME, "it is the default")
    if not without[WASMEDGE]:
        return Choice(WASMEDGE, f"{WASMTIME} can't be used: {without[WASMTIME]}")
    reasons = "; ".join(f"{engine}: {why}" for engine, why in without.items())
    raise ModuleError(f"no engine can be used here: {reasons}")
