"""Finding libwasmedge in trees that are made up, and building the command that can load it."""

from __future__ import annotations

import os
import subprocess
import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from limpet.engine.missing import EngineMissingError
from limpet.engine.wasmedge import library
from limpet.errors import UnavailableError

if TYPE_CHECKING:
    from pathlib import Path

MACHINES = {
    "x86_64": ("x86_64-linux-gnu", "ld-linux-x86-64.so.2", 62),
    "aarch64": ("aarch64-linux-gnu", "ld-linux-aarch64.so.1", 183),
}


@pytest.fixture(autouse=True)
def _no_prefix(monkeypatch):
    monkeypatch.delenv(library.ROOT_VARIABLE, raising=False)
    monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)


@pytest.fixture(params=MACHINES)
def machine(request, monkeypatch):
    """This machine is of each kind in turn."""
    monkeypatch.setattr(os, "uname", lambda: SimpleNamespace(machine=request.param))
    return library.Machine(*MACHINES[request.param])


def write_elf(path: Path, elf_machine: int, *, text: bytes = b"") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    head = b"\x7fELF\x02\x01" + bytes(12) + elf_machine.to_bytes(2, "little")
    path.write_bytes(head + bytes(44) + text)
    return path


def write_c_library(path: Path, elf_machine: int, version: str) -> None:
    banner = f"GNU C Library (Debian) stable release version {version}.\n".encode()
    write_elf(path, elf_machine, text=banner)


def make_prefix(root: Path, machine: library.Machine, *, c_library: str | None = "999.1") -> Path:
    """A prefix as Debian's packages make it."""
    folder = root / "usr/lib" / machine.triplet
    write_elf(folder / "libwasmedge.so.0", machine.elf_machine)
    if c_library is not None:
        write_c_library(folder / "libc.so.6", machine.elf_machine, c_library)
        write_elf(folder / machine.loader, machine.elf_machine)
    return root


def install(data: Path, machine: library.Machine, name: str = "0.14.1-0123abcd") -> Path:
    """A prefix where the installer puts it."""
    folder = data / library.INSTALLED / name
    make_prefix(folder / "root", machine)
    (folder.parent / "current").symlink_to(name)
    return folder


def test_what_the_environment_names_comes_first(machine, monkeypatch, tmp_path):
    root = make_prefix(tmp_path / "named", machine)
    install(tmp_path / "data", machine)
    monkeypatch.setenv(library.ROOT_VARIABLE, str(root))
    found = library.find_installation(str(tmp_path / "data"))
    folder = root / "usr/lib" / machine.triplet
    assert found == library.Installation(
        str(folder / "libwasmedge.so.0"),
        root=str(root),
        loader=str(folder / machine.loader),
        library_path=(str(folder),),
    )


def test_a_name_that_leads_nowhere_is_an_error(machine, monkeypatch, tmp_path):
    install(tmp_path / "data", machine)
    monkeypatch.setenv(library.ROOT_VARIABLE, str(tmp_path / "nowhere"))
    with pytest.raises(EngineMissingError, match=r"LIMPET_WASMEDGE_ROOT is .*nowhere"):
        library.find_installation(str(tmp_path / "data"))


@pytest.mark.parametrize("folder", ["usr/lib/{}", "lib/{}", "usr/lib64", "usr/local/lib", "lib"])
def test_the_systems_comes_before_the_installed_one(machine, tmp_path, folder):
    install(tmp_path / "data", machine)
    system = tmp_path / "system"
    path = system / folder.format(machine.triplet) / "libwasmedge.so.0"
    write_elf(path, machine.elf_machine)
    found = library.find_installation(str(tmp_path / "data"), system_root=str(system))
    assert found == library.Installation(str(path))


def test_the_loaders_cache_knows_other_folders(machine, tmp_path):
    path = write_elf(tmp_path / "opt/wasmedge/libwasmedge.so.0", machine.elf_machine)
    other = write_elf(tmp_path / "opt/foreign/libwasmedge.so.0", 243)
    cache = tmp_path / "system/etc/ld.so.cache"
    cache.parent.mkdir(parents=True)
    names = [b"libwasmedge.so.0", bytes(other), b"libwasmedge.so.0", bytes(path), b"/x/libz.so.1"]
    cache.write_bytes(b"glibc-ld.so.cache1.1" + bytes(64) + b"\0".join(names) + b"\0")
    assert library.find_in_system(str(tmp_path / "system")) == str(path)


def test_the_installed_one_is_found_by_its_own_name(machine, tmp_path):
    folder = install(tmp_path / "data", machine)
    found = library.find_installation(str(tmp_path / "data"), system_root=str(tmp_path))
    assert found.root == str(folder / "root")
    assert found.version == "0.14.1"
    assert "current" not in found.library


def test_a_library_for_another_processor_is_none(machine, tmp_path):
    folder = tmp_path / "usr/lib" / machine.triplet
    write_elf(folder / "libwasmedge.so.0", 243)
    (tmp_path / "usr/lib/libwasmedge.so.0").write_text("not a library")
    with pytest.raises(EngineMissingError, match="limpet engine install wasmedge") as caught:
        library.find_installation(str(tmp_path / "data"), system_root=str(tmp_path))
    assert isinstance(caught.value, UnavailableError)
    assert f"{tmp_path}/data/engines/wasmedge/current" in str(caught.value)


def test_a_link_that_leads_nowhere_is_no_installation(machine, tmp_path):
    folder = tmp_path / "data" / library.INSTALLED
    folder.mkdir(parents=True)
    (folder / "current").symlink_to("0.14.1-gone")
    with pytest.raises(EngineMissingError, match="there is no libwasmedge"):
        library.find_installation(str(tmp_path / "data"), system_root=str(tmp_path))


@pytest.mark.parametrize("name", ["armv7l", "riscv64", "i686"])
def test_other_processors(monkeypatch, name):
    monkeypatch.setattr(os, "uname", lambda: SimpleNamespace(machine=name))
    with pytest.raises(EngineMissingError, match=name):
        library.find_installation(None)


@pytest.mark.parametrize(
    ("own", "other", "expected"),
    [((2, 36), "2.41", True), ((2, 41), "2.41", False), ((2, 42), "2.41", False)],
)
def test_a_newer_c_library_needs_its_loader(tmp_path, own, other, expected):
    write_c_library(tmp_path / "libc.so.6", 62, other)
    assert library.needs_loader([str(tmp_path)], own=own) is expected


def test_no_c_library_needs_no_loader(tmp_path):
    assert not library.needs_loader([str(tmp_path)], own=(2, 36))
    (tmp_path / "libc.so.6").write_bytes(b"")
    assert not library.needs_loader([str(tmp_path)], own=(2, 36))


def test_the_own_c_library_is_read_as_the_process_sees_it():
    own = library.c_library_version()
    assert own >= (2, 17)
    with open("/proc/self/maps") as maps:
        path = next(line.split()[-1] for line in maps if line.rstrip().endswith("/libc.so.6"))
    assert library.read_c_library_version(path) == own


def test_without_glibc(monkeypatch, tmp_path):
    def unknown(name):
        raise ValueError("unrecognized configuration name")

    monkeypatch.setattr(os, "confstr", unknown)
    with pytest.raises(EngineMissingError, match="does not run with glibc"):
        library.needs_loader([str(tmp_path)])


def test_a_prefix_that_lost_its_loader_says_so(machine, tmp_path):
    root = make_prefix(tmp_path / "root", machine)
    (root / "usr/lib" / machine.triplet / machine.loader).unlink()
    with pytest.raises(EngineMissingError, match=machine.loader):
        library.find_in_prefix(str(root))


def test_a_command_without_a_loader():
    argv = library.command(library.Installation("/usr/lib/libwasmedge.so.0"), ["-c", "pass"])
    assert argv == [sys.executable, "-c", "pass"]


def test_a_command_under_a_loader():
    installation = library.Installation(
        "/p/lib/libwasmedge.so.0", root="/p", loader="/p/lib/ld.so", library_path=("/p/lib", "/p/2")
    )
    argv = library.command(installation, ["-c", "pass"])
    python = os.path.realpath(sys.executable)
    assert argv == [
        "/p/lib/ld.so",
        "--argv0",
        sys.executable,
        "--library-path",
        "/p/lib:/p/2",
        python,
        "-c",
        "pass",
    ]


def test_a_python_that_is_found_by_the_environment(monkeypatch):
    """The loader's option takes the variable's place."""
    monkeypatch.setenv("LD_LIBRARY_PATH", "/opt/python/lib:")
    installation = library.Installation(
        "/p/libwasmedge.so.0", loader="/p/ld.so", library_path=("/p",)
    )
    argv = library.command(installation, [])
    assert argv[argv.index("--library-path") + 1] == "/p:/opt/python/lib"


def test_a_script_in_front_of_python(monkeypatch, tmp_path):
    """What runs here is taken instead, under the name that finds the same packages."""
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\n")
    running = os.readlink("/proc/self/exe")
    monkeypatch.setattr(sys, "executable", str(script))
    argv = library.command(
        library.Installation("/p/libwasmedge.so.0", loader="/p/ld.so", library_path=("/p",)), []
    )
    assert argv[argv.index("--argv0") + 1] == str(script)
    assert argv[-1] == running


@pytest.mark.parametrize("folder", ["/p:q", "/p;q", "/$ORIGIN"])
def test_directories_that_the_loader_would_misread(folder):
    installation = library.Installation("/p", loader="/p/ld.so", library_path=(folder,))
    with pytest.raises(EngineMissingError, match="takes"):
        library.command(installation, [])


def test_no_python(monkeypatch):
    monkeypatch.setattr(sys, "executable", "")
    with pytest.raises(EngineMissingError, match=r"sys\.executable"):
        library.command(library.Installation("/p"), [])


def test_a_process_with_an_old_c_library_is_told(machine, monkeypatch, tmp_path):
    monkeypatch.setenv(library.ROOT_VARIABLE, str(make_prefix(tmp_path, machine)))
    with pytest.raises(EngineMissingError, match="needs a newer C library"):
        library.find_library()


def test_what_can_not_be_loaded_is_the_engines_error(tmp_path):
    path = write_elf(tmp_path / "libwasmedge.so.0", library.this_machine().elf_machine)
    with pytest.raises(EngineMissingError, match="can't be loaded"):
        library.load_library(str(path))


@pytest.mark.parametrize(
    ("version", "expected"),
    [("0.14.1", True), ("0.17.0", True), ("0.15.0", False), ("0.1", False), ("", False)],
)
def test_tested_versions(version, expected):
    assert library.is_tested(version) is expected


def test_finding_imports_little():
    """The node asks before it starts anything."""
    code = (
        "import sys; from limpet.engine.wasmedge import library; library.find_in_system();"
        "print(*sys.modules)"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"ctypes", "subprocess", "mmap", "struct", "json"} & set(told.stdout.split())
