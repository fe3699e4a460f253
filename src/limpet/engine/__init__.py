"""WebAssembly engines, by name. Importing this package loads none of them."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from limpet.errors import NotFoundError

if TYPE_CHECKING:
    from limpet.engine.protocol import Engine

# name -> (module, class); the module loads the engine's library when it is imported.
_ENGINES = {"wasmtime": ("limpet.engine.wasmtime.engine", "WasmtimeEngine")}
DEFAULT_ENGINE = "wasmtime"


class UnknownEngineError(NotFoundError):
    """No engine has this name."""


def engine_names() -> tuple[str, ...]:
    return tuple(_ENGINES)


def open_engine(name: str = DEFAULT_ENGINE) -> Engine:
    """Make the engine of this name.

    Raises `UnknownEngineError`, or UnavailableError when its library is not on this machine.
    """
    if name not in _ENGINES:
        raise UnknownEngineError(f"no engine is called {name!r}: choose from {', '.join(_ENGINES)}")
    module, attribute = _ENGINES[name]
    engine: Engine = getattr(import_module(module), attribute)()
    return engine
