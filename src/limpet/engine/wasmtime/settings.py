"""How Wasmtime is configured, and why.

Everything that a compiled artifact depends on is in `EngineSettings`, whose `key` is part of an
artifact's name: the compile process and the workers of one node come to the same settings.
"""

from __future__ import annotations

from dataclasses import dataclass

from limpet.engine.address_space import can_reserve
from limpet.engine.wasmtime import binding

_GIB = 1 << 30
_MIB = 1 << 20

# Guests that one process can hold at once. A worker runs one, a threaded worker a handful.
SLOTS = 8
# Accesses up to here beyond an index need no check when the whole 4 GiB are reserved.
_GUARD_BYTES = 32 * _MIB
_FULL_RESERVATION_BYTES = 4 * _GIB
# Where 4 GiB for each guest can't be reserved: the largest memory an app may ask for, with checks.
_SMALL_RESERVATION_BYTES = 256 * _MIB
_STACK_BYTES = 512 * 1024
# What a slot keeps between guests and clears by writing. Up to here that is cheaper than giving pages
# back and faulting them in again: a 192 KiB guest runs in 39 us instead of 53 (64 KiB kept).
_KEEP_RESIDENT_BYTES = 256 * 1024
_TABLE_KEEP_RESIDENT_BYTES = 64 * 1024
_TABLE_ELEMENTS = 100_000
_INSTANCE_BYTES = 1 * _MIB
# What one component may be made of. One from Python, linked of shared libraries, has some thirty.
_CORE_INSTANCES = 64
_COMPONENT_TABLES = 16

# WebAssembly 2.0 and what current toolchains emit by default. The rest is off: each proposal is
# attack surface, and those that need a garbage collector would escape the memory limit.
_SWITCHES = {
    "epoch_interruption": True,
    "memory_init_cow": True,
    "memory_may_move": False,
    "signals_based_traps": True,
    # Threads that a parallel compilation starts do not survive a fork; compile processes are
    # short-lived and several may run at once.
    "parallel_compilation": False,
    "native_unwind_info": False,
    "gc_support": False,
    "concurrency_support": False,
    "shared_memory": False,
    "wasm_threads": False,
    "wasm_memory64": False,
    "wasm_multi_memory": False,
    "wasm_gc": False,
    "wasm_function_references": False,
    "wasm_exceptions": False,
    "wasm_stack_switching": False,
    "wasm_custom_page_sizes": False,
    "wasm_wide_arithmetic": False,
    "wasm_component_model": False,
    "wasm_simd": True,
    "wasm_relaxed_simd": True,
    "wasm_bulk_memory": True,
    "wasm_multi_value": True,
    "wasm_reference_types": True,
    "wasm_tail_call": True,
}


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """`slots` 0 means allocating each guest's memory on demand instead of from a pool."""

    reservation_bytes: int
    slots: int

    def key(self) -> str:
        return f"r{self.reservation_bytes // _MIB}g{_GUARD_BYTES // _MIB}"

    def describe(self) -> str:
        """Say for people what is reserved for guests' memories."""
        is_full = self.reservation_bytes == _FULL_RESERVATION_BYTES
        size = "4 GiB" if is_full else f"{self.reservation_bytes // _MIB} MiB, with checks,"
        if not self.slots:
            return f"{size} of address space for each guest as it comes"
        return f"a pool of {self.slots} guests with {size} of address space each"


def choose_settings() -> EngineSettings:
    """The fastest settings whose address space this process can reserve."""
    for reservation in (_FULL_RESERVATION_BYTES, _SMALL_RESERVATION_BYTES):
        for slots in (SLOTS, SLOTS // 2, SLOTS // 4):
            # Twice what the pool takes: the program, its libraries and files need room as well.
            if can_reserve(2 * slots * (reservation + _GUARD_BYTES)):
                return EngineSettings(reservation, slots)
    return EngineSettings(_SMALL_RESERVATION_BYTES, 0)


def new_engine(settings: EngineSettings, *, is_metered: bool = False) -> int:
    """A `wasm_engine_t` with these settings. Starts no thread.

    Metered code counts what it executes down from the store's fuel.
    """
    config = _new_config(settings)
    binding.config_switch_set(config, "consume_fuel", is_on=is_metered)
    if settings.slots:
        _use_pool(config, settings, {})
    engine: int = binding.engine_new_with_config(config)
    return engine


def new_component_engine(
    settings: EngineSettings, *, max_memories: int, is_metered: bool = False
) -> int:
    """As `new_engine`, for components: a run needs several core instances, and some memories."""
    config = _new_config(settings)
    binding.config_switch_set(config, "consume_fuel", is_on=is_metered)
    binding.config_switch_set(config, "wasm_component_model", is_on=True)
    if settings.slots:
        numbers = {
            "total_component_instances": settings.slots,
            "max_component_instance_size": _INSTANCE_BYTES,
            "total_core_instances": settings.slots * _CORE_INSTANCES,
            "max_core_instances_per_component": _CORE_INSTANCES,
            "max_memories_per_component": max_memories,
            "max_tables_per_component": _COMPONENT_TABLES,
            "total_tables": settings.slots * _COMPONENT_TABLES,
        }
        _use_pool(config, settings, numbers)
    engine: int = binding.engine_new_with_config(config)
    return engine


def _new_config(settings: EngineSettings) -> int:
    config: int = binding.config_new()
    for name, is_on in _SWITCHES.items():
        binding.config_switch_set(config, name, is_on=is_on)
    binding.config_memory_reservation_set(config, settings.reservation_bytes)
    binding.config_memory_guard_size_set(config, _GUARD_BYTES)
    binding.config_memory_reservation_for_growth_set(config, 0)
    binding.config_max_wasm_stack_set(config, _STACK_BYTES)
    return config


def _use_pool(config: int, settings: EngineSettings, more: dict[str, int]) -> None:
    pool = binding.pooling_config_new()
    numbers = {
        "total_core_instances": settings.slots,
        "total_memories": settings.slots,
        "total_tables": settings.slots * 2,
        "total_stacks": 0,
        "total_gc_heaps": 0,
        "total_component_instances": 0,
        "max_unused_warm_slots": settings.slots,
        "max_memories_per_module": 1,
        "max_tables_per_module": 2,
        "max_core_instance_size": _INSTANCE_BYTES,
        "max_memory_size": settings.reservation_bytes,
        "table_elements": _TABLE_ELEMENTS,
        "linear_memory_keep_resident": _KEEP_RESIDENT_BYTES,
        "table_keep_resident": _TABLE_KEEP_RESIDENT_BYTES,
    }
    for name, value in (numbers | more).items():
        binding.pooling_config_number_set(pool, name, value)
    binding.pooling_allocation_strategy_set(config, pool)
    binding.pooling_config_delete(pool)
