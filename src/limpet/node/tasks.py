"""Work for a process of its own behind walls, from its start to its end."""

from __future__ import annotations

import asyncio
import os
from itertools import count
from typing import TYPE_CHECKING

from limpet.errors import TemporaryError
from limpet.worker.config import write_config

if TYPE_CHECKING:
    from collections.abc import Sequence

    from limpet.linux.cgroup import Limits
    from limpet.worker.config import ManifestsConfig, SignatureConfig
    from limpet.worker.process import ExitInfo, Process
    from limpet.worker.supervisor import Zygotes

_serial = count(1)


class TaskTimeoutError(TemporaryError):
    """A process did not end in time, and was ended."""

    reason = "TimedOut"


async def run_task(
    zygotes: Zygotes,
    role: str,
    config: ManifestsConfig | SignatureConfig,
    descriptors: Sequence[int],
    *,
    limits: Limits,
    seconds: float,
) -> ExitInfo:
    """Run a role once and return how it ended. Raises `TaskTimeoutError`.

    The descriptors stay the caller's.
    """
    done: asyncio.Future[ExitInfo] = asyncio.get_running_loop().create_future()

    def on_exit(_process: Process, info: ExitInfo) -> None:
        if not done.done():
            done.set_result(info)

    settings = write_config(config)
    try:
        process = zygotes.default.spawn(
            f"{role}-{next(_serial)}",
            role,
            [settings, *descriptors],
            limits=limits,
            on_message=lambda _process, _message: None,
            on_exit=on_exit,
        )
    finally:
        os.close(settings)
    try:
        async with asyncio.timeout(seconds):
            return await done
    except TimeoutError:
        raise TaskTimeoutError(f"{role} took over {seconds:.0f} s") from None
    finally:
        process.kill()


def memory_file(content: bytes = b"") -> int:
    """Return a descriptor of an anonymous file in memory that holds this."""
    descriptor = os.memfd_create("limpet-task", os.MFD_CLOEXEC)
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]
    return descriptor
