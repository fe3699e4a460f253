"""A loaded module, run once per invocation in a fresh instance."""

from __future__ import annotations

import ctypes
from time import monotonic_ns
from typing import TYPE_CHECKING

from limpet.engine import outcomes
from limpet.engine.guest import Guest
from limpet.engine.protocol import ENTRY, Invocation, Limits, ModuleError, Outcome, OutcomeKind
from limpet.engine.raw_memory import view_memory
from limpet.engine.wasmtime import binding, traps
from limpet.engine.wasmtime.hostcalls import (
    NEXT_EPOCH,
    make_callback,
    make_epoch_callback,
    new_function_type,
)
from limpet.wasi import abi
from limpet.wasi.control import Control
from limpet.wasi.endings import GuestTrap
from limpet.wasi.memory import GuestMemory
from limpet.wasi.preview1 import FUNCTIONS
from limpet.wasi.run import WasiRun

if TYPE_CHECKING:
    from collections.abc import Mapping

    from limpet.engine.wasmtime.deadline import EpochAlarm

_NS = 1_000_000_000
_LONGEST_SECONDS = 1e9
_MODULE = abi.MODULE.encode()
_MEMORY = b"memory"
_U32 = (1 << 32) - 1


class WasmtimeProgram:
    """Implements `limpet.engine.protocol.Program`. Owns the linked module until it is deleted."""

    def __init__(
        self,
        engine: int,
        module: int,
        *,
        imports: Mapping[str, str],
        limits: Limits,
        alarm: EpochAlarm,
        entry: str = ENTRY,
        returns: bool = False,
    ) -> None:
        self._name = entry.encode()
        self._returns = returns
        self._engine = engine
        self._limits = limits
        self._alarm = alarm
        self._control = Control()
        self._guest = Guest()
        # Out-parameters of C, allocated once; their addresses are what the calls take.
        self._instance = binding.Instance()
        self._instance_at = ctypes.addressof(self._instance)
        self._trap = ctypes.c_void_p()
        self._trap_at = ctypes.addressof(self._trap)
        self._entry = binding.Extern()
        self._entry_at = ctypes.addressof(self._entry)
        self._entry_of = self._entry_at + binding.EXTERN_OF_OFFSET
        self._memory = binding.Extern()
        self._memory_at = ctypes.addressof(self._memory)
        self._memory_of = self._memory_at + binding.EXTERN_OF_OFFSET
        self._slots = (ctypes.c_uint64 * 2)()
        self._slots_at = ctypes.addressof(self._slots)
        self._context = 0
        self._has_memory = False
        self._latest = Outcome(OutcomeKind.EXIT)
        self._callbacks = {
            key: make_callback(key, FUNCTIONS[key], self._guest) for key in set(imports.values())
        }
        self._epoch_callback = make_epoch_callback(self._guest, self._control, alarm)
        self._epoch_callback_at = ctypes.cast(self._epoch_callback, ctypes.c_void_p).value
        self._linked = 0
        self._linked = self._link(module, imports)

    def _link(self, module: int, imports: Mapping[str, str]) -> int:
        linker = binding.linker_new(self._engine)
        try:
            for name, key in imports.items():
                function_type = new_function_type(key)
                encoded = name.encode()
                error = binding.linker_define_func_unchecked(
                    linker,
                    _MODULE,
                    len(_MODULE),
                    encoded,
                    len(encoded),
                    function_type,
                    self._callbacks[key],
                    None,
                    None,
                )
                binding.functype_delete(function_type)
                if error:
                    raise ModuleError(_not_linked(error))
            linked = ctypes.c_void_p()
            error = binding.linker_instantiate_pre(linker, module, ctypes.byref(linked))
            if error:
                raise ModuleError(_not_linked(error))
            return linked.value or 0
        finally:
            binding.linker_delete(linker)

    def run(self, invocation: Invocation) -> Outcome:
        """Run `_start` once. See the protocol."""
        guest, control = self._guest, self._control
        if guest.run is not None:
            raise RuntimeError("this program is running already: one program serves one thread")
        limits = self._limits
        memory = GuestMemory(self._view_memory)
        store = binding.store_new(self._engine, None, None)
        try:
            self._has_memory = False
            self._context = context = binding.store_context(store)
            binding.store_limiter(store, limits.memory_bytes, limits.table_elements, -1, -1, -1)
            binding.store_epoch_deadline_callback(store, self._epoch_callback_at, None, None)
            binding.context_set_epoch_deadline(context, NEXT_EPOCH)
            if limits.cost is not None:
                binding.context_set_fuel(context, limits.cost)
            # Read after the epoch deadline is set: an alarm from here on is seen by this store.
            now_ns = monotonic_ns()
            deadline_ns = 0
            seconds = invocation.deadline_seconds
            if seconds is not None:
                if not 0 <= seconds <= _LONGEST_SECONDS:
                    seconds = min(max(seconds, 0), _LONGEST_SECONDS)
                deadline_ns = now_ns + int(seconds * _NS)
                alarm = self._alarm
                if not now_ns < alarm.expires_ns <= deadline_ns:
                    alarm.ensure(deadline_ns, now_ns)
            control.begin(deadline_ns)
            guest.run = WasiRun(invocation, memory, control, now_ns)
            error = self._call(context)
            if not error and not self._trap.value:
                return self._returned()
            return self._explain(error)
        finally:
            control.end()
            run = guest.run
            if run is not None:
                guest.run = None
                if run.files.has_opened:
                    run.close()
            guest.ending = None
            # In this order: no view may outlive the memory.
            memory.release()
            binding.store_delete(store)

    def _call(self, context: int) -> int:
        """Instantiate and call the entry point; the error, if any. The trap is in `_trap`."""
        instance_at = self._instance_at
        error: int = binding.instance_pre_instantiate(
            self._linked, context, instance_at, self._trap_at
        )
        if error or self._trap.value:
            return error
        self._has_memory = binding.instance_export_get(
            context, instance_at, _MEMORY, len(_MEMORY), self._memory_at
        )
        name = self._name
        binding.instance_export_get(context, instance_at, name, len(name), self._entry_at)
        error = binding.func_call_unchecked(
            context, self._entry_of, self._slots_at, self._returns, self._trap_at
        )
        return error  # noqa: RET504 - typed above

    def _returned(self) -> Outcome:
        """The outcome of a run that returned: the same object again while nothing differs."""
        size = self._memory_bytes()
        if self._returns:
            return Outcome(OutcomeKind.EXIT, self._slots[0] & _U32, memory_bytes=size)
        if self._latest.memory_bytes != size:
            self._latest = Outcome(OutcomeKind.EXIT, memory_bytes=size)
        return self._latest

    def interrupt(self) -> None:
        if self._control.interrupt():
            binding.engine_increment_epoch(self._engine)

    def _view_memory(self) -> memoryview:
        """The guest's memory as it is now, for the host call in progress."""
        if not self._has_memory:  # called from the module's start function: no instance yet
            found = binding.caller_export_get(
                self._guest.caller, _MEMORY, len(_MEMORY), self._memory_at
            )
            if not found or self._memory.kind != binding.EXTERN_MEMORY:
                raise GuestTrap("the module exports no memory")
            self._has_memory = True
        context, memory = self._context, self._memory_of
        size = binding.memory_data_size(context, memory)
        return view_memory(binding.memory_data(context, memory), size)

    def _memory_bytes(self) -> int:
        if not self._has_memory:
            return 0
        size: int = binding.memory_data_size(self._context, self._memory_of)
        return size

    def _explain(self, error: int | None) -> Outcome:
        """The outcome of a run that did not return; frees what C gave."""
        code, text = -1, ""
        trap = self._trap.value
        if trap:
            self._trap.value = None
            code, text = traps.take_trap(trap)
        if error:
            text = binding.take_error(error)
        memory_bytes = self._memory_bytes()
        ending = self._guest.ending
        if ending is not None:
            return outcomes.explain_ending(ending, memory_bytes)
        if code == traps.OUT_OF_FUEL:
            return outcomes.cost_exceeded(self._limits.cost, memory_bytes)
        return outcomes.explain_trap(
            text,
            is_unreachable=code == traps.UNREACHABLE,
            memory_bytes=memory_bytes,
            limit_bytes=self._limits.memory_bytes,
        )

    def __del__(self) -> None:
        # At interpreter exit the binding may be gone already; the process goes with it.
        if getattr(self, "_linked", 0) and binding is not None:
            binding.instance_pre_delete(self._linked)
            self._control.close()


def _not_linked(error: int) -> str:
    reason = " ".join(binding.take_error(error).split())
    return f"the artifact does not fit this engine ({reason}): compile the module again"
