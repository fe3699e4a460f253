"""Limpet's own upgrade: no request fails, and a version that is broken in whatever way is left again."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from installations import (
    InstalledNode,
    build_wheel,
    copy_installation,
    make_variant,
    pack_dependencies,
    renumber,
    run_limpet,
)
from running_node import Load, wait_for
from workloads import command_app, http_app

from limpet.errors import LimpetError, TemporaryError
from limpet.upgrade.layout import Prefix

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from running_node import Json

QUICK = {"LIMPET_UPGRADE_TRIAL_SECONDS": "20", "LIMPET_UPGRADE_STABLE_SECONDS": "0.3"}
FIRST, NEXT = "0.1.0", "0.2.0"
TICKING = {"GUEST_MS": "10"}


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheels of one version and of all that it needs."""
    folder = tmp_path_factory.mktemp("wheels")
    build_wheel(folder)
    pack_dependencies(folder)
    return folder


@pytest.fixture(scope="session")
def installed(wheels: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prefix]:
    """An installation by the command itself; nobody changes it."""
    path = tmp_path_factory.mktemp("limpet") / "opt"
    import sys

    done = run_limpet(Path(sys.executable), "upgrade", wheels, "--prefix", path, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["state"] == "installed"
    yield Prefix(path)
    shutil.rmtree(path)
    shutil.rmtree(wheels)


@pytest.fixture
def make_installed(installed: Prefix, tmp_path: Path) -> Iterator[Callable[..., InstalledNode]]:
    """Make nodes that run from an installation of their own."""
    made: list[InstalledNode] = []

    def make(**environment: str) -> InstalledNode:
        prefix = copy_installation(installed, tmp_path / "opt")
        made.append(InstalledNode(tmp_path, prefix, {**QUICK, **environment}))
        made[-1].start()
        return made[-1]

    yield make
    for node in made:
        node.kill()
        shutil.rmtree(node.prefix.path)


def wait_over(node: InstalledNode, version: str) -> Json:
    """Return the record of a trial that is over, once the node takes changes again."""
    record: Json = {}

    def is_over() -> bool:
        nonlocal record
        try:
            told = node.client.upgrade()
        except LimpetError:
            return False
        record = told["last"] or {}
        is_ended = record.get("version") == version and record["state"] != "trial"
        return is_ended and not told["is_undecided"]

    wait_for(is_over, f"the end of {version}'s trial", 60)
    return record


def start_apps(node: InstalledNode) -> list[int]:
    """Start apps and return the processes of their workers."""
    node.apply(
        http_app("served", "echo", replicas=2), command_app("ticking", "job_lines", env=TICKING)
    )
    return workers(node)


def workers(node: InstalledNode) -> list[int]:
    found = []
    for name in ("served", "ticking"):
        found += [worker["pid"] for worker in node.wait_ready(name)["workers"]]
    return sorted(found)


def test_an_upgrade_and_back_and_no_request_fails(
    make_installed: Callable[..., InstalledNode], wheels: Path, tmp_path: Path
) -> None:
    node = make_installed()
    before, launcher = start_apps(node), node.pid("launcher")
    newer = renumber(next(wheels.glob("limpet-*.whl")), NEXT, tmp_path)
    folder = tmp_path / "newer"
    folder.mkdir()
    for wheel in wheels.glob("*.whl"):
        if not wheel.name.startswith("limpet-"):
            (folder / wheel.name).hardlink_to(wheel)
    newer.rename(folder / newer.name)
    with Load(node.port("served"), clients=2) as load:
        done = node.upgrade(folder, "--json")
        assert done.returncode == 0, done.stderr + node.output()
        assert json.loads(done.stdout)["state"] == "complete"
        assert node.client.node()["version"] == NEXT
        assert (node.prefix.current, node.prefix.previous) == (NEXT, FIRST)
        load.wait_more()
        back = node.upgrade("--rollback")
        assert back.returncode == 0, back.stderr + node.output()
        load.wait_more()
    assert load.failures == []
    assert node.client.node()["version"] == FIRST
    assert (node.prefix.current, node.prefix.previous) == (FIRST, NEXT)
    assert workers(node) == before
    assert node.pid("launcher") == launcher
    assert [event["message"].split()[1] for event in node.events(reason="UpgradeComplete")] == [
        NEXT,
        FIRST,
    ]
    node.stop()
    node.start()
    assert node.client.node()["version"] == FIRST
    workers(node)
    node.stop()
