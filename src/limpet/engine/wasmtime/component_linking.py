"""Lets a component call the WASI 0.2 functions that are written in Python.

Nothing raised by a host function may pass through C: every exception becomes the error of the
function's `result`, where it has one, or an error that ends the guest.
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

from limpet.engine.guest import Ending
from limpet.engine.inspection import indent_lines
from limpet.engine.protocol import ModuleError
from limpet.engine.wasmtime import binding
from limpet.engine.wasmtime import component_binding as c
from limpet.engine.wasmtime.component_lifting import lifter
from limpet.engine.wasmtime.component_lowering import lowerer
from limpet.engine.wasmtime.component_values import VALUE_BYTES, Passage
from limpet.wasi.preview2 import offered
from limpet.wasi.preview2.interface import Refused
from limpet.wasi.preview2.types import Result

if TYPE_CHECKING:
    from _ctypes import CFuncPtr

    from limpet.engine.wasmtime.component_types import ComponentShape, InstanceShape
    from limpet.wasi.preview2.interface import HostFunction
    from limpet.wasi.preview2.run import ComponentRun

_ENDED = b"ended by the host"


def check_offered(shape: ComponentShape) -> None:
    """Raise `ModuleError` that names what a component imports otherwise than the host offers it.

    Whether there are such interfaces at all is said in plainer words by `limpet.engine.world`.
    """
    problems = [f"{name} - {what}" for name, what in shape.others.items()]
    for name, instance in shape.imports.items():
        problems += _find_problems(name, instance)
    if problems:
        raise ModuleError(
            "the component imports what Limpet does not offer in this form:\n"
            + indent_lines(problems)
        )


def _find_problems(name: str, instance: InstanceShape) -> list[str]:
    interface = offered.find_interface(name)
    if interface is None:
        return [f"{name} - not offered"]
    problems = [
        f"{name} {resource} - no such resource"
        for resource in instance.resources
        if resource not in interface.resources
    ]
    for function, signature in instance.functions.items():
        known = interface.functions.get(function)
        if known is None:
            problems.append(f"{name} {function} - not offered")
        elif known.signature != signature:
            problems.append(f"{name} {function} - WASI 0.2 declares it {known.signature}")
    return problems


class ComponentGuest(Ending):
    """What the callbacks of a component share: the run in progress and why it is to end."""

    __slots__ = ("run",)

    def __init__(self) -> None:
        super().__init__()
        self.run: ComponentRun | None = None


class ComponentLinker:
    """A `wasmtime_component_linker_t` with what one component imports, and its callbacks.

    Lives as long as what it linked.
    """

    def __init__(self, engine: int, shape: ComponentShape, guest: ComponentGuest) -> None:
        self._guest = guest
        names = sorted({each for instance in shape.imports.values() for each in instance.resources})
        numbers = {name: number for number, name in enumerate(names, start=1)}
        self.passage = Passage(numbers)
        self._callbacks: list[CFuncPtr] = []
        self._destructor = self._new_destructor()
        self._types = {name: c.resource_type_new_host(number) for name, number in numbers.items()}
        self.handle: int = c.linker_new(engine)
        root = c.linker_root(self.handle)
        try:
            for name, instance in shape.imports.items():
                self._define(root, name, instance)
        finally:
            c.linker_instance_delete(root)

    def _define(self, root: int, name: str, instance: InstanceShape) -> None:
        interface = offered.find_interface(name)
        assert interface is not None  # the shape was checked
        scope = ctypes.c_void_p()
        encoded = name.encode()
        _check(
            c.linker_instance_add_instance(root, encoded, len(encoded), ctypes.byref(scope)), name
        )
        try:
            for resource in instance.resources:
                encoded = resource.encode()
                _check(
                    c.linker_instance_add_resource(
                        scope,
                        encoded,
                        len(encoded),
                        self._types[resource],
                        self._destructor,
                        None,
                        None,
                    ),
                    name,
                )
            for function in instance.functions:
                callback = self._new_callback(interface.functions[function])
                self._callbacks.append(callback)
                encoded = function.encode()
                _check(
                    c.linker_instance_add_func(scope, encoded, len(encoded), callback, None, None),
                    name,
                )
        finally:
            c.linker_instance_delete(scope)

    def _new_callback(self, function: HostFunction) -> CFuncPtr:
        guest, passage, call = self._guest, self.passage, function.call
        signature, explain = function.signature, function.explain
        lifts = [
            (place * VALUE_BYTES, lifter(of, passage))
            for place, of in enumerate(signature.parameters)
        ]
        lower = None if signature.result is None else lowerer(signature.result, passage)
        has_error = isinstance(signature.result, Result)

        def invoke(arguments_at: int) -> object:
            arguments = [lift(arguments_at + offset) for offset, lift in lifts]
            if not has_error:
                return call(guest.run, *arguments)
            try:
                return call(guest.run, *arguments)
            except Exception as error:
                return Refused(explain(error))  # raises again what has no word

        def host_function(
            _data: int,
            context: int,
            _type: int,
            arguments_at: int,
            _count: int,
            results_at: int,
            _result_count: int,
        ) -> int:
            try:
                passage.context = context
                result = invoke(arguments_at)
                if lower is not None:
                    lower(results_at, result)
            except BaseException as ending:
                return _end(guest, ending)
            return 0

        return c.HOST_FUNCTION(host_function)

    def _new_destructor(self) -> CFuncPtr:
        guest, passage = self._guest, self.passage

        def drop(_data: int, _context: int, number: int) -> int:
            try:
                if passage.resources is not None:
                    passage.resources.drop(number)
            except OSError:
                return 0  # a late error of closing: dropping has no way to tell
            except BaseException as ending:
                return _end(guest, ending)
            return 0

        return c.DESTRUCTOR(drop)

    def close(self) -> None:
        """Free what C holds. Nothing that was linked may be in use."""
        c.linker_delete(self.handle)
        for resource_type in self._types.values():
            c.resource_type_delete(resource_type)


def _end(guest: ComponentGuest, ending: BaseException) -> int:
    guest.end_with(ending)
    error: int = binding.error_new(_ENDED)
    return error


def _check(error: int | None, name: str) -> None:
    if error:
        reason = " ".join(binding.take_error(error).split())
        raise ModuleError(f"{name} can't be offered to the component: {reason}")
