"""Installing without an archive: what is kept, what is cleared away, and what a crash leaves."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from limpet.engine.missing import EngineMissingError
from limpet.engine.wasmedge import library
from limpet.errors import ConflictError
from limpet.provision import engine_report, engines
from limpet.provision.engine_report import EngineReport
from limpet.provision.packages import Mirror, Package

PACKAGES = (
    Package("libwasmedge0", "0.14.1+dfsg-3.1", "amd64", 10, 100, "aa"),
    Package("wasmedge", "0.14.1+dfsg-3.1", "amd64", 1, 10, "bb"),
)
_CRASHED = 77


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "data" / library.INSTALLED
    path.mkdir(parents=True)
    return path


@pytest.fixture
def archive(monkeypatch):
    """An archive whose packages are made up; unpacking one makes its library."""
    machine = library.this_machine()

    class FakeArchive:
        packages = PACKAGES

        def __init__(self, folder, *, suite, mirror):
            self.folder = folder

        def update(self, progress):
            progress("fetching")

        def resolve(self, name):
            return self.packages

        def missing_size(self, packages):
            return sum(package.size for package in packages)

        def download(self, name, packages, progress):
            return [Path(package.file_name) for package in packages]

    def unpack(path, root):
        if path.name.startswith("libwasmedge0"):
            write_library(root, machine)

    monkeypatch.setattr(engines, "PackageArchive", FakeArchive)
    monkeypatch.setattr(engines, "unpack", unpack)
    monkeypatch.setattr(engines, "require_tools", lambda: None)
    monkeypatch.setattr(engines, "find_keyring", lambda: "/keys.gpg")
    monkeypatch.setattr(engines, "dependencies", lambda path: [])
    monkeypatch.setattr(library, "find_in_system", lambda system_root="/": None)
    monkeypatch.setattr(engines, "examine_installation", report("usable"))
    return FakeArchive


def report(state):
    return lambda found: EngineReport(name="wasmedge", state=state, problem="it crashed")


def write_library(root, machine):
    libraries = root / "usr/lib" / machine.triplet
    libraries.mkdir(parents=True)
    head = b"\x7fELF\x02\x01" + bytes(12) + machine.elf_machine.to_bytes(2, "little")
    (libraries / "libwasmedge.so.0.1").write_bytes(head)
    (libraries / "libwasmedge.so.0").symlink_to("libwasmedge.so.0.1")
    (libraries / "libm.so.6").write_bytes(head)
    (libraries / "libneedless.so.1").write_bytes(head)
    for path in ("usr/share/doc/x/copyright", "usr/share/doc/x/changelog.gz", "usr/bin/tool"):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text("text")


def install(tmp_path, **options):
    steps = []
    done = engines.install_wasmedge(
        tmp_path / "data",
        progress=lambda text, share=None: steps.append(text),
        mirror=Mirror("http://mirror.test/"),
        cache=tmp_path / "cache",
        **options,
    )
    return done, list(dict.fromkeys(steps))


def names(folder):
    return sorted(entry.name for entry in folder.iterdir())


def test_installing(archive, folder, tmp_path):
    done, steps = install(tmp_path)
    assert (done.action, done.version) == ("install", "0.14.1")
    assert steps == ["fetching", "unpacking", "trying it", "writing it to the disk"]
    assert names(folder) == [Path(done.where).name, "current"]
    assert os.readlink(folder / "current") == Path(done.where).name
    kept = sorted(p.name for p in Path(done.where).rglob("*") if not p.is_dir())
    assert kept == ["copyright", "libm.so.6", "libwasmedge.so.0", "libwasmedge.so.0.1"]
    assert Path(done.where, "root").stat().st_mode & 0o777 == 0o755


def test_again_changes_nothing(archive, folder, tmp_path):
    first, _ = install(tmp_path)
    inode = Path(first.where).stat().st_ino
    second, steps = install(tmp_path)
    assert second.action == "keep"
    assert second.size == first.size > 0
    assert steps == ["fetching"]
    assert Path(second.where).stat().st_ino == inode


def test_again_mends_what_is_broken(archive, folder, tmp_path, monkeypatch):
    first, _ = install(tmp_path)
    next(Path(first.where).rglob("libwasmedge.so.0")).unlink()
    second, _ = install(tmp_path)
    assert second.action == "install"
    assert names(folder) == [Path(first.where).name, "current"]
    assert library.find_in_prefix(f"{second.where}/root") is not None


def test_an_update_takes_the_place_of_the_old_one(archive, folder, tmp_path):
    first, _ = install(tmp_path)
    newer = Package("libwasmedge0", "0.14.1+dfsg-3.2", "amd64", 10, 100, "cc")
    archive.packages = (newer, PACKAGES[1])
    second, _ = install(tmp_path)
    assert second.version == first.version
    assert second.where != first.where
    assert names(folder) == [Path(second.where).name, "current"]


def test_one_that_does_not_run_leaves_the_old_one(archive, folder, tmp_path, monkeypatch):
    first, _ = install(tmp_path)
    archive.packages = (PACKAGES[0], Package("wasmedge", "0.17.1-1", "amd64", 1, 10, "dd"))
    monkeypatch.setattr(engines, "examine_installation", report("broken"))
    with pytest.raises(engines.EngineInstallError, match="does not run here: it crashed"):
        install(tmp_path)
    assert names(folder) == [Path(first.where).name, "current"]


def test_a_dry_run_makes_nothing(archive, tmp_path):
    done, _ = install(tmp_path, is_dry_run=True)
    assert done.action == "install"
    assert (done.download_size, done.unpacked_size) == (11, 110)
    assert not (tmp_path / "data").exists()


def test_what_is_downloaded_goes_unless_it_was_to_be_kept(archive, tmp_path, monkeypatch):
    monkeypatch.setattr(engines, "_own_cache", lambda: tmp_path / "own")
    engines.install_wasmedge(
        tmp_path / "data",
        progress=lambda text, share=None: None,
        mirror=Mirror("http://mirror.test/"),
    )
    assert not (tmp_path / "own").exists()
    install(tmp_path)
    assert (tmp_path / "cache").exists()


def test_the_systems_own_is_enough(archive, tmp_path, monkeypatch):
    monkeypatch.setattr(library, "find_in_system", lambda: "/usr/lib/libwasmedge.so.0")
    done, steps = install(tmp_path)
    assert (done.action, done.where, steps) == ("system", "/usr/lib/libwasmedge.so.0", [])


@pytest.mark.parametrize("version", ["0.16.0-1", "1.0-1"])
def test_a_version_that_was_not_tested_is_refused(archive, tmp_path, version):
    archive.packages = (Package("wasmedge", version, "amd64", 1, 1, "ee"),)
    with pytest.raises(engines.EngineInstallError, match=r"was tested with 0\.14"):
        install(tmp_path)


def test_a_full_disk_is_told_before_anything_is_fetched(archive, tmp_path):
    archive.packages = (Package("wasmedge", "0.14.1-1", "amd64", 1, 1 << 60, "ff"),)
    with pytest.raises(engines.EngineInstallError, match="MB free, and unpacked packages take"):
        install(tmp_path)
    assert names(tmp_path / "data" / library.INSTALLED) == []


def test_a_file_system_without_programs(archive, tmp_path, monkeypatch):
    kept = os.statvfs(tmp_path)
    changed = os.statvfs_result([*kept[:8], kept.f_flag | os.ST_NOEXEC, kept.f_namemax])
    monkeypatch.setattr(engines.os, "statvfs", lambda path: changed)
    with pytest.raises(engines.EngineInstallError, match="noexec"):
        install(tmp_path)


def test_one_at_a_time(archive, folder, tmp_path):
    with engines._locked(tmp_path / "data"), pytest.raises(ConflictError, match="wait for it"):
        install(tmp_path)
    with engines._locked(tmp_path / "data"), pytest.raises(ConflictError, match="wait for it"):
        engines.remove_wasmedge(tmp_path / "data")


def test_removing(archive, folder, tmp_path):
    done, _ = install(tmp_path)
    assert engines.remove_wasmedge(tmp_path / "data") == done.size
    assert not folder.exists()
    with pytest.raises(engines.EngineNotInstalledError, match="nothing was removed"):
        engines.remove_wasmedge(tmp_path / "data")


# Crashes


def crash_at(step, action):
    """Run the action in a child that ends, as if killed, before its file operation of this number.

    Returns whether it came that far.
    """
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            count = 0

            def counting(function):
                def call(*args, **options):
                    nonlocal count
                    if count == step:
                        os._exit(_CRASHED)
                    count += 1
                    return function(*args, **options)

                return call

            for name in ("rename", "replace", "symlink", "unlink", "rmdir", "mkdir", "fsync"):
                setattr(os, name, counting(getattr(os, name)))
            action()
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code in (0, _CRASHED)
    return code == _CRASHED


def test_a_crash_at_any_point_leaves_a_whole_one(archive, folder, tmp_path):
    """Old or new: the link always names a prefix with a library, and the next run clears up."""
    versions = [PACKAGES, (PACKAGES[0], Package("wasmedge", "0.17.1-1", "amd64", 1, 10, "dd"))]
    install(tmp_path)
    step = 0
    while True:
        archive.packages = versions[(step + 1) % 2]
        was_there = os.readlink(folder / "current")
        did_crash = crash_at(step, lambda: install(tmp_path))
        found = library.find_installation(str(tmp_path / "data"))
        assert found.version in ("0.14.1", "0.17.1")
        done, _ = install(tmp_path)
        assert names(folder) == [Path(done.where).name, "current"]
        if not did_crash:
            break
        assert was_there in os.listdir(folder) or os.readlink(folder / "current") != was_there
        step += 1
    assert step > 20


def test_a_crash_while_removing_leaves_none_or_a_whole_one(archive, folder, tmp_path):
    step = 0
    while True:
        install(tmp_path)
        did_crash = crash_at(step, lambda: engines.remove_wasmedge(tmp_path / "data"))
        if not did_crash:
            break
        try:
            found = library.find_installation(str(tmp_path / "data"))
        except EngineMissingError:
            pass
        else:
            assert os.path.exists(os.path.join(os.path.dirname(found.library), "libm.so.6"))
        step += 1
    assert step > 5


# Reports


def test_the_default_engine_is_usable():
    found = engine_report.examine_wasmtime()
    assert found.state == "usable", found.problem
    assert found.is_default
    assert "ahead-of-time" in found.modes
    assert os.path.exists(found.where)


def test_a_missing_engine_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.delenv(library.ROOT_VARIABLE, raising=False)
    if library.find_in_system() is not None:
        pytest.skip("the system has WasmEdge: it is not missing")
    found = engine_report.examine_wasmedge(tmp_path)
    assert (found.state, found.where, found.modes) == ("missing", "", ())
    assert "limpet engine install wasmedge" in found.problem


def test_a_library_that_is_none_is_broken(tmp_path):
    root = tmp_path / "root"
    write_library(root, library.this_machine())
    found = engine_report.examine_installation(library.find_in_prefix(str(root)))
    assert found.state == "broken"
    assert found.where == library.find_in_prefix(str(root)).library
    assert "can't be loaded" in found.problem
