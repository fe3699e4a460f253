"""What a guest can try by itself, without having escaped: paths, links and races, through WASI."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest
from guest_modules import opener, racer
from workloads import claim, http_app

if TYPE_CHECKING:
    from attack_node import AttackNode

DATA = {"name": "data", "persistentVolumeClaim": {"claimName": "mine"}}
OTHER = {"name": "other", "persistentVolumeClaim": {"claimName": "second"}}
BOTH: dict[str, Any] = {"volumes": [DATA, OTHER], "mounts": {"/data": "data", "/other": "other"}}

SUCCESS = 0


@pytest.fixture
def place_opener(node: AttackNode) -> None:
    """Two volumes, filled natively with links that a guest could not make, and a guest to open them."""
    node.apply(claim("mine"), claim("second"))
    node.place_escaped("filler", **BOTH)
    assert node.run("filler", "write_path", path="own", at=0) == "written"
    node.run("filler", "make_traps")
    node.place(opener(), http_app("guest", "opener", **BOTH))
    node.wait_ready("guest")


PATHS = [
    "/etc/passwd", "../etc/passwd", "./../../../../../../etc/passwd", "own/../../../../etc/passwd",
    "absolute", "relative", "absolute/", "up/etc/passwd", "up/up/etc/passwd", "loop", "magic", "proc",
    "inner/../../../etc/passwd", "//etc/passwd", "/proc/self/environ", "/../etc/passwd",
]  # fmt: skip


@pytest.mark.usefixtures("place_opener")
@pytest.mark.parametrize("path", PATHS)
def test_no_path_leads_out(node: AttackNode, path: str) -> None:
    answer = node.request("guest", method="POST", body=path.encode())
    assert answer.status == 200
    assert len(answer.body) == 2, answer.body
    assert SUCCESS not in answer.body


@pytest.mark.usefixtures("place_opener")
def test_an_own_file_is_opened(node: AttackNode) -> None:
    """The control: the same guest, an honest path."""
    answer = node.request("guest", method="POST", body=b"inner/../own")
    assert answer.body[0] == SUCCESS
    assert b"written from behind the walls" in answer.body
    assert answer.body[-1] != SUCCESS, "the other volume has no such file"


def test_no_race_leads_out(node: AttackNode) -> None:
    """Two workers swap a directory for a link that leads up, while both climb through it."""
    node.apply(claim("mine"), claim("second"))
    node.place_escaped("filler", **BOTH)
    node.run("filler", "make_race")
    node.place(
        racer(),
        http_app("racer", "racer", annotations={"workers": "2", "deadline": "300s"}, **BOTH),
    )
    node.wait_ready("racer")
    answers: list[bytes] = []

    def race() -> None:
        answers.append(node.request("racer").body)

    runners = [threading.Thread(target=race) for _ in range(4)]
    for runner in runners:
        runner.start()
    for runner in runners:
        runner.join()
    assert answers == [b"01"] * 4, "nothing was opened, and names did change meanwhile"
