"""Programs of this system that an installer runs: they end with it, and say in English what went wrong."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

from limpet.errors import UnavailableError
from limpet.linux.process import die_with_parent

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_TAIL_LINES = 4


class CommandError(UnavailableError):
    """A program ended with an error; `output` is everything that it said."""

    reason = "CommandFailed"

    def __init__(self, step: str, *, code: int, output: str) -> None:
        super().__init__(f"{step} failed ({_explain(code)}){tail(output)}")
        self.step = step
        self.output = output


def run(
    argv: Sequence[str],
    *,
    step: str,
    environment: Mapping[str, str] | None = None,
    seconds: float | None = None,
) -> str:
    """Run a program to its end and return what it wrote to stdout.

    `step` says for people what it is for. Raises `CommandError`, also when it takes longer than `seconds`
    (it is killed then) and when there is no such program. For a process with one thread.
    """
    import subprocess

    try:
        ended = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            env=_environment(environment),
            timeout=seconds,
            preexec_fn=_end_with_parent,
        )
    except subprocess.TimeoutExpired as error:
        output = f"it was killed after {seconds:g} s"
        raise CommandError(step, code=-signal.SIGKILL, output=output) from error
    except OSError as error:
        raise CommandError(step, code=127, output=f"{argv[0]}: {error.strerror}") from error
    if ended.returncode != 0:
        output = _decode(ended.stdout) + _decode(ended.stderr)
        raise CommandError(step, code=ended.returncode, output=output)
    return _decode(ended.stdout)


def follow(
    argv_of: Callable[[int], Sequence[str]], *, step: str, tell: Callable[[str], None]
) -> None:
    """Run a program that reports lines to a descriptor while it works, to its end.

    `argv_of` gets that descriptor's number; `tell` gets each line. Raises `CommandError`.
    """
    import subprocess
    import tempfile

    status, given = os.pipe()
    with (
        os.fdopen(status, encoding="utf-8", errors="replace") as lines,
        tempfile.TemporaryFile() as output,
    ):
        try:
            process = subprocess.Popen(
                argv_of(given),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=_environment(None),
                pass_fds=[given],
                preexec_fn=_end_with_parent,  # noqa: PLW1509 - there is one thread here
            )
        finally:
            os.close(given)
        with process:
            try:
                for line in lines:
                    tell(line)
            except BaseException:
                process.kill()
                raise
        if process.returncode != 0:
            output.seek(0)
            raise CommandError(step, code=process.returncode, output=_decode(output.read()))


def tail(output: str) -> str:
    """The last lines that a program said, as the end of a message; its errors where it marks them."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith(("E:", "Err:", "error:"))]
    shown = (errors or lines)[-_TAIL_LINES:]
    return ":\n" + "\n".join(f"  {line}" for line in shown) if shown else ""


def _environment(changed: Mapping[str, str] | None) -> dict[str, str]:
    return {**os.environ, "LC_ALL": "C.UTF-8", "LANGUAGE": "", **(changed or {})}


def _end_with_parent() -> None:
    die_with_parent(signal.SIGKILL)


def _decode(output: bytes) -> str:
    return output.decode("utf-8", "replace")


def _explain(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"
