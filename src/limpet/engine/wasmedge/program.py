"""A loaded module, run once per invocation in a fresh instance."""

from __future__ import annotations

import ctypes
from time import monotonic_ns
from typing import TYPE_CHECKING

from limpet.engine import outcomes
from limpet.engine.guest import Guest
from limpet.engine.protocol import ENTRY, Invocation, Limits, ModuleError, Outcome, OutcomeKind
from limpet.engine.raw_memory import view_memory
from limpet.engine.wasmedge.binding import COST_LIMIT_EXCEEDED, INTERRUPTED, Binding, Text
from limpet.engine.wasmedge.hostcalls import make_callback, new_import_module
from limpet.engine.wasmedge.results import UNREACHABLE, describe_trap
from limpet.engine.wasmedge.settings import PAGE_BYTES, configuration
from limpet.engine.wasmedge.stopping import Stopper
from limpet.wasi.control import Control
from limpet.wasi.endings import GuestTrap
from limpet.wasi.memory import GuestMemory
from limpet.wasi.preview1 import FUNCTIONS
from limpet.wasi.run import WasiRun

if TYPE_CHECKING:
    from limpet.engine.wasmedge.artifact import Artifact
    from limpet.engine.wasmedge.stopping import Watch

_NS = 1_000_000_000
_LONGEST_SECONDS = 1e9
_U32 = (1 << 32) - 1
_VALUE_WORDS = 4  # a WasmEdge_Value: 16 bytes, its type and what aligns it


class WasmEdgeProgram:
    """Implements `limpet.engine.protocol.Program`. Owns the parsed module until it is deleted.

    What does not hold a guest's data is made once: executor, host functions and the store that knows
    them. A run instantiates, calls and deletes.
    """

    def __init__(
        self,
        binding: Binding,
        module: int,
        artifact: Artifact,
        *,
        limits: Limits,
        nothing: int,
        watch: Watch,
        entry: str = ENTRY,
    ) -> None:
        self._binding = binding
        self._module = module
        self._limits = limits
        self._control = Control()
        self._guest = Guest()
        # An out-parameter of C, allocated once; its address is what the call takes.
        self._instance = ctypes.c_void_p()
        self._instance_at = ctypes.addressof(self._instance)
        self._memory = 0
        self._entry = entry
        self._entry_name = Text(entry.encode())
        # What an entry other than `_start` returns.
        self._value = (ctypes.c_uint64 * _VALUE_WORDS)()
        self._values = 0 if entry == ENTRY else 1
        self._memory_name = Text(b"memory")
        self._latest = Outcome(OutcomeKind.EXIT)
        self._callbacks = {
            key: make_callback(key, FUNCTIONS[key], self._guest)
            for key in set(artifact.imports.values())
        }
        self._statistics = self._store = 0
        with configuration(binding, artifact.options, memory_bytes=limits.memory_bytes) as settings:
            if artifact.options.is_metered:
                self._statistics = binding.statistics_create()
            self._executor = binding.executor_create(settings, self._statistics or None)
        if self._statistics:
            # Not before: making the executor sets it to what the configuration can't be told.
            cost = (1 << 64) - 1 if limits.cost is None else limits.cost
            binding.statistics_set_cost_limit(self._statistics, cost)
        self._imports = new_import_module(binding, artifact.imports, self._callbacks)
        self._renew_store()
        self._stopper = Stopper(binding, self._executor, nothing=nothing, watch=watch)

    def _renew_store(self) -> None:
        """A store that knows the host functions and nothing else."""
        binding = self._binding
        if self._store:
            binding.store_delete(self._store)
        self._store = binding.store_create()
        result = binding.executor_register_import(self._executor, self._store, self._imports)
        if result:
            raise ModuleError(f"the host functions can't be linked: {binding.message(result)}")

    def run(self, invocation: Invocation) -> Outcome:
        """Run `_start` once. See the protocol."""
        guest, control = self._guest, self._control
        if guest.run is not None:
            raise RuntimeError("this program is running already: one program serves one thread")
        memory = GuestMemory(self._view_memory)
        now_ns = monotonic_ns()
        deadline_ns = 0
        if invocation.deadline_seconds is not None:
            seconds = min(max(invocation.deadline_seconds, 0), _LONGEST_SECONDS)
            deadline_ns = now_ns + int(seconds * _NS)
        try:
            control.begin(deadline_ns)
            self._stopper.begin(deadline_ns)
            guest.run = WasiRun(invocation, memory, control, now_ns)
            result = self._call()
            return self._explain(result) if result else self._returned()
        finally:
            self._stopper.end()
            control.end()
            run = guest.run
            if run is not None:
                guest.run = None
                if run.files.has_opened:
                    run.close()
            guest.ending = None
            # In this order: no view may outlive the memory.
            memory.release()
            self._drop_instance()

    def _call(self) -> int:
        """Instantiate and call the entry point; 0, or the result that says why not."""
        binding, executor = self._binding, self._executor
        self._memory = 0
        if self._statistics:
            binding.statistics_clear(self._statistics)
        result: int = binding.executor_instantiate(
            executor, self._instance_at, self._store, self._module
        )
        if result:
            return result
        instance = self._instance.value
        self._memory = binding.module_instance_find_memory(instance, self._memory_name) or 0
        entry = binding.module_instance_find_function(instance, self._entry_name)
        if not entry:
            raise ModuleError(f"the module exports no function {self._entry}; name another one")
        self._value[0] = 0
        result = binding.executor_invoke(executor, entry, None, 0, self._value, self._values)
        return result  # noqa: RET504 - typed above

    def _drop_instance(self) -> None:
        if self._instance.value:
            self._binding.module_instance_delete(self._instance)
            self._instance.value = None
        else:
            # The store keeps an instance whose start failed until the next one fails: with its memory.
            self._renew_store()

    def _returned(self) -> Outcome:
        """The outcome of a run that returned: the same object again while nothing differs."""
        size = self._memory_bytes()
        if self._values:
            return Outcome(OutcomeKind.EXIT, self._value[0] & _U32, memory_bytes=size)
        if self._latest.memory_bytes != size:
            self._latest = Outcome(OutcomeKind.EXIT, memory_bytes=size)
        return self._latest

    def interrupt(self) -> None:
        self._stopper.interrupt(self._control)

    def _view_memory(self) -> memoryview:
        """The guest's memory as it is now, for the host call in progress."""
        binding = self._binding
        if not self._memory:  # called from the module's start function: no instance yet
            caller = self._guest.caller
            self._memory = binding.calling_frame_get_memory_instance(caller, 0) or 0
        size = self._memory_bytes()
        if not size:
            raise GuestTrap("the module has no memory")
        return view_memory(binding.memory_instance_get_pointer(self._memory, 0, 1), size)

    def _memory_bytes(self) -> int:
        if not self._memory:
            return 0
        pages: int = self._binding.memory_instance_get_page_size(self._memory)
        return pages * PAGE_BYTES

    def _explain(self, result: int) -> Outcome:
        """The outcome of a run that did not return."""
        memory_bytes = self._memory_bytes()
        ending = self._guest.ending
        if ending is not None:
            return outcomes.explain_ending(ending, memory_bytes)
        if result == COST_LIMIT_EXCEEDED:
            return outcomes.cost_exceeded(self._limits.cost, memory_bytes)
        if result == INTERRUPTED:
            if self._control.is_interrupted:
                return outcomes.interrupted(memory_bytes)
            return outcomes.deadline_exceeded(memory_bytes)
        return outcomes.explain_trap(
            describe_trap(self._binding, result),
            is_unreachable=result == UNREACHABLE,
            memory_bytes=memory_bytes,
            limit_bytes=self._limits.memory_bytes,
        )

    def __del__(self) -> None:
        # At interpreter exit the modules may be gone already; the process goes with them.
        stopper = getattr(self, "_stopper", None)
        if stopper is None or ctypes is None:
            return
        binding = self._binding
        stopper.close()
        binding.executor_delete(self._executor)
        binding.store_delete(self._store)
        binding.module_instance_delete(self._imports)
        if self._statistics:
            binding.statistics_delete(self._statistics)
        binding.ast_module_delete(self._module)
        self._control.close()
