"""How the host functions of one interface of WASI 0.2 are declared, and how they refuse."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from limpet.wasi.preview2.types import Signature, Type

if TYPE_CHECKING:
    from collections.abc import Callable

    Implementation = Callable[..., object]
    _Function = TypeVar("_Function", bound=Implementation)


class Refused(Exception):  # noqa: N818 - it is an answer to the guest, as `value` of the declared type
    """A host function answers with the error of its `result`."""

    def __init__(self, value: object) -> None:
        super().__init__(value)
        self.value = value


def _keep(error: Exception) -> object:
    raise error


@dataclass(frozen=True, slots=True)
class HostFunction:
    """`call(run, *arguments)` returns what the signature says, or raises.

    `explain` turns an exception into the error of the `result`; it raises what it has no word for.
    """

    signature: Signature
    call: Implementation
    explain: Callable[[Exception], object]


class Interface:
    """The functions and resources that the host offers under one name, in any version 0.2.z."""

    def __init__(self, *resources: str, explain: Callable[[Exception], object] = _keep) -> None:
        self.resources = frozenset(resources)
        self.functions: dict[str, HostFunction] = {}
        self._explain = explain

    def function(
        self, name: str, *parameters: Type, returns: Type | None = None
    ) -> Callable[[_Function], _Function]:
        """Declare what comes next as the function of this name.

        `[method]thing.act` and `act` are the names' forms in the component model.
        """

        def declare(function: _Function) -> _Function:
            signature = Signature(parameters, returns)
            self.functions[name] = HostFunction(signature, function, self._explain)
            return function

        return declare
