"""Other people's registries and clients that tests talk to: found, or fetched once into a cache.

The registry is Debian's package docker-registry (the CNCF distribution project's), unpacked below
$LIMPET_CACHE (~/.cache/limpet unless it is set); nothing is installed. cosign and crane are looked for in
$PATH and in `peers` of that folder; TEST_BUILD_PEERS=1 has Go build them there, which takes minutes.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_CLIENTS = {
    "cosign": "github.com/sigstore/cosign/v2/cmd/cosign@v2.4.1",
    "crane": "github.com/google/go-containerregistry/cmd/crane@v0.20.2",
}
_DOWNLOAD_SECONDS = 120
_BUILD_SECONDS = 1800


class NotHereError(Exception):
    """The peer can't be had on this machine; says what it needs."""


def find_registry() -> Path:
    """Return the path of `docker-registry`. Raises `NotHereError`."""
    found = shutil.which("docker-registry")
    if found is not None:
        return Path(found)
    folder = _cache() / "docker-registry"
    program = folder / "usr/bin/docker-registry"
    with _locked("docker-registry"):
        if not program.exists():
            _unpack("docker-registry", folder)
    return program


def find_client(name: str) -> Path:
    """Return the path of cosign or crane. Raises `NotHereError`."""
    found = shutil.which(name) or shutil.which(name, path=str(_cache()))
    if found is not None:
        return Path(found)
    if os.environ.get("TEST_BUILD_PEERS") != "1" or shutil.which("go") is None:
        raise NotHereError(f"needs {name} in PATH, or Go and TEST_BUILD_PEERS=1 to build it")
    with _locked(name):
        environment = {**os.environ, "GOBIN": str(_cache())}
        _run(["go", "install", _CLIENTS[name]], _cache(), _BUILD_SECONDS, environment)
    return _cache() / name


def _unpack(package: str, folder: Path) -> None:
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise NotHereError(f"needs Debian's package {package}")
    downloads = _cache() / "downloads"
    downloads.mkdir(parents=True, exist_ok=True)
    _run(["apt-get", "download", package], downloads, _DOWNLOAD_SECONDS)
    [archive] = downloads.glob(f"{package}_*.deb")
    staged = folder.with_suffix(".part")
    _run(["dpkg-deb", "-x", str(archive), str(staged)], downloads, _DOWNLOAD_SECONDS)
    staged.rename(folder)
    shutil.rmtree(downloads)


def _run(
    command: list[str], folder: Path, seconds: float, environment: dict[str, str] | None = None
) -> None:
    try:
        subprocess.run(
            command, cwd=folder, check=True, capture_output=True, timeout=seconds, env=environment
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise NotHereError(f"needs what `{' '.join(command)}` would have got: {error}") from error


def _cache() -> Path:
    cache = Path(os.environ.get("LIMPET_CACHE") or Path.home() / ".cache/limpet").absolute()
    return cache / "peers"


@contextmanager
def _locked(name: str) -> Iterator[None]:
    _cache().mkdir(parents=True, exist_ok=True)
    with (_cache() / f"{name}.lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
