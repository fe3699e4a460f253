"""The WasmEdge that tests run: the one that is named, the system's, or Debian's packages, installed once.

What is named is the root of a prefix, in $LIMPET_WASMEDGE_ROOT. Packages are those of the Debian suite
$TEST_WASMEDGE_SUITE (trixie unless it is set; sid has a later series). They are installed with Limpet's own
installer below $LIMPET_CACHE (~/.cache/limpet unless it is set) and stay there: remove
`engines-SUITE` to have later ones.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from limpet.engine.missing import EngineMissingError
from limpet.engine.wasmedge import library
from limpet.provision.engine_report import examine_installation
from limpet.provision.engines import install_wasmedge
from limpet.provision.packages import DownloadError, PackageError

if TYPE_CHECKING:
    from collections.abc import Iterator

SUITE_VARIABLE = "TEST_WASMEDGE_SUITE"


class NotHereError(Exception):
    """WasmEdge can't be had on this machine; says why."""


def find_or_install() -> library.Installation:
    """Return a WasmEdge that this machine can run; installing one takes some ten seconds.

    Runs that start at once wait for the first one's installation. Raises `NotHereError`, and whatever the
    installer raises when it could have installed.
    """
    if os.environ.get(library.ROOT_VARIABLE):
        return library.find_installation(None)
    try:
        if library.find_in_system() is not None:
            return _require_usable(library.find_installation(None))
        return _find_or_install(os.environ.get(SUITE_VARIABLE, "trixie"))
    except EngineMissingError as error:  # no packages for this machine, or no Python to run it with
        raise NotHereError(str(error)) from error


def environment(found: library.Installation) -> dict[str, str]:
    """What to add to a process's environment so that it uses this WasmEdge."""
    return {library.ROOT_VARIABLE: found.root} if found.root is not None else {}


def _require_usable(found: library.Installation) -> library.Installation:
    report = examine_installation(found)
    if report.state != "usable":
        raise NotHereError(f"the system's WasmEdge is of no use: {report.problem}")
    return found


def _find_or_install(suite: str) -> library.Installation:
    cache = Path(os.environ.get("LIMPET_CACHE") or Path.home() / ".cache/limpet").absolute()
    data = cache / f"engines-{suite}"
    with _locked(cache / f"engines-{suite}.lock"):
        try:
            return _installed(data)
        except EngineMissingError:
            pass
        try:
            install_wasmedge(data, progress=lambda *_: None, suite=suite, cache=cache / "packages")
        except (PackageError, DownloadError) as error:
            raise NotHereError(f"needs Debian's packages: {str(error).splitlines()[0]}") from error
        return _installed(data)


def _installed(data: Path) -> library.Installation:
    """What was installed, if it is of a series that Limpet knows. Raises `EngineMissingError`."""
    found = library.find_installation(str(data))
    if not library.is_tested(found.version):
        raise EngineMissingError(f"{found.library} is of an unknown series")
    return found


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
