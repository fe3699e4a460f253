"""Fetching and compiling that is given up."""

import asyncio
import os
from types import SimpleNamespace

import pytest

from limpet.linux.cgroup import Limits
from limpet.node.modules import Modules
from limpet.node.tasks import run_task
from limpet.worker.config import ManifestsConfig
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
        modules = Modules(None, None)
        task = asyncio.create_task(modules.run(zygote, "compile", config, [], seconds=10))
        await asyncio.sleep(0)
        zygote.end()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())


def test_giving_up_holds_for_tasks_as_well():
    zygote = Zygote()

    async def main():
        running = run_task(
            SimpleNamespace(default=zygote),
            "manifests",
            ManifestsConfig(files=()),
            [],
            limits=Limits(),
            seconds=10,
        )
        task = asyncio.create_task(running)
        await asyncio.sleep(0)
        zygote.end()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
