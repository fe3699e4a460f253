"""WebAssembly engines, by name. Importing this package loads none of them."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from limpet.errors import NotFoundError

if TYPE_CHECKING:
    from limpet.engine.protocol import Engine

# name -> (module, class); the module loads the engine's library when it is imported.
_ENGINES = {
    "wasmtime": ("limpet.engine.wasmtime.engine", "WasmtimeEngine"),
    "wasmedge": ("limpet.engine.wasmedge.engine", "WasmEdgeEngine"),
}
DEFAULT_ENGINE = "wasmtime"


class UnknownEngineError(NotFoundError):
    """No engine has this name."""


def engine_names() -> tuple[str, ...]:
    return tuple(_ENGINES)


def open_engine(name: str = DEFAULT_ENGINE, *, library: str | None = None) -> Engine:
    """Make the engine of this name; `library` is its library where that is not for it to find.

    Raises `UnknownEngineError`, or UnavailableError when its library is not on this machine.
    """
    if name not in _ENGINES:
        raise UnknownEngineError(f"no engine is called {name!r}: choose from {', '.join(_ENGINES)}")
    module, attribute = _ENGINES[name]
    options = {} if library is None else {"library": library}
    engine: Engine = getattr(import_module(module), attribute)(**options)
    return engine


def locate_engine(name: str, data_directory: str) -> tuple[list[str] | None, str | None]:
    """How a process gets this engine: the command of the Python that it needs, and its library.

    The command is None where any Python will do, the library where the engine finds it itself. Raises
    UnavailableError when it is not on this machine.
    """
    if name == DEFAULT_ENGINE:
        return None, None
    from limpet.engine.wasmedge.library import command, find_installation

    installation = find_installation(data_directory)
    needs_another = installation.loader is not None
    return (command(installation, []) if needs_another else None), installation.library
