"""The engine that this process tests.

WasmEdge takes the handlers of SIGSEGV, SIGBUS and SIGFPE while its compiled code runs, and sets them to
their defaults afterwards: no other engine is of use in its process. So one process tests one engine, the
default one unless $LIMPET_TESTED_ENGINE names another.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from limpet.engine import DEFAULT_ENGINE
from limpet.engine.protocol import CompileOptions

VARIABLE = "LIMPET_TESTED_ENGINE"
INTERPRETED = "-interpreted"


@dataclass(frozen=True)
class Variant:
    """An engine and how it runs modules. As text: its name, and `-interpreted` behind it."""

    engine: str
    is_interpreted: bool

    def __str__(self) -> str:
        return self.engine + INTERPRETED * self.is_interpreted

    @property
    def options(self) -> CompileOptions:
        return CompileOptions(is_interpreted=self.is_interpreted)


def tested_variant() -> Variant:
    text = os.environ.get(VARIABLE, DEFAULT_ENGINE)
    return Variant(text.removesuffix(INTERPRETED), text.endswith(INTERPRETED))
