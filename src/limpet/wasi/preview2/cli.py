"""`wasi:cli`: arguments, environment, standard streams, terminals and the end of the run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from limpet.wasi.endings import GuestExit
from limpet.wasi.preview2.interface import Interface
from limpet.wasi.preview2.resources import Resource
from limpet.wasi.preview2.streams import InputStream, OutputStream, StandardInput, StandardOutput
from limpet.wasi.preview2.types import STRING, U8, List, Option, Own, Result, Tuple

if TYPE_CHECKING:
    from limpet.wasi.preview2.run import ComponentRun

ENVIRONMENT, EXIT = Interface(), Interface()
STDIN, STDOUT, STDERR = Interface(), Interface(), Interface()
TERMINAL_INPUT, TERMINAL_OUTPUT = Interface("terminal-input"), Interface("terminal-output")
TERMINAL_STDIN, TERMINAL_STDOUT, TERMINAL_STDERR = Interface(), Interface(), Interface()


class Terminal(Resource):
    """That a stream is one; there is nothing else to it yet."""

    __slots__ = ()


def _text(raw: bytes) -> str:
    return raw.decode(errors="replace")


@ENVIRONMENT.function("get-environment", returns=List(Tuple((STRING, STRING))))
def get_environment(run: ComponentRun) -> list[tuple[str, str]]:
    pairs = (_text(each).partition("=") for each in run.invocation.env)
    return [(name, value) for name, _, value in pairs]


@ENVIRONMENT.function("get-arguments", returns=List(STRING))
def get_arguments(run: ComponentRun) -> list[str]:
    return [_text(each) for each in run.invocation.args]


@ENVIRONMENT.function("initial-cwd", returns=Option(STRING))
def initial_cwd(_run: ComponentRun) -> None:
    return None


@EXIT.function("exit", Result())
def exit_(_run: ComponentRun, status: tuple[bool, None]) -> None:
    raise GuestExit(0 if status[0] else 1)


@EXIT.function("exit-with-code", U8)
def exit_with_code(_run: ComponentRun, code: int) -> None:
    raise GuestExit(code)


@STDIN.function("get-stdin", returns=Own("input-stream"))
def get_stdin(run: ComponentRun) -> InputStream:
    return StandardInput(run.invocation.stdin)


@STDOUT.function("get-stdout", returns=Own("output-stream"))
def get_stdout(run: ComponentRun) -> OutputStream:
    return StandardOutput(run.invocation.stdout, "stdout")


@STDERR.function("get-stderr", returns=Own("output-stream"))
def get_stderr(run: ComponentRun) -> OutputStream:
    return StandardOutput(run.invocation.stderr, "stderr")


@TERMINAL_STDIN.function("get-terminal-stdin", returns=Option(Own("terminal-input")))
def get_terminal_stdin(run: ComponentRun) -> Terminal | None:
    return Terminal() if run.invocation.stdin.is_terminal() else None


@TERMINAL_STDOUT.function("get-terminal-stdout", returns=Option(Own("terminal-output")))
def get_terminal_stdout(run: ComponentRun) -> Terminal | None:
    return Terminal() if run.invocation.stdout.is_terminal() else None


@TERMINAL_STDERR.function("get-terminal-stderr", returns=Option(Own("terminal-output")))
def get_terminal_stderr(run: ComponentRun) -> Terminal | None:
    return Terminal() if run.invocation.stderr.is_terminal() else None
