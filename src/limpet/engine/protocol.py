"""What every WebAssembly engine offers to the rest of Limpet.

The flow is: `compile_module` in a short-lived process of its own turns a module into an artifact
and a `ModuleInfo`; a worker `load`s the artifact from a descriptor and `run`s it once per
invocation, each time in a fresh instance. Only workers and compile processes load an engine.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

from limpet.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from limpet.wasi.network import Network
    from limpet.wasi.streams import InputStream, OutputStream
    from limpet.wasi.strings import Strings


ENTRY = "_start"
"""The export that a run calls."""


class ModuleError(InvalidInputError):
    """This module can't run here; the message names what is in the way and the next step."""


class OutcomeKind(StrEnum):
    """How one run of a guest ended."""

    EXIT = "Exit"
    TRAP = "Trap"
    OUT_OF_MEMORY = "OOMKilled"  # the same word as when the kernel does it
    DEADLINE = "DeadlineExceeded"
    COST = "CostExceeded"
    INTERRUPTED = "Interrupted"


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of one run.

    `exit_code` is meaningful for EXIT only (0 when `_start` returned). `message` is the trap's
    text for people, one line. `memory_bytes` is the linear memory's size when the run ended.
    """

    kind: OutcomeKind
    exit_code: int = 0
    message: str = ""
    memory_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Preopen:
    """A directory that a guest finds open: `descriptor` is an open directory of this process."""

    guest_path: bytes
    descriptor: int
    is_read_only: bool = False


@dataclass(slots=True)
class Invocation:
    """One run to make. Not frozen: building it is on the request path.

    `args[0]` is the program's name; `env` holds `NAME=value` items. Neither may contain NUL.
    `deadline_seconds` counts from the start of the run; None means no deadline. `network` is what
    the guest's sockets reach; None means nothing.
    """

    args: Strings
    env: Strings
    stdin: InputStream
    stdout: OutputStream
    stderr: OutputStream
    preopens: Sequence[Preopen] = ()
    deadline_seconds: float | None = None
    network: Network | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a program may use: linear memory over all its memories, and table elements.

    `cost` is how much work one run may do, in the engine's own unit, which is about one
    instruction; None means any. Only an artifact that was compiled to be metered takes one.
    """

    memory_bytes: int
    table_elements: int = 100_000
    cost: int | None = None


@dataclass(frozen=True, slots=True)
class CompileOptions:
    """How a module is to be compiled; each choice makes an artifact of its own.

    `is_metered` has the code count its work, for `Limits.cost`. `is_interpreted` leaves it as it
    is, to be interpreted: an engine that has no interpreter refuses with `ModuleError`.
    """

    is_metered: bool = False
    is_interpreted: bool = False

    @property
    def suffix(self) -> str:
        """What an artifact's name says of them; empty for the defaults."""
        return "-metered" * self.is_metered + "-interpreted" * self.is_interpreted


DEFAULT_OPTIONS = CompileOptions()


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleInfo:
    """What compiling learned of a module, kept beside the artifact.

    `imports` and `exports` are `module.name` and `name` strings; `memory_bytes` is the initial
    size of its memories together.
    """

    imports: tuple[str, ...] = ()
    exports: tuple[str, ...] = ()
    memory_bytes: int = 0
    extra: dict[str, str] = field(default_factory=dict)


class Program(Protocol):
    """A loaded artifact. One program serves one thread at a time."""

    def run(self, invocation: Invocation) -> Outcome:
        """Run `_start` once in a fresh instance. Never raises for what a guest does."""
        ...

    def interrupt(self) -> None:
        """End the run in progress, from another thread, as INTERRUPTED. Without one: nothing."""
        ...


class Engine(Protocol):
    """One WebAssembly runtime."""

    name: str
    version: str

    def artifact_key(self) -> str:
        """Name everything that an artifact depends on: version, settings, CPU features."""
        ...

    def describe_memory(self) -> str:
        """Say for people how the address space for guests is reserved here."""
        ...

    def compile_module(
        self, module: bytes, options: CompileOptions = DEFAULT_OPTIONS
    ) -> tuple[bytes, ModuleInfo]:
        """Validate and compile ahead of time.

        Raises `ModuleError` (bad magic, truncated, a component, unknown imports by name, no
        `_start`, a feature that is off) with a message that names the thing and the next step.
        """
        ...

    def prepare_components(self) -> None:
        """Load what components need, in a process that will soon reach no files. Else nothing."""
        ...

    def load(self, artifact: int, *, limits: Limits, entry: str = ENTRY) -> Program:
        """Map the artifact behind this descriptor. It must be one that this node compiled, with
        options that fit these limits. `entry` is the export that a run calls, in place of `_start`:
        a function without parameters, whose i32, if it returns one, is the outcome's exit code.

        Raises `ModuleError` when the module needs more from the start than `limits` allow, and
        when the artifact is not one of this engine with these settings or has no such entry.
        """
        ...
