"""A loaded component that exports `wasi:cli/run`, run once per invocation in a fresh instance."""

from __future__ import annotations

import ctypes
from time import monotonic_ns
from typing import TYPE_CHECKING

from limpet.engine import outcomes
from limpet.engine.protocol import Invocation, Limits, ModuleError, Outcome, OutcomeKind
from limpet.engine.wasmtime import binding, traps
from limpet.engine.wasmtime import component_binding as c
from limpet.engine.wasmtime.component_linking import ComponentGuest, ComponentLinker
from limpet.engine.wasmtime.component_traps import parse_error
from limpet.engine.wasmtime.component_values import VALUE_BYTES
from limpet.engine.wasmtime.hostcalls import NEXT_EPOCH, make_epoch_callback
from limpet.wasi.control import Control
from limpet.wasi.preview2.run import ComponentRun

if TYPE_CHECKING:
    from limpet.engine.wasmtime.component_types import ComponentShape
    from limpet.engine.wasmtime.deadline import EpochAlarm

_NS = 1_000_000_000
_LONGEST_SECONDS = 1e9
_RUN = b"run"
# Where a `result` says whether it is `ok`.
_IS_OK_OFFSET = 8


class ComponentProgram:
    """Implements `limpet.engine.protocol.Program`. Owns the component until it is deleted.

    How much memory a component uses can't be seen from outside it: outcomes don't say.
    """

    def __init__(
        self,
        engine: int,
        component: int,
        *,
        shape: ComponentShape,
        entry: str,
        limits: Limits,
        memories: int,
        alarm: EpochAlarm,
    ) -> None:
        self._engine = engine
        self._component = component
        self._limits = limits
        self._memories = memories
        self._memory_bytes = limits.memory_bytes // max(memories, 1)
        self._alarm = alarm
        self._control = Control()
        self._guest = ComponentGuest()
        self._instance = c.Instance()
        self._instance_at = ctypes.addressof(self._instance)
        self._function = c.Function()
        self._function_at = ctypes.addressof(self._function)
        self._result = (ctypes.c_uint8 * VALUE_BYTES)()
        self._result_at = ctypes.addressof(self._result)
        self._epoch_callback = make_epoch_callback(self._guest, self._control, alarm)
        self._epoch_callback_at = ctypes.cast(self._epoch_callback, ctypes.c_void_p).value
        self._linker = ComponentLinker(engine, shape, self._guest)
        self._entry = self._find_entry(entry)

    def _find_entry(self, name: str) -> int:
        """The `wasmtime_component_export_index_t` of the function to call."""
        encoded = name.encode()
        instance = c.component_get_export_index(self._component, None, encoded, len(encoded))
        if not instance:
            raise ModuleError(f"the artifact exports no {name}: compile the component again")
        try:
            entry = c.component_get_export_index(self._component, instance, _RUN, len(_RUN))
        finally:
            c.export_index_delete(instance)
        if not entry:
            raise ModuleError(f"the artifact's {name} has no `run`: compile the component again")
        return int(entry)

    def run(self, invocation: Invocation) -> Outcome:
        """Call `run` once. See the protocol."""
        guest, control, passage = self._guest, self._control, self._linker.passage
        if guest.run is not None:
            raise RuntimeError("this program is running already: one program serves one thread")
        limits = self._limits
        store = binding.store_new(self._engine, None, None)
        try:
            context = binding.store_context(store)
            binding.store_limiter(
                store, self._memory_bytes, limits.table_elements, -1, -1, self._memories
            )
            binding.store_epoch_deadline_callback(store, self._epoch_callback_at, None, None)
            binding.context_set_epoch_deadline(context, NEXT_EPOCH)
            if limits.cost is not None:
                binding.context_set_fuel(context, limits.cost)
            # Read after the epoch deadline is set: an alarm from here on is seen by this store.
            now_ns = monotonic_ns()
            deadline_ns = 0
            if invocation.deadline_seconds is not None:
                seconds = min(max(invocation.deadline_seconds, 0), _LONGEST_SECONDS)
                deadline_ns = now_ns + int(seconds * _NS)
                self._alarm.ensure(deadline_ns, now_ns)
            control.begin(deadline_ns)
            run = guest.run = ComponentRun(invocation, control, now_ns)
            passage.resources = run.resources
            return self._call(context)
        finally:
            control.end()
            # The store first: it may still drop resources.
            binding.store_delete(store)
            passage.resources = None
            if guest.run is not None:
                guest.run.close()
                guest.run = None
            guest.ending = None

    def _call(self, context: int) -> Outcome:
        error = c.linker_instantiate(
            self._linker.handle, context, self._component, self._instance_at
        )
        if not error:
            found = c.instance_get_func(self._instance_at, context, self._entry, self._function_at)
            if not found:
                raise ModuleError("the component's `run` is no function")
            error = c.func_call(self._function_at, context, None, 0, self._result_at, 1)
        if error:
            return self._explain(error)
        is_ok = self._result[_IS_OK_OFFSET]
        c.val_delete(self._result_at)
        return Outcome(OutcomeKind.EXIT, 0 if is_ok else 1)

    def interrupt(self) -> None:
        if self._control.interrupt():
            binding.engine_increment_epoch(self._engine)

    def _explain(self, error: int) -> Outcome:
        """The outcome of a run that did not return; frees the error."""
        ending = self._guest.ending
        if ending is not None:
            binding.error_delete(error)  # its text takes longer to make than most runs take
            return outcomes.explain_ending(ending, 0)
        code, text = parse_error(binding.take_error(error))
        if code == traps.OUT_OF_FUEL:
            return outcomes.cost_exceeded(self._limits.cost, 0)
        if code == traps.UNREACHABLE:
            mebibytes = self._memory_bytes / (1 << 20)
            text += f" (perhaps a growth of its memory beyond {mebibytes:g} MiB was refused)"
        return Outcome(OutcomeKind.TRAP, message=text)

    def __del__(self) -> None:
        # At interpreter exit the binding may be gone already; the process goes with it.
        if getattr(self, "_entry", 0) and c is not None:
            c.export_index_delete(self._entry)
            self._linker.close()
            c.component_delete(self._component)
            self._control.close()
