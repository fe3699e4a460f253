"""A task that is given up."""

import asyncio
import os
from types import SimpleNamespace

import pytest

from limpet.node.tasks import run_task
from limpet.worker.process import ExitInfo


class Zygote:
    """Starts a process that ends when the test says so."""

    def spawn(self, *_, on_exit, **__):
        self.end = lambda: on_exit(None, ExitInfo(reason="Completed", message="", exit_code=0))
        return SimpleNamespace(kill=lambda: None)


def test_giving_up_holds_also_when_the_end_comes_at_the_same_moment():
    """What is prepared for an app that is gone would stay open for good."""
    zygote = Zygote()

    async def main():
        config = os.open(os.devnull, os.O_RDONLY)
        task = asyncio.create_task(run_task(zygote, "compile", config, [], seconds=10))
        await asyncio.sleep(0)
        zygote.end()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
