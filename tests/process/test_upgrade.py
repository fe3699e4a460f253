"""Limpet's own upgrade: no request fails, and a version that is broken in whatever way is left again."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from installations import (
    InstalledNode,
    PassphraseNode,
    UnheardNode,
    build_wheel,
    copy_installation,
    make_variant,
    pack_dependencies,
    renumber,
    run_limpet,
)
from running_node import PATIENCE_SECONDS, Load, wait_for
from workloads import command_app, config_map, http_app

from limpet.cli.upgrade_rehearsal import rehearse
from limpet.errors import (
    InvalidInputError,
    LimpetError,
    NotFoundError,
    TemporaryError,
    UnavailableError,
)
from limpet.linux import mount
from limpet.upgrade.install import BrokenVersionError, check
from limpet.upgrade.layout import Prefix
from limpet.upgrade.record import Record, write_record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from running_node import Json, RunningNode

QUICK = {"LIMPET_UPGRADE_TRIAL_SECONDS": "20", "LIMPET_UPGRADE_STABLE_SECONDS": "0.3"}
FIRST, NEXT = "0.1.0", "0.2.0"
TICKING = {"GUEST_MS": "10"}
FUTURE = "from __future__ import annotations\n"
JUDGE = '"""Return what is not as healthy as it was; empty when all is."""\n'
AGENT = "    freeze()\n    return run_agent"
NEVER_HEALTHY = {"node/upgrading.py": (JUDGE, JUDGE + "        return 'never'\n")}
NEWER_SCHEMA = {
    "store/database.py": (
        ")\nSCHEMA_VERSION",
        "'CREATE TABLE later (x TEXT) STRICT',)\nSCHEMA_VERSION",
    )
}
# What is broken, how, and what is said of it.
BROKEN = {
    "0.9.1": (
        {"node/launcher.py": (FUTURE, FUTURE + "raise OSError('broken')\n")},
        "OSError: broken",
    ),
    "0.9.2": ({"settings.py": ("trial_seconds: float", "trials: float")}, "unknown setting"),
    "0.9.3": (
        {"node/__main__.py": (AGENT, "    raise OSError('broken')\n" + AGENT)},
        "its agent ended by exit code 1",
    ),
    "0.9.4": (
        {"node/__main__.py": (AGENT, "    import time\n    time.sleep(1e6)\n" + AGENT)},
        "in time",
    ),
    "0.9.5": ({"node/launcher.py": (FUTURE, FUTURE + "while True: pass\n")}, "in time"),
    "0.9.6": (
        {"worker/zygote.py": (FUTURE, FUTURE + "raise OSError('broken')\n")},
        "there is no engine|in time",  # which of the two looks first
    ),
}
# What goes wrong in a fork of the launcher before it is an agent or a zygote, and what is said of it.
BROKEN_FORKS = {
    "0.9.1": (
        ("    null = os.open(os.devnull, os.O_RDONLY)", "    raise PermissionError('no tty')"),
        "there is no engine|in time",
    ),
    "0.9.2": (
        ("die_with_parent(signal.SIGKILL)", "raise OSError('no fork')"),
        "its agent ended by exit code 1",
    ),
}


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

    def make(kind: type[InstalledNode] = InstalledNode, **environment: str) -> InstalledNode:
        prefix = copy_installation(installed, tmp_path / "opt")
        made.append(kind(tmp_path, prefix, {**QUICK, **environment}))
        made[-1].start()
        return made[-1]

    yield make
    for node in made:
        if node.process is not None:  # its output tells of what was broken on purpose
            node.process.terminate()
            node.process.wait(PATIENCE_SECONDS)
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


def wait_on_trial(node: InstalledNode, version: str) -> None:
    """Wait until the agent is the version's that is on trial."""

    def is_tried() -> bool:
        try:
            told = node.client.upgrade()
        except LimpetError:
            return False
        return told["version"] == version and told["is_undecided"]

    wait_for(is_tried, f"{version} on trial", 60)


def wheels_with(
    wheels: Path, folder: Path, version: str, changes: Mapping[str, tuple[str, str]] | None = None
) -> Path:
    """Return a new folder with the same wheels but another version of Limpet."""
    folder.mkdir()
    for wheel in wheels.glob("*.whl"):
        if wheel.name.startswith("limpet-"):
            renumber(wheel, version, folder, changes or {})
        else:
            (folder / wheel.name).hardlink_to(wheel)
    return folder


def make_bundle(folder: Path, wheels: Path, *options: str | Path) -> Path:
    """Return a new bundle with these wheels."""
    manifest, bundle = folder / "settings.yaml", folder / f"site{len(options)}.bundle"
    manifest.write_text(yaml.safe_dump(config_map("settings", a="b")))
    demand = ("bundle", "create", "-f", manifest, "--wheels", wheels, "-o", bundle, *options)
    done = run_limpet(Path(sys.executable), *demand)
    assert done.returncode == 0, done.stderr
    return bundle


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
    folder = wheels_with(wheels, tmp_path / "newer", NEXT)
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


def test_a_broken_version_is_left_again(make_installed: Callable[..., InstalledNode]) -> None:
    node = make_installed(LIMPET_UPGRADE_TRIAL_SECONDS="3")
    before, launcher = start_apps(node), node.pid("launcher")
    with Load(node.port("served"), clients=1, pause_seconds=0.01) as load:
        for version, (changes, reason) in BROKEN.items():
            make_variant(node.prefix, version, changes)
            node.client.try_version(version)
            record = wait_over(node, version)
            assert record["state"] == "failed"
            assert re.search(reason, record["reason"])
            assert node.client.node()["version"] == FIRST
            assert node.prefix.current == FIRST
            load.wait_more()
    assert load.failures == []
    assert workers(node) == before
    assert node.pid("launcher") == launcher
    told = [event["message"].split()[1] for event in node.events(reason="UpgradeFailed")]
    assert told == list(BROKEN)
    assert not node.events(reason="AgentRestarted")
    # It ends as soon as it starts, and is waited for longer each time.
    restarts = [event["count"] for event in node.events("test", "ZygoteRestarted")]
    assert 1 < sum(restarts) < 10


def test_a_fork_that_fails_on_trial_is_no_second_launcher(
    make_installed: Callable[..., InstalledNode],
) -> None:
    node = make_installed(LIMPET_UPGRADE_TRIAL_SECONDS="3")
    before, launcher = start_apps(node), node.pid("launcher")
    for version, (change, reason) in BROKEN_FORKS.items():
        make_variant(node.prefix, version, {"node/launcher.py": change})
        node.client.try_version(version)
        assert re.search(reason, wait_over(node, version)["reason"])
        assert node.pid("launcher") == launcher
        assert node.client.node()["version"] == FIRST
    assert not node.events(reason="AgentRestarted")
    assert workers(node) == before


def test_a_newer_schema_is_left_again_and_so_it_is_after_a_power_cut(
    make_installed: Callable[..., InstalledNode],
) -> None:
    node = make_installed(LIMPET_UPGRADE_TRIAL_SECONDS="8")
    make_variant(node.prefix, NEXT, NEVER_HEALTHY | NEWER_SCHEMA)
    start_apps(node)
    node.client.try_version(NEXT)
    wait_on_trial(node, NEXT)
    with pytest.raises(TemporaryError, match="nothing can be changed"):
        node.delete("Deployment", "served")
    os.kill(node.pid("ticking"), signal.SIGKILL)
    wait_for(lambda: node.status("ticking")["restarts"] == 1, "a restart on trial")
    before = workers(node)  # one was started by the version that is on trial
    record = wait_over(node, NEXT)
    assert record["state"] == "failed"
    assert "never" in record["reason"]
    assert "before-schema-3.db" in record["reason"]
    assert workers(node) == before
    node.apply(http_app("another", "echo"))
    node.wait_ready("another")

    node.client.try_version(NEXT)
    wait_on_trial(node, NEXT)
    node.kill()
    node.start()
    record = wait_over(node, NEXT)
    assert record["state"] == "failed"
    assert "lost power" in record["reason"]
    for name in ("served", "ticking", "another"):
        node.wait_ready(name)
    assert node.client.node()["version"] == FIRST

    node.client.try_version(NEXT)
    wait_on_trial(node, NEXT)
    node.stop()
    node.start()
    assert wait_over(node, NEXT)["state"] == "failed"
    node.wait_ready("another")
    node.stop()


def test_a_power_cut_after_the_switch(make_installed: Callable[..., InstalledNode]) -> None:
    """The link is the decision: what is written after it is caught up with."""
    node = make_installed()
    make_variant(node.prefix, NEXT, {})
    node.stop()
    record = Record(state="trial", version=NEXT, previous=FIRST, started_at=1.0)
    write_record(node.data, record)
    node.prefix.switch(NEXT)
    node.start()
    assert wait_over(node, NEXT)["state"] == "complete"
    assert node.client.node()["version"] == NEXT
    assert len(node.events(reason="UpgradeComplete")) == 1
    node.stop()


def try_broken_and_good(node: InstalledNode) -> None:
    """Try a version whose agent ends, then one that is healthy."""
    make_variant(node.prefix, "0.9.3", BROKEN["0.9.3"][0])
    make_variant(node.prefix, NEXT, {})
    for version, state in (("0.9.3", "failed"), (NEXT, "complete")):
        node.client.try_version(version)
        assert wait_over(node, version)["state"] == state


def test_a_passphrase_is_not_asked_for_again(
    make_installed: Callable[..., InstalledNode],
) -> None:
    node = make_installed(PassphraseNode, LIMPET_KEYS_SOURCE="passphrase")
    before = start_apps(node)
    try_broken_and_good(node)
    assert workers(node) == before


def test_a_node_that_nobody_listens_to_goes_on(
    make_installed: Callable[..., UnheardNode],
) -> None:
    node = make_installed(UnheardNode)
    os.close(node.listener)
    before = start_apps(node)
    try_broken_and_good(node)
    os.kill(node.pid("agent"), signal.SIGKILL)
    node.wait_up()
    wait_for(lambda: node.events(reason="AgentRestarted"), "the next agent")
    assert workers(node) == before
    node.apply(http_app("another", "echo"))
    node.wait_ready("another")


def test_what_can_not_be_tried_is_not(
    make_installed: Callable[..., InstalledNode], wheels: Path, tmp_path: Path
) -> None:
    node = make_installed()
    changes = {"node/agent.py": (FUTURE, FUTURE + "import limpet.nowhere\n")}
    make_variant(node.prefix, NEXT, changes)
    with pytest.raises(BrokenVersionError, match=r"No module named 'limpet\.nowhere'"):
        check(node.prefix, NEXT)
    boot = ("make_private_mounts(self", "raise OSError('no boot')\n            (self")
    make_variant(node.prefix, "0.2.1", {"node/launcher.py": boot})
    assert check(node.prefix, "0.2.1").version == "0.2.1"
    with pytest.raises(BrokenVersionError, match="does not come up as a node"):
        rehearse(node.prefix, "0.2.1")
    with pytest.raises(NotFoundError, match=r"0\.3\.0 is not installed"):
        node.client.try_version("0.3.0")
    with pytest.raises(InvalidInputError, match="not a version"):
        node.client.try_version("../0.3.0")
    done = node.upgrade("--rollback")
    assert done.returncode == 3, done.stderr
    done = node.upgrade(wheels)
    assert done.returncode == 4, done.stderr
    assert "is what runs" in done.stderr
    done = node.upgrade(wheels_with(wheels, tmp_path / "newer", "0.4.0"), "--dry-run", "--json")
    assert json.loads(done.stdout)["state"] == "planned", done.stderr
    assert node.client.upgrade()["last"] is None
    assert node.prefix.find("0.4.0") is None
    node.stop()


def test_what_a_signed_bundle_brings_is_what_is_tried(
    make_installed: Callable[..., InstalledNode], wheels: Path, tmp_path: Path
) -> None:
    """Not what was installed under the same number before, from wheels that nobody has signed."""
    key = ec.generate_private_key(ec.SECP256R1())
    private, public = tmp_path / "site.key", tmp_path / "site.pub"
    private.write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
    )
    public.write_bytes(
        key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )
    folder = wheels_with(wheels, tmp_path / "newer", NEXT)
    signed = make_bundle(tmp_path, folder, "--sign", private)
    bare = make_bundle(tmp_path, folder)
    node = make_installed(LIMPET_BUNDLES_KEYS=str(public), LIMPET_BUNDLES_REQUIRE_SIGNATURE="true")
    make_variant(node.prefix, NEXT, NEVER_HEALTHY)
    done = node.upgrade(bare)
    assert done.returncode == 5
    assert "bundles.require_signature" in done.stderr
    done = node.upgrade(folder, "--require-signature")
    assert done.returncode == 5
    assert "is no bundle" in done.stderr
    done = node.upgrade(signed, "--require-signature", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["state"] == "complete"
    assert node.client.node()["version"] == NEXT
    node.stop()


def test_a_node_that_is_no_installation_says_how_to_become_one(
    node: RunningNode, tmp_path: Path
) -> None:
    with pytest.raises(UnavailableError, match="--prefix"):
        node.client.try_version(NEXT)
    done = run_limpet(
        Path(sys.executable), "upgrade", NEXT, "--rollback", "--socket", node.socket_path
    )
    assert done.returncode == 2


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mount a disk of this size, or with room for so many files; return its folder."""
    place = tmp_path / "small"
    place.mkdir()

    def make(options: str) -> Path:
        mount.mount("small", place, "tmpfs", data=options)
        return place

    yield make
    mount.unmount(place)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
@pytest.mark.parametrize("options", [[], ["--dry-run"]])
def test_space_is_looked_at_first(
    wheels: Path, tmp_path: Path, small_disk: Callable[[str], Path], options: list[str]
) -> None:
    place = small_disk(f"size={16 << 20}")
    for source in (wheels, make_bundle(tmp_path, wheels)):
        done = run_limpet(
            Path(sys.executable), "upgrade", source, "--prefix", place / "opt", *options
        )
        assert done.returncode == 7, done.stderr
        assert "16 MiB free" in done.stderr
        assert list(place.glob("opt/*")) in ([], [place / "opt/.lock"])


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_a_disk_that_is_full_all_the_same_is_no_defect(
    wheels: Path, tmp_path: Path, small_disk: Callable[[str], Path]
) -> None:
    place = small_disk("nr_inodes=5,size=1g")
    done = run_limpet(
        Path(sys.executable), "upgrade", make_bundle(tmp_path, wheels), "--prefix", place / "opt"
    )
    assert done.returncode == 7, done.stderr
    assert "is full" in done.stderr
    assert os.listdir(place / "opt") == [".lock"]
