"""What a component imports and exports, read through the C API, in the terms of `preview2.types`."""

from __future__ import annotations

import ctypes
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from limpet.engine.protocol import ModuleError
from limpet.engine.wasmtime import component_binding as binding
from limpet.wasi.preview2 import types

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from limpet.wasi.preview2.types import Signature, Type

# wasmtime/component/types/val.h: the kinds that have no parts, and the first of those that have.
_PRIMITIVES: tuple[Type, ...] = tuple(
    map(
        types.Primitive,
        (
            "bool",
            "s8",
            "s16",
            "s32",
            "s64",
            "u8",
            "u16",
            "u32",
            "u64",
            "f32",
            "f64",
            "char",
            "string",
        ),
    )
)
_LIST, _RECORD, _TUPLE, _VARIANT, _ENUM, _OPTION, _RESULT, _FLAGS, _OWN, _BORROW = range(13, 23)
# Deeper types than this are nobody's honest ones, and would go deep in Python too.
_MAX_DEPTH = 32


@dataclass(slots=True)
class InstanceShape:
    """One imported or exported instance: its functions and the resources that are its own."""

    functions: dict[str, Signature] = field(default_factory=dict)
    resources: list[str] = field(default_factory=list)


@dataclass(slots=True)
class ComponentShape:
    """`others` are imports that are no instances, with what they are instead."""

    imports: dict[str, InstanceShape] = field(default_factory=dict)
    exports: dict[str, InstanceShape] = field(default_factory=dict)
    others: dict[str, str] = field(default_factory=dict)


class ShapeReader:
    """Reads one component's shape. Resources are known by their types, which the C API compares."""

    def __init__(self, engine: int) -> None:
        self._engine = engine
        self._resources: list[tuple[int, str]] = []

    def read(self, component: int) -> ComponentShape:
        """The shape of a `wasmtime_component_t`. Raises `ModuleError` for types that are unknown."""
        shape = ComponentShape()
        component_type = binding.component_type(component)
        try:
            count = binding.type_import_count(component_type, self._engine)
            for name, item in self._items(component_type, binding.type_import_nth, count):
                if item.kind == binding.ITEM_INSTANCE:
                    shape.imports[name] = self._read_instance(item.of)
                elif item.kind == binding.ITEM_RESOURCE:
                    self._remember(name, item.of)
                    shape.others[name] = "a resource"
                elif item.kind != binding.ITEM_TYPE:
                    is_function = item.kind == binding.ITEM_FUNCTION
                    shape.others[name] = "a function" if is_function else "a module or component"
            count = binding.type_export_count(component_type, self._engine)
            for name, item in self._items(component_type, binding.type_export_nth, count):
                if item.kind == binding.ITEM_INSTANCE:
                    shape.exports[name] = self._read_instance(item.of)
            return shape
        finally:
            binding.type_delete(component_type)
            for resource, _ in self._resources:
                binding.resource_type_delete(resource)
            self._resources.clear()

    def _items(
        self, owner: int, nth: Callable[..., bool], count: int
    ) -> Iterator[tuple[str, binding.Item]]:
        """Names and items; an item is valid until the next one is asked for."""
        name, length = ctypes.c_void_p(), ctypes.c_size_t()
        extern = ctypes.c_void_p()
        for index in range(count):
            places = (ctypes.byref(name), ctypes.byref(length), ctypes.byref(extern))
            if not nth(owner, self._engine, index, *places):
                continue
            text = ctypes.string_at(name.value or 0, length.value).decode()
            item = binding.Item()
            binding.extern_type(extern, ctypes.byref(item))
            try:
                yield text, item
            finally:
                binding.item_delete(ctypes.byref(item))
                binding.extern_delete(extern)

    def _read_instance(self, instance_type: int) -> InstanceShape:
        shape = InstanceShape()
        count = binding.instance_type_export_count(instance_type, self._engine)
        for name, item in self._items(instance_type, binding.instance_type_export_nth, count):
            if item.kind == binding.ITEM_RESOURCE:
                if self._find_resource(item.of) is None:  # else another interface's, used here
                    self._remember(name, item.of)
                    shape.resources.append(name)
            elif item.kind == binding.ITEM_FUNCTION:
                shape.functions[name] = self._read_function(name, item.of)
        return shape

    def _remember(self, name: str, resource: int) -> None:
        self._resources.append((binding.resource_type_clone(resource), name))

    def _read_function(self, name: str, function_type: int) -> Signature:
        if binding.func_type_async(function_type):
            raise ModuleError(
                f"the component's function {name} is asynchronous, as of WASI 0.3: build it for "
                "WASI 0.2 (wasm32-wasip2)"
            )
        parameters = []
        for index in range(binding.func_type_param_count(function_type)):
            text, length = ctypes.c_void_p(), ctypes.c_size_t()
            with _new_type() as of:
                places = (ctypes.byref(text), ctypes.byref(length), ctypes.byref(of))
                binding.func_type_param_nth(function_type, index, *places)
                parameters.append(self._read_type(of))
        with _new_type() as of:
            has_result = binding.func_type_result(function_type, ctypes.byref(of))
            result = self._read_type(of) if has_result else None
        return types.Signature(tuple(parameters), result)

    def _read_type(  # noqa: C901 - one case for each kind of type
        self, of: binding.ValueType, depth: int = 0
    ) -> Type:
        kind: int = of.kind
        at: int = of.of
        if kind < len(_PRIMITIVES):
            return _PRIMITIVES[kind]
        if depth > _MAX_DEPTH:
            raise ModuleError("the component imports a function with too deep a type")

        def part(get: Callable[..., object], *arguments: object) -> Type | None:
            with _new_type() as inner:
                if get(at, *arguments, ctypes.byref(inner)) is False:
                    return None
                return self._read_type(inner, depth + 1)

        def required(get: Callable[..., object], *arguments: object) -> Type:
            inner = part(get, *arguments)
            assert inner is not None
            return inner

        if kind == _LIST:
            return types.List(required(binding.list_type_element))
        if kind == _OPTION:
            return types.Option(required(binding.option_type_of))
        if kind == _RESULT:
            return types.Result(part(binding.result_type_ok), part(binding.result_type_error))
        if kind == _TUPLE:
            count = binding.tuple_type_count(at)
            return types.Tuple(tuple(required(binding.tuple_type_nth, n) for n in range(count)))
        if kind == _RECORD:
            return types.Record(tuple(self._read_fields(at, depth)))
        if kind == _VARIANT:
            return types.Variant(tuple(self._read_cases(at, depth)))
        if kind == _ENUM:
            return types.Enum(_read_names(binding.enum_type_count, binding.enum_type_nth, at))
        if kind == _FLAGS:
            return types.Flags(_read_names(binding.flags_type_count, binding.flags_type_nth, at))
        if kind == _OWN:
            return types.Own(self._find_resource(at) or "unknown")
        if kind == _BORROW:
            return types.Borrow(self._find_resource(at) or "unknown")
        raise ModuleError(
            "the component uses types of WASI 0.3 (futures, streams or maps): build it for WASI "
            "0.2 (wasm32-wasip2)"
        )

    def _read_fields(self, at: int, depth: int) -> Iterator[tuple[str, Type]]:
        for index in range(binding.record_type_count(at)):
            text, length = ctypes.c_void_p(), ctypes.c_size_t()
            with _new_type() as inner:
                places = (ctypes.byref(text), ctypes.byref(length), ctypes.byref(inner))
                binding.record_type_nth(at, index, *places)
                name = ctypes.string_at(text.value or 0, length.value).decode()
                yield name, self._read_type(inner, depth + 1)

    def _read_cases(self, at: int, depth: int) -> Iterator[tuple[str, Type | None]]:
        for index in range(binding.variant_type_count(at)):
            text, length = ctypes.c_void_p(), ctypes.c_size_t()
            has_payload = ctypes.c_bool()
            with _new_type() as inner:
                places = (text, length, has_payload, inner)
                binding.variant_type_nth(at, index, *map(ctypes.byref, places))
                name = ctypes.string_at(text.value or 0, length.value).decode()
                yield name, self._read_type(inner, depth + 1) if has_payload.value else None

    def _find_resource(self, resource: int) -> str | None:
        for known, name in self._resources:
            if binding.resource_type_equal(known, resource):
                return name
        return None


@contextmanager
def _new_type() -> Iterator[binding.ValueType]:
    """A place for C to put a type in, freed afterwards. The kind of a primitive frees nothing."""
    of = binding.ValueType()
    try:
        yield of
    finally:
        binding.valtype_delete(ctypes.byref(of))


def _read_names(count: Callable[[int], int], nth: Callable[..., bool], at: int) -> tuple[str, ...]:
    names = []
    for index in range(count(at)):
        text, length = ctypes.c_void_p(), ctypes.c_size_t()
        nth(at, index, ctypes.byref(text), ctypes.byref(length))
        names.append(ctypes.string_at(text.value or 0, length.value).decode())
    return tuple(names)
