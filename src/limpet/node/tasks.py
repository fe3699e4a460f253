"""Work for a process of its own behind walls, from its start to its answer.

What a stranger wrote, or a server says, meets a process with nothing to lose.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from itertools import count
from typing import TYPE_CHECKING

from limpet.errors import LimpetError
from limpet.linux.cgroup import Limits
from limpet.plan import PlanError
from limpet.worker.messages import Failed, Fetching, Message

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from limpet.worker.process import ExitInfo, Process
    from limpet.worker.supervisor import Zygote

_LIMITS = {
    # A compiler takes some fifty times a module's size; what a hostile one makes of that ends here.
    "compile": Limits(cpu_cores=1.0, memory_bytes=512 << 20, pids=16),
    "fetch": Limits(cpu_cores=1.0, memory_bytes=128 << 20, pids=16),
    "verify": Limits(cpu_cores=1.0, memory_bytes=128 << 20, pids=16),
    "manifests": Limits(cpu_cores=1.0, memory_bytes=256 << 20, pids=16),
}
_serial = count(1)


class RetryableError(LimpetError):
    """A task that may succeed later, without anybody changing anything."""

    is_retryable = True

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


async def run_task(
    zygote: Zygote,
    role: str,
    config: int,
    descriptors: Sequence[int],
    *,
    seconds: float,
    is_component: bool = False,
    on_progress: Callable[[Fetching], None] | None = None,
) -> Message | ExitInfo:
    """Run a role once; return its last message, or how it ended without one.

    `config` is closed, the other descriptors stay the caller's. Raises `RetryableError` when it takes longer
    than `seconds`.
    """
    done: asyncio.Future[ExitInfo] = asyncio.get_running_loop().create_future()
    answers: deque[Message] = deque(maxlen=1)  # its last word is the answer

    def on_message(_process: Process, message: Message) -> None:
        if not isinstance(message, Fetching):
            answers.append(message)
        elif on_progress is not None:
            on_progress(message)

    def on_exit(_process: Process, info: ExitInfo) -> None:
        if not done.done():
            done.set_result(info)

    try:
        process = zygote.spawn(
            f"{role}-{next(_serial)}",
            role,
            [config, *descriptors],
            limits=_LIMITS[role],
            is_component=is_component,
            on_message=on_message,
            on_exit=on_exit,
        )
    finally:
        os.close(config)
    try:
        # Not `wait_for`: Python 3.11's forgets a cancellation that comes together with the end.
        async with asyncio.timeout(seconds):
            info = await done
    except TimeoutError:
        raise RetryableError("TimedOut", f"{role} took over {seconds:.0f} s") from None
    finally:
        process.kill()
    return answers[-1] if answers else info


def refusal(answer: Message | ExitInfo, reason: str, what: str) -> LimpetError:
    """The error for an answer that is not the one that was hoped for."""
    if isinstance(answer, Failed):
        if answer.is_retryable:
            return RetryableError(answer.reason, answer.message)
        return PlanError(answer.reason, answer.message, is_final=True)
    message = getattr(answer, "message", "") or "its process gave no answer"
    return RetryableError(reason, f"{what}: {message}")


def memory_file(content: bytes = b"") -> int:
    """Return a descriptor of an anonymous file in memory that holds this."""
    descriptor = os.memfd_create("limpet-task", os.MFD_CLOEXEC)
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]
    return descriptor
