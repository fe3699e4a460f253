"""All functions, by hostile arguments; by honest ones: tests/corpus."""

from __future__ import annotations

import inspect

import fuzz_wasi
import pytest

from limpet.wasi import abi
from limpet.wasi.preview1 import FUNCTIONS


def test_every_function_of_the_witx_is_there() -> None:
    assert len(abi.PREVIEW1) == 46
    assert set(FUNCTIONS) == set(abi.PARAMETERS) == {*abi.PREVIEW1, *abi.SOCKETS}


@pytest.mark.parametrize("name", abi.PARAMETERS)
def test_parameters_agree_with_the_declaration(name: str) -> None:
    parameters = inspect.signature(FUNCTIONS[name]).parameters
    assert len(parameters) == 1 + len(abi.PARAMETERS[name])


def test_the_reference_declares_the_same_types() -> None:
    """wasmtime-py's linker refuses a module whose imports have other types."""
    import wasmtime

    engine = wasmtime.Engine()
    linker = wasmtime.Linker(engine)
    linker.define_wasi()
    names = {"i": "i32", "j": "i64", "s": "i64"}
    imports = "".join(
        f'(import "{abi.MODULE}" "{name}" (func (param {" ".join(names[c] for c in codes)}) '
        f"{'' if name in abi.NO_RESULT else '(result i32)'}))"
        for name, codes in abi.PREVIEW1.items()
    )
    module = wasmtime.Module(engine, f'(module {imports} (memory (export "memory") 1))')
    store = wasmtime.Store(engine)
    store.set_wasi(wasmtime.WasiConfig())
    linker.instantiate(store, module)


def test_record_sizes_are_the_witx_s() -> None:
    sizes = {
        "iovec": (abi.IOVEC, 8),
        "fdstat": (abi.FDSTAT, 24),
        "filestat": (abi.FILESTAT, 64),
        "prestat": (abi.PRESTAT, 8),
        "dirent": (abi.DIRENT, 24),
        "subscription": (abi.SUBSCRIPTION_CLOCK, 48),
        "event": (abi.EVENT, 32),
    }
    assert {name: layout.size for name, (layout, _) in sizes.items()} == {
        name: size for name, (_, size) in sizes.items()
    }


@pytest.mark.parametrize("seed", [1, 2])
def test_hostile_arguments(seed: int) -> None:
    assert fuzz_wasi.fuzz(seed=seed, seconds=20, runs=40) == 40 * fuzz_wasi.RUN_CALLS
