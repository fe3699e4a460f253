"""Debian packages of another architecture, resolved by the host's apt and only unpacked.

No maintainer script runs, so nothing is emulated and nobody has to be root.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from host import CannotHereError, StepError, run

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

_KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"


def find_mirror() -> str:
    """Return the URI of the Debian mirror that this host's apt uses."""
    targets = run(
        ["apt-get", "indextargets", "--format", "$(LABEL)|$(REPO_URI)", "Created-By: Packages"]
    )
    for line in targets.splitlines():
        label, _, uri = line.partition("|")
        if label == "Debian" or uri.rstrip("/").endswith("/debian"):
            return uri
    raise CannotHereError(
        "apt has no Debian mirror here; name one in /etc/apt/sources.list.d and "
        "install debian-archive-keyring"
    )


@dataclass(frozen=True, slots=True)
class Archive:
    """One distribution for one architecture, with state of its own below a folder."""

    folder: Path
    suite: str
    architecture: str
    options: tuple[str, ...]

    def _apt(self, program: str, *arguments: str) -> str:
        return run([program, *self.options, *arguments], cwd=self.folder)

    def dependency(self, package: str, prefix: str) -> str:
        """Return what the package depends on under a name of that prefix."""
        said = self._apt("apt-cache", "depends", package)
        found = re.search(rf"Depends: ({re.escape(prefix)}\S+)", said)
        if not found:
            raise StepError(f"{package} in {self.suite} depends on no {prefix}*:\n{said}")
        return found[1]

    def download(self, package: str) -> Path:
        """Fetch this package alone, checked against the archive's signature."""
        self._apt("apt-get", "download", package)
        return next(self.folder.glob(f"{package}_*.deb"))

    def download_with_dependencies(self, packages: Iterable[str]) -> list[Path]:
        """Fetch these packages and all that they depend on, each checked."""
        self._apt("apt-get", "install", "--yes", "--download-only", *packages)
        return sorted(self.folder.glob("cache/archives/*.deb"))


def open_archive(folder: Path, *, suite: str, architecture: str) -> Archive:
    """Read the index of a suite from the host's mirror."""
    for name in ("lists/partial", "cache/archives/partial"):
        (folder / name).mkdir(parents=True)
    sources = folder / "debian.sources"
    sources.write_text(
        f"Types: deb\nURIs: {find_mirror()}\nSuites: {suite}\nComponents: main\n"
        f"Signed-By: {_KEYRING}\n"
    )
    (folder / "status").touch()
    settings = {
        "APT::Architecture": architecture,
        "APT::Architectures": architecture,
        "APT::Install-Recommends": "false",
        "APT::Sandbox::User": "root",
        "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled": "false",
        "Acquire::Languages": "none",
        "Acquire::Retries": "3",
        "APT::Update::Post-Invoke-Success": "",
        "Debug::NoLocking": "true",
        "Dir::Cache": folder / "cache",
        "Dir::Etc::SourceList": sources,
        "Dir::Etc::SourceParts": "/dev/null",
        "Dir::State": folder,
        "Dir::State::Lists": folder / "lists",
        "Dir::State::Status": folder / "status",
    }
    options = tuple(part for key, value in settings.items() for part in ("-o", f"{key}={value}"))
    archive = Archive(folder, suite, architecture, options)
    archive._apt("apt-get", "update")
    return archive


def unpack(packages: Iterable[Path], tree: Path) -> None:
    for package in packages:
        run(["dpkg-deb", "--extract", package, tree])
