"""A node that comes back without any network, and with a clock that is years off or jumps."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import pytest
from running_node import RunningNode, ask, is_alive, wait_for
from shifted_clock import HAS_COMPILER, Clock
from test_fetching import Server
from workloads import claim, command_app, http_app, job, secret

from limpet.linux.namespaces import CLONE_NEWNET, set_namespace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

_Answer = TypeVar("_Answer")
_DAY_SECONDS = 86_400
_SERVED = [f"served-{number}" for number in range(20)]

needs_root = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("ip") is None, reason="needs root and the ip command"
)
needs_compiler = pytest.mark.skipif(not HAS_COMPILER, reason="needs a C compiler, ziglang")


class OfflineNode(RunningNode):
    """A node whose only network is a loopback of its own, without a route and without name servers."""

    def command(self) -> list[str]:
        script = 'ip link set lo up && mount --bind /dev/null /etc/resolv.conf && exec "$@"'
        return ["unshare", "--net", "--mount", "sh", "-c", script, "sh", *super().command()]

    def inside(self, call: Callable[[], _Answer]) -> _Answer:
        """Call this on a thread that is in the node's network."""
        with ThreadPoolExecutor(1, initializer=self._enter) as threads:
            return threads.submit(call).result()

    def _enter(self) -> None:
        descriptor = os.open(f"/proc/{self.pid('launcher')}/ns/net", os.O_RDONLY)
        try:
            set_namespace(descriptor, CLONE_NEWNET)
        finally:
            os.close(descriptor)


@pytest.fixture
def clock(tmp_path: Path) -> Clock:
    return Clock(tmp_path)


@pytest.fixture
def make_offline(tmp_path: Path) -> Iterator[Callable[[Mapping[str, str]], OfflineNode]]:
    """Make an offline node on the data of the node `n`; what is left of it is killed."""
    made: list[OfflineNode] = []

    def make(environment: Mapping[str, str]) -> OfflineNode:
        made.append(OfflineNode(tmp_path / "n", environment))
        return made[-1]

    yield make
    for node in made:
        node.kill()


@contextmanager
def serving_modules(folder: Path) -> Iterator[Server]:
    folder.mkdir()
    server = Server(folder)
    try:
        yield server
    finally:
        server.close()


def apply_everything(node: RunningNode, server: Server) -> None:
    mounted: dict[str, Any] = {
        "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "kept"}}],
        "mounts": {"/data": "v"},
    }
    token = {"secretKeyRef": {"name": "secrets", "key": "token"}}
    node.apply(
        claim("kept"),
        secret("secrets", token="t"),
        *(http_app(name, "echo") for name in _SERVED),
        http_app("fetched", server.address("/moved")),
        http_app("writing", "echo", env={"TOKEN": token}, **mounted),
        http_app("rested", "echo", annotations={"idle-timeout": "500ms"}),
        command_app("ticking", "job_lines", env={"GUEST_MS": "50"}),
        job("done", "job_exit"),
    )
    for name in (*_SERVED, "fetched", "writing", "ticking"):
        node.wait_ready(name)
    node.wait_phase("done", "Succeeded")


def check_everything(node: OfflineNode) -> None:
    for name in (*_SERVED, "fetched", "writing", "ticking"):
        node.wait_ready(name)
    ports = {name: node.port(name) for name in (*_SERVED, "fetched", "writing", "rested")}
    answers = node.inside(lambda: {name: ask(port) for name, port in ports.items()})
    assert {name: answer.status for name, answer in answers.items()} == dict.fromkeys(ports, 200)
    assert answers["writing"].variables()["TOKEN"] == "t"
    assert node.status("done")["phase"] == "Succeeded"
    assert not node.events(reason="FetchFailed")


@needs_root
@needs_compiler
@pytest.mark.parametrize("days", [-20_700, -3650, 3650])
def test_every_app_comes_back(
    make_node: Callable[..., RunningNode],
    make_offline: Callable[[Mapping[str, str]], OfflineNode],
    tmp_path: Path,
    clock: Clock,
    days: int,
) -> None:
    with serving_modules(tmp_path / "server") as server:
        node = make_node(SSL_CERT_FILE=str(server.authority))
        node.start()
        apply_everything(node, server)
        last = wait_for(lambda: node.logs("ticking", tail=1), "a line")[0]
        node.kill()
        asked = len(server.asked)
        clock.shift(days * _DAY_SECONDS)
        offline = make_offline(clock.environment)
        offline.start()
        begun = time.monotonic()
        check_everything(offline)
        print(f"all had answered {time.monotonic() - begun:.1f} s after the node was up")
        year = int(offline.client.node()["started_at"][:4])
        assert abs(year - time.gmtime().tm_year) > 5, "the clock is not wrong enough"
        assert len(server.asked) == asked
        # The run before the power cut is still the one before this one, whatever the clock says.
        assert last in offline.logs("ticking", previous=True)
        assert offline.logs("ticking")[-1] in offline.logs("ticking", tail=5)
        offline.stop()


@needs_root
@needs_compiler
def test_a_clock_that_jumps_while_apps_run(
    make_node: Callable[..., RunningNode],
    make_offline: Callable[[Mapping[str, str]], OfflineNode],
    clock: Clock,
) -> None:
    make_node()  # its folder
    node = make_offline(clock.environment | {"LIMPET_NODE_BACKOFF_SECONDS": "0.4"})
    node.start()
    node.apply(
        http_app("served", "echo"),
        http_app("rested", "echo", annotations={"idle-timeout": "500ms"}),
        command_app("ticking", "job_lines", env={"GUEST_MS": "20"}),
    )
    for name in ("served", "ticking"):
        node.wait_ready(name)
    worker = node.pid("served")
    for round_number, jump in enumerate((-3650, 3650, -20_700, 0), 1):
        clock.shift(jump * _DAY_SECONDS)
        node.wait_phase("rested", "Idle")
        rested, served = node.port("rested"), node.port("served")
        assert node.inside(lambda rested=rested: ask(rested).status) == 200
        assert node.inside(lambda served=served: ask(served).status) == 200
        ticking, lines = node.pid("ticking"), wait_for(lambda: node.logs("ticking"), "its lines")
        os.kill(ticking, signal.SIGKILL)  # its pause before the next start is not the clock's
        wait_for(lambda ticking=ticking: not is_alive(ticking), "its end")
        restarts = round_number
        wait_for(
            lambda restarts=restarts: node.status("ticking")["restarts"] == restarts, "a start"
        )
        node.wait_ready("ticking")
        wait_for(lambda: node.logs("ticking", previous=True)[:1] == ["line 1"], "the next run")
        # Runs are in order, whatever the clock was.
        wait_for(lambda: node.logs("ticking", tail=1) > ["line 1"], "its lines")
        assert lines[-1] in node.logs("ticking", previous=True)
    assert node.pid("served") == worker
    assert node.status("served")["restarts"] == 0
    node.stop()


@needs_root
def test_there_is_no_network_inside(
    make_node: Callable[..., RunningNode],
    make_offline: Callable[[Mapping[str, str]], OfflineNode],
) -> None:
    """What the tests above rest on; and what can't be fetched says so and is asked for again."""
    make_node()
    node = make_offline({"LIMPET_NODE_BACKOFF_SECONDS": "0.2"})
    node.start()
    node.apply(http_app("absent", "https://localhost:1/absent.wasm"), http_app("served", "echo"))
    node.wait_ready("served")
    status = node.wait_reason("absent", "FetchFailed")
    assert not status["is_final"]
    launcher = str(node.pid("launcher"))
    routes = ["nsenter", "--net", "--target", launcher, "ip", "route"]
    assert subprocess.run(routes, check=True, capture_output=True, timeout=10).stdout == b""
    port = node.port("served")
    assert node.inside(lambda: ask(port).status) == 200
    node.stop()
