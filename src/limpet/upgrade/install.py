"""Makes a version of Limpet beside the others: a virtual environment, pip, a first proof, and the mark.

Nothing that runs is touched. pip runs in the new environment; a folder of wheels is all that it gets unless
the source is an index.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from typing import TYPE_CHECKING

from limpet.errors import InvalidInputError, NotFoundError, TemporaryError, UnavailableError
from limpet.upgrade.layout import Installed, check_version

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from limpet.upgrade.layout import Prefix

_PIP_SECONDS = 1800.0
_CHECK_SECONDS = 300.0
# An environment with pip, beside what the wheels hold; and byte code, which is a fifth of most sources' size.
_ENVIRONMENT_BYTES = 24 << 20
_BYTE_CODE = 1.3
_SHOWN_LINES = 12
# PEP 427: distribution, version, tags.
_WHEEL = re.compile(r"limpet-([^-]+)-[^/]+\.whl")


class InstallError(UnavailableError):
    """A version could not be installed; those that are there are as they were."""

    reason = "InstallFailed"


class BrokenVersionError(InvalidInputError):
    """A version was installed and does not even start here."""

    reason = "BrokenVersion"


class NoRoomError(TemporaryError):
    """There is not enough space for another version."""

    reason = "DiskFull"


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where a version comes from: a folder of wheels alone, or a requirement that pip resolves in its index.

    `wheel` is Limpet's own, where there is one.
    """

    version: str
    wheel: Path | None = None
    folder: Path | None = None

    @property
    def pip_arguments(self) -> list[str]:
        """What pip is to install, and from where."""
        wanted = str(self.wheel) if self.wheel is not None else f"limpet=={self.version}"
        if self.folder is not None:
            return ["--no-index", "--find-links", str(self.folder), wanted]
        return [wanted]


def find_wheels(folder: Path) -> Source:
    """The one version of Limpet in a folder of wheels. Raises `NotFoundError`, `InvalidInputError`."""
    found = sorted(folder.glob("limpet-*.whl"))
    if not found:
        raise NotFoundError(
            f"there is no wheel of Limpet (limpet-VERSION-py3-none-any.whl) in {folder}"
        )
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise InvalidInputError(f"{folder} has several versions ({names}); name one wheel of them")
    return Source(version=wheel_version(found[0]), wheel=found[0], folder=folder)


def wheel_version(wheel: Path) -> str:
    """The version that a wheel of Limpet is. Raises `InvalidInputError`."""
    match = _WHEEL.fullmatch(wheel.name)
    if match is None:
        raise InvalidInputError(
            f"{wheel.name} is not a wheel of Limpet: limpet-VERSION-py3-none-any.whl"
        )
    return check_version(match[1])


def needed_bytes(prefix: Prefix, source: Source) -> int:
    """How much an installation takes: what its wheels unpack to, or as much as the largest that is there.

    Raises `InvalidInputError` for a wheel that can't be read.
    """
    if source.folder is not None:
        wheels = sorted(source.folder.glob("*.whl"))
        return _ENVIRONMENT_BYTES + int(sum(map(_unpacked_bytes, wheels)) * _BYTE_CODE)
    sizes = [_folder_bytes(prefix.folder(each.version)) for each in prefix.versions()]
    return max(sizes, default=_ENVIRONMENT_BYTES)


def check_room(prefix: Prefix, source: Source) -> None:
    """See that there is room. Raises `NoRoomError`, `InvalidInputError`."""
    require_free(prefix.path, needed_bytes(prefix, source), f"version {source.version}")


def require_free(place: Path, size_bytes: int, what: str) -> None:
    """See that this folder's disk has so much free; `what` takes it. Raises `NoRoomError`."""
    while not place.exists():
        place = place.parent
    status = os.statvfs(place)
    free = status.f_bavail * status.f_frsize
    if free < size_bytes:
        raise NoRoomError(
            f"{what} takes {size_bytes >> 20} MiB and {place} has {free >> 20} MiB free; "
            "nothing was changed. Free some space there and try again"
        )


def install(
    prefix: Prefix,
    source: Source,
    *,
    rehearse: Callable[[Prefix, str], None],
    tell: Callable[[str], None],
) -> Installed:
    """Make a version, unless it is there whole; return it. Raises LimpetError, OSError.

    `rehearse` starts it as a node once, and raises when it can't be one.
    """
    found = prefix.find(source.version)
    if found is not None:
        return found
    folder, python = prefix.folder(source.version), prefix.python(source.version)
    prefix.remove(source.version)
    check_room(prefix, source)
    folder.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    tell(f"making {folder}")
    _run(
        [sys.executable, "-P", "-m", "venv", str(folder)], "a virtual environment could not be made"
    )
    tell(f"installing {source.version}")
    pip = [str(python), "-P", "-m", "pip", "--disable-pip-version-check", "--no-input", "install"]
    _run([*pip, "--quiet", "--compile", *source.pip_arguments], "pip could not install it")
    tell(f"trying whether {source.version} starts")
    installed = check(prefix, source.version)
    rehearse(prefix, source.version)
    tell("writing it to the disk")
    os.sync()
    prefix.finish(installed)
    return installed


def check(prefix: Prefix, version: str) -> Installed:
    """Run a version for the first time. Raises `BrokenVersionError`."""
    command = [str(prefix.python(version)), "-P", "-m", "limpet.node.check"]
    try:
        done = subprocess.run(
            command,
            env=_environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_CHECK_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise BrokenVersionError(
            f"version {version} hangs when it is started; nothing was changed"
        ) from error
    try:
        told = json.loads(done.stdout.splitlines()[-1])
        installed = Installed(**{name: told[name] for name in Installed.__slots__})
    except (ValueError, IndexError, KeyError, TypeError) as error:
        raise BrokenVersionError(
            f"version {version} does not start here; nothing was changed. "
            f"It said:\n{last_lines(done.stderr)}"
        ) from error
    if done.returncode or installed.version != version:
        raise BrokenVersionError(
            f"what was installed as {version} says that it is {installed.version}"
        )
    return installed


def _run(command: Sequence[str], failure: str) -> None:
    try:
        done = subprocess.run(
            command,
            env=_environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_PIP_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise InstallError(f"{failure}: it took more than {_PIP_SECONDS:g} s") from error
    if done.returncode:
        raise InstallError(
            f"{failure}; nothing was changed. It said:\n{last_lines(done.stderr or done.stdout)}"
        )


def _environment() -> dict[str, str]:
    """This process's, without what would lead an interpreter to another version's modules."""
    return {
        name: value
        for name, value in os.environ.items()
        if name not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
    }


def last_lines(output: bytes) -> str:
    """The end of what a program said, for an error's message."""
    lines = output.decode("utf-8", "replace").strip().splitlines()
    return "\n".join(line.removeprefix("ERROR: ") for line in lines[-_SHOWN_LINES:])


def _unpacked_bytes(wheel: Path) -> int:
    try:
        with zipfile.ZipFile(wheel) as archive:
            return sum(entry.file_size for entry in archive.infolist())
    except (OSError, zipfile.BadZipFile) as error:
        raise InvalidInputError(f"{wheel} can't be read as a wheel: {error}") from error


def _folder_bytes(folder: Path) -> int:
    total = 0
    for where, _, names in os.walk(folder):
        for name in names:
            status = os.lstat(os.path.join(where, name))
            total += status.st_blocks * 512
    return total
