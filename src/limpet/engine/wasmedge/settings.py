"""How WasmEdge is configured, and why.

A configuration serves a compiler, a loader and validator, or an executor, which copy it.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from limpet.engine.protocol import CompileOptions
    from limpet.engine.wasmedge.binding import Binding

PAGE_BYTES = 65536
_MAX_PAGES = 65536
# What WasmEdge reserves for each memory, whatever its size: four GiB for the guest's addresses, with as
# much before and behind. Source: lib/system/allocator.cpp.
RESERVATION_BYTES = 12 << 30

# WebAssembly 2.0 and what current toolchains emit by default, as with the other engine. The rest is off:
# each proposal is attack surface, and collected objects would escape the memory limit.
_PROPOSALS = frozenset(
    {
        "import-export-mut-globals",
        "non-trap-float-to-int",
        "sign-extension",
        "multi-value",
        "bulk-memory",
        "reference-types",
        "simd",
        "tail-call",
        "extended-const",
        "relaxed-simd",
    }
)
# Wasm with the machine code in a custom section ("universal"), not a shared object. The latter is mapped,
# where each process has its own copy of the former; but only the former is loaded from bytes: a worker
# opens no file once its walls stand, and dlopen(3) takes nothing but paths.
_OUTPUT_UNIVERSAL = 1
# LLVM's O2: O3, the default, makes larger code of what is there mostly to be started and ended.
_OPTIMISATION_LEVEL = 2
# As the other engine's. Elements here take twice the memory.
TABLES = 2
TABLE_ELEMENTS = 100_000


@contextmanager
def configuration(
    binding: Binding, options: CompileOptions, *, memory_bytes: int | None = None
) -> Iterator[int]:
    """A `WasmEdge_ConfigureContext` for what was, or is to be, compiled with these options.

    `memory_bytes` is how far a memory may grow.
    """
    handle: int = binding.configure_create()
    try:
        # Downwards: a proposal that another one needs can't be removed before that one.
        for number, name in reversed(list(enumerate(binding.proposals))):
            if name not in _PROPOSALS:
                binding.configure_remove_proposal(handle, number)
        for number, name in enumerate(binding.proposals):
            if name in _PROPOSALS:
                binding.configure_add_proposal(handle, number)
        binding.configure_native_code(handle, is_run=not options.is_interpreted)
        binding.configure_statistics_set_cost_measuring(handle, options.is_metered)
        binding.configure_compiler_set_output_format(handle, _OUTPUT_UNIVERSAL)
        binding.configure_compiler_set_optimization_level(handle, _OPTIMISATION_LEVEL)
        # Without it nothing ends a guest's loop but its process's end.
        binding.configure_compiler_set_interruptible(handle, True)
        if memory_bytes is not None:
            pages = min(memory_bytes // PAGE_BYTES, _MAX_PAGES)
            binding.configure_set_max_memory_page(handle, pages)
        yield handle
    finally:
        binding.configure_delete(handle)
