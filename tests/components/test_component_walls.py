"""A component serves from behind a worker's walls, where no socket can be made, bound or connected."""

from __future__ import annotations

import os
import urllib.request
from typing import TYPE_CHECKING

import pytest
from component_builds import build_guest_of
from component_runs import run

from limpet.engine.protocol import Limits, OutcomeKind
from limpet.engine.wasmtime.engine import WasmtimeEngine
from limpet.worker import sandbox
from limpet.worker.rehearsal import Rehearsal

if TYPE_CHECKING:
    from component_runs import LocalNetwork

_SERVED = 7


@pytest.mark.skipif(os.getuid() != 0, reason="raising a worker's walls needs root")
def test_serving_from_behind_the_walls(local_network: LocalNetwork) -> None:
    engine = WasmtimeEngine()
    artifact = os.memfd_create("artifact")
    os.write(artifact, engine.compile_module(build_guest_of("sockets"))[0])
    engine.prepare_components()
    # What libraries read of the device when they are used first: before the walls are up.
    Rehearsal(engine).run()
    sandbox.prepare()
    walls = sandbox.survey()
    if sandbox.Wall.SECCOMP not in walls:
        pytest.skip("this kernel has no seccomp filters")
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            box = sandbox.Sandbox(walls, uid=54321)
            box.retire(sandbox.APP)
            box.seal(sandbox.APP)
            program = engine.load(artifact, limits=Limits(memory_bytes=64 << 20))
            arguments = (b"serve", b"%d" % local_network.port, b"2")
            outcome, _ = run(program, *arguments, network=local_network, deadline_seconds=20)
            if outcome.kind is OutcomeKind.EXIT and not outcome.exit_code:
                code = _SERVED
        finally:
            os._exit(code)
    os.close(artifact)
    try:
        answers = []
        for name in "ab":
            url = f"http://127.0.0.1:{local_network.port}/{name}"
            with urllib.request.urlopen(url, timeout=20) as answer:
                answers.append(answer.read())
    finally:
        _, status = os.waitpid(pid, 0)
    assert answers == [b"GET /a HTTP/1.1\n", b"GET /b HTTP/1.1\n"]
    assert os.waitstatus_to_exitcode(status) == _SERVED
