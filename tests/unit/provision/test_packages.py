"""What apt is told, and what is made of its answers."""

from __future__ import annotations

import hashlib
import sys
from types import SimpleNamespace

import pytest

from limpet.errors import TemporaryError, UnavailableError
from limpet.provision import commands, packages
from limpet.provision.packages import Mirror, Package, PackageArchive, PackageError

SHOWN = """\
Package: libllvm19
Source: llvm-toolchain-19
Version: 1:19.1.7-3+b1
Installed-Size: 127100
Architecture: amd64
Description: Modular compiler and toolchain technologies, runtime library
 LLVM is a collection of libraries and tools.
Filename: pool/main/l/llvm-toolchain-19/libllvm19_19.1.7-3+b1_amd64.deb
Size: 25978316
SHA256: 5f3c

Package: wasmedge
Version: 0.14.1+dfsg-3.1
Installed-Size: 68
Architecture: amd64
Size: 42160
SHA256: a536
"""
LLVM = Package("libllvm19", "1:19.1.7-3+b1", "amd64", 25978316, 127100 << 10, "5f3c")


@pytest.fixture
def apt(monkeypatch):
    """Answers by the program's first words, and remembers what it was asked."""

    def set_answers(**answers):
        asked = []

        def run(argv, *, step, **options):
            asked.append(argv)
            return next(text for word, text in answers.items() if word in argv)

        monkeypatch.setattr(commands, "run", run)
        return asked

    monkeypatch.setattr(packages, "require_tools", lambda: None)
    return set_answers


def test_the_mirror_is_the_one_that_apt_uses(apt):
    apt(
        indextargets=(
            "Vendor|Vendor|https://vendor.test/apt/\n"
            "Debian|Debian-Security|http://mirror.test/debian-security/\n"
            "Debian|Debian|http://mirror.test/debian/\n"
            "Debian|Debian|http://other.test/debian/\n"
        )
    )
    expected = Mirror("http://mirror.test/debian/", "http://mirror.test/debian-security/")
    assert packages.find_mirror() == expected


@pytest.mark.parametrize("told", ["", "Ubuntu|Ubuntu|http://mirror.test/ubuntu/\n"])
def test_a_machine_that_knows_no_debian(apt, told):
    apt(indextargets=told)
    with pytest.raises(PackageError, match="--mirror URL"):
        packages.find_mirror()


def test_resolving(apt, tmp_path):
    inst = (
        "Inst libllvm19 (1:19.1.7-3+b1 Debian:13.1/stable [amd64])\n"
        "Inst wasmedge (0.14.1+dfsg-3.1 Debian:13.1/stable [amd64])\n"
        "Conf wasmedge (0.14.1+dfsg-3.1 Debian:13.1/stable [amd64])\n"
    )
    asked = apt(install=inst, show=SHOWN)
    archive = PackageArchive(tmp_path, suite="trixie", mirror=Mirror("http://mirror.test"))
    found = archive.resolve("wasmedge")
    assert [package.name for package in found] == ["libllvm19", "wasmedge"]
    assert found[0] == LLVM
    assert asked[1][-2:] == ["libllvm19=1:19.1.7-3+b1", "wasmedge=0.14.1+dfsg-3.1"]
    assert archive.missing_size(found) == 25978316 + 42160


def test_an_index_without_a_digest_is_not_used(apt, tmp_path):
    shown = SHOWN.replace("SHA256: 5f3c\n", "")
    apt(install="Inst libllvm19 (1:19 Debian [amd64])\n", show=shown)
    archive = PackageArchive(tmp_path, suite="trixie", mirror=Mirror("http://mirror.test"))
    with pytest.raises(PackageError, match="SHA256 of libllvm19"):
        archive.resolve("wasmedge")


def test_file_names_are_apts():
    assert LLVM.file_name == "libllvm19_1%3a19.1.7-3+b1_amd64.deb"


def test_a_file_that_is_not_whole_is_removed_and_tried_again(tmp_path):
    path = tmp_path / "x.deb"
    path.write_bytes(b"half")
    whole = Package("x", "1", "amd64", 5, 5, hashlib.sha256(b"whole").hexdigest())
    with pytest.raises(TemporaryError, match="try again"):
        packages._check(path, whole)
    assert not path.exists()
    path.write_bytes(b"whole")
    packages._check(path, whole)


@pytest.mark.parametrize("machine", [("x86_64", "amd64"), ("aarch64", "arm64")])
@pytest.mark.parametrize("suite", ["trixie", "sid"])
def test_what_apt_is_told(monkeypatch, tmp_path, suite, machine):
    monkeypatch.setattr(packages.os, "uname", lambda: SimpleNamespace(machine=machine[0]))
    monkeypatch.setattr(packages, "find_keyring", lambda: "/keys.gpg")
    mirror = Mirror("http://mirror.test/debian/", "http://mirror.test/security/")
    archive = PackageArchive(tmp_path, suite=suite, mirror=mirror)
    archive._write_configuration()
    sources = (tmp_path / "sources.list").read_text().splitlines()
    option = f"[arch={machine[1]} target=Packages signed-by=/keys.gpg]"
    expected = [f"deb {option} http://mirror.test/debian/ {suite} main"]
    if suite != "sid":
        expected.append(f"deb {option} http://mirror.test/security/ {suite}-security main")
    assert sources == expected
    text = (tmp_path / "apt.conf").read_text()
    assert 'APT::Get::AllowUnauthenticated "false";' in text
    assert 'Acquire::AllowInsecureRepositories "false";' in text
    assert f'Dir::State::status "{tmp_path}/status";' in text


def test_a_machine_without_packages(monkeypatch, tmp_path):
    monkeypatch.setattr(packages.os, "uname", lambda: SimpleNamespace(machine="riscv64"))
    archive = PackageArchive(tmp_path, suite="sid", mirror=Mirror("http://mirror.test"))
    with pytest.raises(PackageError, match="riscv64"):
        archive._write_configuration()


def test_tools_that_are_missing_are_named(monkeypatch):
    monkeypatch.setattr(packages.shutil, "which", lambda tool: None)
    with pytest.raises(PackageError, match="apt-get and apt-cache and dpkg not found"):
        packages.require_tools()


def test_keys_that_are_missing(monkeypatch):
    monkeypatch.setattr(packages, "_KEYRINGS", ("/nowhere/debian.gpg",))
    with pytest.raises(PackageError, match="install debian-archive-keyring"):
        packages.find_keyring()


@pytest.mark.parametrize(
    ("output", "kind", "says"),
    [
        ("E: The repository 'x' is not signed.", PackageError, "debian-archive-keyring"),
        ("W: GPG error: NO_PUBKEY 6ED0E7B82643E131", PackageError, "debian-archive-keyring"),
        ("E: Could not get lock /x/lists/lock.", packages.DownloadError, "Another installation"),
        ("E: Failed to fetch http://x  404", packages.DownloadError, "Look at the network"),
    ],
)
def test_what_helps_when_fetching_fails(output, kind, says, monkeypatch):
    monkeypatch.setattr(packages, "find_keyring", lambda: "/keys.gpg")
    error = packages._fetch_error(commands.CommandError("fetching", code=100, output=output))
    assert type(error) is kind
    assert says in str(error)
    assert "fetching failed (exit code 100)" in str(error)


def test_a_command_that_fails_says_its_last_lines():
    with pytest.raises(UnavailableError, match=r"(?s)counting failed \(exit code 3\):.*\n  three"):
        commands.run(["sh", "-c", "echo one; echo two; echo three; exit 3"], step="counting")


def test_a_command_that_is_not_there_or_is_killed():
    with pytest.raises(commands.CommandError, match="No such file"):
        commands.run(["/nowhere/tool"], step="trying")
    with pytest.raises(commands.CommandError, match="killed by SIGTERM"):
        commands.run(["sh", "-c", "kill -TERM $$"], step="trying")
    with pytest.raises(commands.CommandError, match=r"killed after 0\.1 s"):
        commands.run(["sleep", "60"], step="trying", seconds=0.1)


def test_following_a_command():
    told = []
    commands.follow(
        lambda status: [sys.executable, "-c", f"import os; os.write({status}, b'a\\nb\\n')"],
        step="working",
        tell=told.append,
    )
    assert told == ["a\n", "b\n"]
    with pytest.raises(commands.CommandError, match=r"working failed \(exit code 1\):\n  E: bad"):
        commands.follow(
            lambda status: ["sh", "-c", "echo fine; echo 'E: bad' >&2; echo more; exit 1"],
            step="working",
            tell=told.append,
        )
