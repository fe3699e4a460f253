"""What the host has to offer: tools, a cache outside the tree, and time limits for each command."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

TREE = Path(__file__).parents[2]
COMMAND_SECONDS = 600.0

# The tool and the Debian package that has it.
_TOOLS = {
    "qemu-system-aarch64": "qemu-system-arm",
    "apt-get": "apt",
    "dpkg-deb": "dpkg",
    "depmod": "kmod",
    "mkfs.ext4": "e2fsprogs",
    "unshare": "util-linux",
}


class CannotHereError(Exception):
    """This host can't run the VM; the message says what it lacks."""


class StepError(Exception):
    """A step failed; the message says which and shows what the command said."""


def say(text: str) -> None:
    print(f"vm: {text}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def step(name: str) -> Iterator[None]:
    """Say how long the block took."""
    started = time.monotonic()
    yield
    say(f"{name}: {time.monotonic() - started:.1f} s")


def cache_folder() -> Path:
    """Return `$LIMPET_CACHE`, by default `~/.cache/limpet`, made if need be."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(os.environ.get("LIMPET_CACHE") or Path(base) / "limpet")
    folder.mkdir(parents=True, exist_ok=True)
    return folder.resolve()


def run(
    command: Sequence[str | Path], *, cwd: Path | None = None, seconds: float = COMMAND_SECONDS
) -> str:
    """Return the command's standard output. Raises StepError if it fails or takes too long."""
    name = Path(command[0]).name
    try:
        done = subprocess.run(
            [str(part) for part in command],
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
        )
    except subprocess.TimeoutExpired as error:
        raise StepError(f"{name} was stopped after {seconds:g} s") from error
    if done.returncode:
        said = (done.stderr or done.stdout).strip()
        raise StepError(f"{name} ended with {done.returncode}:\n{said}")
    return done.stdout


def prepare_tools() -> None:
    """Install what is missing when that is possible, else raise CannotHereError."""
    # Administrators' tools are not on everybody's path.
    os.environ["PATH"] += f"{os.pathsep}/usr/sbin{os.pathsep}/sbin"
    missing = {tool: package for tool, package in _TOOLS.items() if not shutil.which(tool)}
    if not missing:
        return
    command = ["apt-get", "install", "--yes", "--no-install-recommends", *sorted(missing.values())]
    if os.geteuid() or "apt-get" in missing:
        raise CannotHereError(
            f"{', '.join(missing)} missing; on Debian or Ubuntu get them as root with:\n"
            f"    {' '.join(command)}"
        )
    say(f"as root: {' '.join(command)}")
    with step("missing tools"):
        os.environ["DEBIAN_FRONTEND"] = "noninteractive"
        run(["apt-get", "update"])
        run(command)
