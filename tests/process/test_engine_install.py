"""Installing WasmEdge for real: Debian's packages, this machine's apt, and the library running a guest.

What was downloaded is kept in $LIMPET_CACHE (by default ~/.cache/limpet), and fetched again only when the
archive has something newer.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from limpet.engine.wasmedge import library
from limpet.provision.engine_report import examine_installation
from limpet.provision.packages import (
    DownloadError,
    PackageArchive,
    PackageError,
    find_keyring,
    find_mirror,
    require_tools,
)

_LIMPET_ENGINE = [sys.executable, "-P", "-m", "limpet", "engine"]
_ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, "unknown")
_SECONDS = 600.0
_STEPS = ("fetching", "downloading", "unpacking", "trying", "writing")


@pytest.fixture(scope="session")
def cache() -> Path:
    """Where packages are kept; skips where there is no apt, no archive or no way to it."""
    named = os.environ.get("LIMPET_CACHE")
    base = Path(named) if named else Path.home() / ".cache/limpet"
    folder = (base / "packages").absolute()
    folder.mkdir(parents=True, exist_ok=True)
    _require_apt()
    try:
        archive = PackageArchive(folder, suite="trixie", mirror=find_mirror())
        archive.update(lambda text, share=None: None)
    except (PackageError, DownloadError) as error:
        pytest.skip(f"needs a Debian archive: {str(error).splitlines()[0]}")
    return folder


def _require_apt() -> None:
    if library.find_in_system() is not None:
        pytest.skip("the system has a libwasmedge of its own, which comes before an installed one")
    try:
        require_tools()
        find_keyring()
    except PackageError as error:
        pytest.skip(f"needs apt and Debian's keys: {error}")


@pytest.fixture(autouse=True)
def _no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(library.ROOT_VARIABLE, raising=False)


@pytest.fixture(scope="module")
def installed(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory with the engine; tests that change it take a copy."""
    data = tmp_path_factory.mktemp("installed") / "data"
    limpet_engine(*install_command(data, cache))
    return data


def copy(data: Path, to: Path) -> Path:
    return Path(shutil.copytree(data, to, symlinks=True, copy_function=os.link))


def install_command(data: Path, cache: Path) -> list[str]:
    return ["install", "wasmedge", "--data", str(data), "--cache", str(cache)]


def run_limpet_engine(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*_LIMPET_ENGINE, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=_SECONDS,
    )


def limpet_engine(*arguments: str) -> str:
    done = run_limpet_engine(*arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_an_installed_engine_runs_guests(installed: Path, cache: Path) -> None:
    found = library.find_installation(str(installed))
    assert library.is_tested(found.version)
    items = json.loads(limpet_engine("list", "--data", str(installed), "-o", "json"))["items"]
    engine = next(item for item in items if item["name"] == "wasmedge")
    assert engine["state"] == "usable", engine["problem"]
    assert engine["version"] == found.version
    assert engine["modes"] == ["ahead-of-time", "interpreter"]
    assert engine["where"] == found.library
    assert "up to date" in limpet_engine(*install_command(installed, cache))


def test_removing(installed: Path, tmp_path: Path) -> None:
    data = copy(installed, tmp_path / "data")
    assert "are free again" in limpet_engine("remove", "wasmedge", "--data", str(data))
    assert not (data / library.INSTALLED).exists()


def test_python_under_the_loader_is_this_one(installed: Path) -> None:
    """Same packages, same name, no variable needed; and what it starts is plain."""
    found = library.find_installation(str(installed))
    told = (
        "import json, os, subprocess, sys; from limpet.engine.wasmedge import library;"
        "path = library.find_library(); library.load_library(path);"
        "child = [sys.executable, '-c', 'import sys, ctypes, ssl, sqlite3; print(sys.prefix)'];"
        "print(json.dumps([sys.executable, sys.prefix, sys.path[1:], path,"
        " subprocess.check_output(child, text=True).strip()]))"
    )
    plain = subprocess.check_output(
        [sys.executable, "-c", "import json, sys; print(json.dumps(sys.path[1:]))"], text=True
    )
    output = subprocess.check_output(library.command(found, ["-c", told]), text=True)
    executable, prefix, path, loaded, child = json.loads(output)
    assert (executable, prefix, child) == (sys.executable, sys.prefix, sys.prefix)
    assert path == json.loads(plain)
    assert loaded == found.library


def test_a_package_that_was_tampered_with_is_not_used(cache: Path, tmp_path: Path) -> None:
    """Of the right name and size, in the cache: its digest tells. The next run fetches it anew."""
    changed = copy(cache / "archives", tmp_path / "cache/archives").parent
    package = next((changed / "archives").glob("wasmedge_*.deb"))
    content = bytearray(package.read_bytes())
    content[-1] ^= 1
    package.unlink()  # it is one file with the cache's
    package.write_bytes(content)
    command = install_command(tmp_path / "data", changed)
    done = run_limpet_engine(*command)
    assert done.returncode == DownloadError.exit_code
    assert f"{package.name} is not what the archive's index says" in done.stderr
    assert os.listdir(tmp_path / "data" / library.INSTALLED) == []
    assert "is installed" in limpet_engine(*command)


def test_an_archive_that_nobody_signed_is_refused(tmp_path: Path) -> None:
    """Whatever this machine's apt allows elsewhere."""
    _require_apt()
    suite = tmp_path / "archive/dists/trixie"
    index = suite / f"main/binary-{_ARCHITECTURE}/Packages"
    index.parent.mkdir(parents=True)
    index.write_text("Package: wasmedge\nVersion: 0.14.1-1\nArchitecture: all\n")
    digest = hashlib.sha256(index.read_bytes()).hexdigest()
    (suite / "Release").write_text(
        f"Origin: Debian\nCodename: trixie\nComponents: main\nArchitectures: {_ARCHITECTURE}\n"
        f"SHA256:\n {digest} {index.stat().st_size} main/binary-{_ARCHITECTURE}/Packages\n"
    )
    command = install_command(tmp_path / "data", tmp_path / "cache")
    done = run_limpet_engine(*command, "--mirror", f"file:{tmp_path}/archive")
    assert done.returncode == PackageError.exit_code
    assert "is not signed" in done.stderr
    assert "debian-archive-keyring" in done.stderr
    assert not (tmp_path / "data").exists()


def test_killed_at_any_moment_the_old_one_stays_in_use(
    installed: Path, cache: Path, tmp_path: Path
) -> None:
    data = copy(installed, tmp_path / "data")
    folder = data / library.INSTALLED
    newest = os.readlink(folder / "current")
    older = f"{newest.partition('-')[0]}-00000000"
    (folder / newest).rename(folder / older)
    (folder / "current").unlink()
    (folder / "current").symlink_to(older)
    command = install_command(data, cache)
    for step in _STEPS:
        _kill_at(command, step)
        found = library.find_installation(str(data))
        report = examine_installation(found)
        assert report.state == "usable", f"killed while {step}: {report.problem}"
    limpet_engine(*command)
    assert sorted(os.listdir(folder)) == [newest, "current"]
    assert os.readlink(folder / "current") == newest
    assert examine_installation(library.find_installation(str(data))).state == "usable"


def _kill_at(command: list[str], step: str) -> None:
    """Start the installer and kill it some time after it said that it is at this step."""
    process = subprocess.Popen(
        [*_LIMPET_ENGINE, *command], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    with process:
        for line in process.stderr:
            if line.startswith(step):
                break
        try:
            process.wait(random.uniform(0, 0.5))  # somewhere within the step, or after it
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
