"""How a node starts, or says why it can't, and what it finds in its data directory."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from guests import build_guest
from running_node import SOURCES, RunningNode, ask
from workloads import http_app

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def run_node(*options: str, **environment: str) -> tuple[int, str]:
    """Run a node that is to refuse; return its exit code and what it said."""
    finished = subprocess.run(
        [sys.executable, "-P", "-m", "limpet.node", *options],
        env={**os.environ, "PYTHONPATH": str(SOURCES), **environment},
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert "Traceback" not in finished.stderr
    return finished.returncode, finished.stderr


@pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("setpriv") is None,
    reason="needs root and setpriv, to be kept from somebody else's terminal",
)
def test_a_terminal_of_another_user(make_node: Callable[..., RunningNode]) -> None:
    """As after su: what was opened can be printed to, but not be opened again."""
    node = make_node()
    reader, terminal = os.openpty()
    os.fchmod(terminal, 0o600)
    os.fchown(terminal, 12_345, 12_345)
    rights = "-dac_override,-dac_read_search"
    command = ["setpriv", f"--bounding-set={rights}", f"--inh-caps={rights}", *node.command()]
    (node.directory / "node.log").touch()
    node.process = subprocess.Popen(
        command, env=node.environment(), stdout=terminal, stderr=terminal, process_group=0
    )
    os.close(terminal)
    node.wait_up()
    node.stop()
    said = os.read(reader, 1 << 16)
    os.close(reader)
    assert b"is up" in said
    assert b"Traceback" not in said


def test_two_nodes_on_one_directory(fresh_node: RunningNode, tmp_path: Path) -> None:
    fresh_node.apply(http_app("first", "echo"))
    fresh_node.wait_ready("first")
    before = fresh_node.pids()
    code, said = run_node("--data", str(fresh_node.data), "--socket", str(tmp_path / "other"))
    assert code == 4
    assert said.startswith(f"error: another node runs on {fresh_node.data}; stop it, or ")
    assert not (tmp_path / "other").exists()
    # Not even when it would have taken the same socket.
    options = ("--data", str(fresh_node.data), "--socket", str(fresh_node.socket_path))
    assert run_node(*options)[0] == 4
    assert fresh_node.request("first").status == 200
    assert set(before) <= set(fresh_node.pids())


def test_a_directory_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a directory")
    for path in (tmp_path / "file", tmp_path / "file" / "data"):
        code, said = run_node("--data", str(path), "--socket", str(tmp_path / "s"))
        assert code == 6
        assert said.startswith(f"error: can't use the data directory {path}: ")
        assert "--data" in said


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_that_may_not_be_written(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir(mode=0o500)
    code, said = run_node("--data", str(tmp_path / "data"), "--socket", str(tmp_path / "s"))
    assert (code, "Permission denied" in said) == (6, True)


def test_a_read_only_directory() -> None:
    code, said = run_node("--data", "/proc/limpet", "--socket", "/tmp/never")
    assert code == 6
    assert said.startswith("error: can't use the data directory /proc/limpet: ")


def test_a_socket_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "file" / "s", tmp_path / "folder", tmp_path / ("long" * 40)):
        code, said = run_node("--data", str(tmp_path / "data"), "--socket", str(path))
        assert (code, str(path) in said) == (6, True), said


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--bogus", "1"], "unknown option --bogus"),
        (["--data"], "option --data has no value"),
        (["--config", "/nowhere/limpet.toml"], "/nowhere/limpet.toml"),
    ],
)
def test_options_that_are_wrong(options: list[str], words: str) -> None:
    code, said = run_node(*options)
    assert (code, words in said) == (2, True), said


def test_settings_that_are_wrong(tmp_path: Path) -> None:
    where = ("--data", str(tmp_path / "data"), "--socket", str(tmp_path / "s"))
    code, said = run_node(*where, LIMPET_NODE_RESINC_SECONDS="1")
    assert code == 2
    assert "did you mean node.resync_seconds?" in said


def test_a_state_file_that_is_none(make_node: Callable[..., RunningNode]) -> None:
    node = make_node()
    node.data.mkdir()
    (node.data / "state.db").write_bytes(b"this is no database, whatever its name says" * 100)
    code, said = run_node("--data", str(node.data), "--socket", str(node.socket_path))
    assert code in range(2, 8)
    assert str(node.data / "state.db") in said


def test_stopping_twice_and_starting_again(fresh_node: RunningNode) -> None:
    fresh_node.apply(http_app("back", "echo"))
    for _ in range(3):
        fresh_node.wait_ready("back")
        assert fresh_node.request("back").status == 200
        fresh_node.restart()
    assert not [line for line in fresh_node.output().splitlines() if "error" in line.lower()]
    fresh_node.wait_ready("back")


def artifacts(node: RunningNode) -> dict[str, tuple[int, int]]:
    folder = node.data / "artifacts"
    found = [path.stat() for path in sorted(folder.glob("*.cwasm"))]
    names = [path.name for path in sorted(folder.glob("*.cwasm"))]
    return {n: (s.st_mtime_ns, s.st_ino) for n, s in zip(names, found, strict=True)}


def test_artifacts_are_reused(fresh_node: RunningNode) -> None:
    fresh_node.apply(http_app("one", "echo"), http_app("two", "echo"))
    fresh_node.wait_ready("one")
    fresh_node.wait_ready("two")
    before = artifacts(fresh_node)
    assert len(before) == 1
    fresh_node.restart()
    fresh_node.wait_ready("one")
    fresh_node.wait_ready("two")
    assert artifacts(fresh_node) == before
    assert len(list((fresh_node.data / "modules").iterdir())) == 1


@pytest.mark.parametrize("what", ["byte", "cut", "seal", "missing_seal", "link"])
def test_an_artifact_that_was_changed_is_made_again(fresh_node: RunningNode, what: str) -> None:
    node = fresh_node
    node.apply(http_app("changed", "echo"))
    node.wait_ready("changed")
    before = artifacts(node)
    node.stop()
    (name,) = before
    path = node.data / "artifacts" / name
    seal = path.with_name(f"{name}.json")
    whole = path.read_bytes()
    if what == "byte":
        middle = len(whole) // 2
        with path.open("r+b") as file:
            file.seek(middle)
            file.write(bytes([whole[middle] ^ 1]))
    elif what == "cut":
        os.truncate(path, len(whole) // 2)
    elif what == "seal":
        seal.write_text(seal.read_text().replace('"memory_bytes": ', '"memory_bytes": 1'))
    elif what == "missing_seal":
        seal.unlink()
    elif what == "link":
        path.rename(node.directory / "elsewhere")
        path.symlink_to(node.directory / "elsewhere")
    elif what == "key":
        node.start()
        node.client.rotate_keys()
        node.stop()
    node.start()
    node.wait_ready("changed")
    assert ask(node.port("changed")).status == 200
    assert path.read_bytes() == whole
    assert not path.is_symlink()
    assert artifacts(node)[name] != before[name]


def test_a_module_that_was_lost_says_so(fresh_node: RunningNode) -> None:
    node = fresh_node
    node.apply(http_app("lost", "echo"))
    node.wait_ready("lost")
    node.stop()
    for path in (*(node.data / "modules").iterdir(), *(node.data / "artifacts").iterdir()):
        path.unlink()
    node.start()
    status = node.wait_reason("lost", "MissingModule")
    assert "apply the app again" in status["message"]
    node.apply(http_app("lost", "echo"))
    node.apply(http_app("lost", "echo", env={"A": "1"}))
    node.wait_ready("lost")


def test_a_stored_module_that_was_changed_is_not_run(fresh_node: RunningNode) -> None:
    node = fresh_node
    app = http_app("changed", "echo")
    node.apply(app)
    node.wait_ready("changed")
    node.stop()
    (module,) = (node.data / "modules").iterdir()
    module.write_bytes(build_guest("no_header").read_bytes())
    for artifact in (node.data / "artifacts").iterdir():
        artifact.unlink()
    node.start()
    node.wait_reason("changed", "DigestMismatch")
    assert not module.exists()
    app["metadata"]["labels"] = {"again": "true"}
    node.apply(app)
    assert node.wait_ready("changed", generation=2)["phase"] == "Running"
