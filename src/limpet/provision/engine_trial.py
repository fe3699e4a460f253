"""Trying one engine in a process that ends with it: `python -m limpet.provision.engine_trial NAME [LIBRARY]`.

Prints one JSON object. An engine's library may need a dynamic loader of its own, may not start at all,
and stays in the process that loaded it: who wants to know asks a process like this one.
"""

from __future__ import annotations

import json
import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING

from limpet.engine import open_engine
from limpet.engine.protocol import (
    CompileOptions,
    Invocation,
    Limits,
    ModuleError,
    OutcomeKind,
)
from limpet.errors import LimpetError, UnavailableError
from limpet.wasi.streams import BufferOutput, BytesInput
from limpet.wasi.strings import Strings

if TYPE_CHECKING:
    from limpet.engine.protocol import Engine

AHEAD_OF_TIME = "ahead-of-time"
INTERPRETER = "interpreter"
_MODES = {AHEAD_OF_TIME: CompileOptions(), INTERPRETER: CompileOptions(is_interpreted=True)}

# (module (memory (export "memory") 1) (func (export "_start")))
_GUEST = bytes.fromhex(
    "0061736d01000000010401600000030201000503010001071302066d656d6f72790200065f73746172740000"
    "0a040102000b"
)


class TrialFailedError(UnavailableError):
    """The engine ran the guest otherwise than it should."""


def examine_engine(name: str, library: str | None = None) -> dict[str, object]:
    """Compile and run a guest in each way that the engine has.

    `library` is where its library is not for the engine to find. Returns version, memory (text) and
    modes. Raises what the engine raises.
    """
    engine = open_engine(name, library=library)
    return {
        "version": engine.version,
        "memory": engine.describe_memory(),
        "modes": [mode for mode, options in _MODES.items() if _run_guest(engine, options)],
    }


def _run_guest(engine: Engine, options: CompileOptions) -> bool:
    """Whether the engine has this mode; raises when it has and the guest doesn't run."""
    try:
        artifact, _ = engine.compile_module(_GUEST, options)
    except ModuleError:
        if options == CompileOptions():
            raise
        return False
    descriptor = os.memfd_create("limpet-trial", os.MFD_CLOEXEC)
    try:
        os.truncate(descriptor, len(artifact))
        os.pwrite(descriptor, artifact, 0)
        output = BufferOutput(1 << 10)
        outcome = engine.load(descriptor, limits=Limits(memory_bytes=1 << 20)).run(
            Invocation(Strings([b"trial"]), Strings([]), BytesInput(b""), output, output)
        )
    finally:
        os.close(descriptor)
    if outcome.kind is not OutcomeKind.EXIT or outcome.exit_code != 0:
        raise TrialFailedError(
            f"a guest that does nothing ended as {outcome.kind}: {outcome.message}"
        )
    return True


def main(name: str, library: str | None = None) -> int:
    """Print what was found of the engine: its library too, or the `problem`; return the exit code."""
    told: dict[str, object] = {"name": name, "library": library}
    try:
        if library is None:
            told["library"] = import_module(f"limpet.engine.{name}.library").find_library()
        told |= examine_engine(name, library)
    except LimpetError as error:
        told["problem"] = str(error)
    except Exception as error:  # whatever a library that is not ours makes of it
        told["problem"] = f"{type(error).__name__}: {error}"
    print(json.dumps(told))  # noqa: T201 - this is the answer
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
