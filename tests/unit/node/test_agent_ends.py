"""How an agent ends that can't go on: so that the launcher starts the next one."""

import asyncio
from types import SimpleNamespace

import pytest

from limpet.node import agent as agent_module
from limpet.node.agent import Agent, run_agent
from limpet.store.database import StoreDamagedError


def test_a_loop_that_meets_a_defect_ends_the_agent(capsys):
    async def fail():
        raise KeyError("x")

    async def main():
        agent = SimpleNamespace(exit_code=0, _stopping=asyncio.Event())
        task = asyncio.create_task(fail())
        task.add_done_callback(lambda ended: Agent._on_loop_end(agent, ended))
        await asyncio.wait_for(agent._stopping.wait(), 10)
        return agent.exit_code

    assert asyncio.run(main()) == 1
    assert "KeyError: 'x'" in capsys.readouterr().err


def test_a_loop_that_is_cancelled_ends_nothing():
    async def main():
        agent = SimpleNamespace(exit_code=0, _stopping=asyncio.Event())
        task = asyncio.create_task(asyncio.sleep(60))
        task.cancel()
        await asyncio.wait([task])
        Agent._on_loop_end(agent, task)
        return agent.exit_code, agent._stopping.is_set()

    assert asyncio.run(main()) == (0, False)


@pytest.mark.parametrize(("told", "code"), [(10, 10), (0, StoreDamagedError.exit_code)])
def test_damage_that_is_noticed_at_the_start_is_restored_by_the_next(
    tmp_path, monkeypatch, told, code
):
    class Damaged:
        exit_code = told

        def __init__(self, *_, **__):
            pass

        async def run(self, _api):
            raise StoreDamagedError("a page")

    monkeypatch.setattr(agent_module, "Agent", Damaged)
    settings = SimpleNamespace(node=SimpleNamespace(data_directory=tmp_path / "data"))
    assert run_agent(settings, None, None, make_api=lambda _agent: None) == code
