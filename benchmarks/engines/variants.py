"""The ways to run a module in Limpet that are compared."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Variant:
    """An engine and how it runs code; `key` names it in results and as a part of apps' names."""

    key: str
    label: str
    engine: str
    is_interpreted: bool = False

    @property
    def annotations(self) -> dict[str, str]:
        """What a manifest asks for it by."""
        execution = "interpreter" if self.is_interpreted else "ahead-of-time"
        return {"limpet.dev/engine": self.engine, "limpet.dev/execution": execution}


WASMTIME = Variant("wasmtime", "Wasmtime", "wasmtime")
WASMEDGE = Variant("wasmedge", "WasmEdge, ahead of time", "wasmedge")
INTERPRETED = Variant("interpreted", "WasmEdge, interpreted", "wasmedge", is_interpreted=True)
VARIANTS = (WASMTIME, WASMEDGE, INTERPRETED)
