"""Starts a version of Limpet once as at boot, on a data directory of its own that is removed again.

A trial shows that a version can go on with what runs. That it can also come up from nothing has to be known
before: nobody may be there when the device boots next.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from limpet.api.client import Client
from limpet.cli.ending import ends_with_this
from limpet.errors import LimpetError
from limpet.upgrade.install import BrokenVersionError, last_lines

if TYPE_CHECKING:
    from limpet.upgrade.layout import Prefix

_START_SECONDS = 180.0
_STOP_SECONDS = 30.0
_POLL_SECONDS = 0.1


def rehearse(prefix: Prefix, version: str) -> None:
    """See that a version starts as a node, answers, and stops. Raises `BrokenVersionError`, OSError."""
    with TemporaryDirectory(prefix="limpet-rehearsal-") as name:
        folder = Path(name)
        options = ["--config", os.devnull, "--data", f"{name}/data", "--socket", f"{name}/s"]
        output = folder / "output"
        with output.open("wb") as file:
            process = subprocess.Popen(
                [prefix.folder(version) / "bin/limpet", "up", *options, "--name", "rehearsal"],
                env=_environment(),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                process_group=0,
                preexec_fn=ends_with_this(),  # noqa: PLW1509 - there is one thread here
            )
        try:
            problem = _wait_up(process, folder / "s", version) or _stop(process)
        finally:
            if process.poll() is None:
                process.kill()  # the rest ends with it
                process.wait()
        if problem:
            raise BrokenVersionError(
                f"version {version} {problem}; nothing was changed. "
                f"It said:\n{last_lines(output.read_bytes())}"
            )


def _wait_up(process: subprocess.Popen[bytes], socket: Path, version: str) -> str:
    """Return what is wrong; empty when the node is up."""
    client = Client(socket, timeout_seconds=_STOP_SECONDS)
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            return f"does not come up as a node (exit code {process.returncode})"
        with contextlib.suppress(LimpetError):
            told = client.node()
            if told["version"] == version and told["engine"]:
                return ""
        time.sleep(_POLL_SECONDS)
    return f"does not come up as a node within {_START_SECONDS:g} s"


def _stop(process: subprocess.Popen[bytes]) -> str:
    process.send_signal(signal.SIGTERM)
    try:
        code = process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        return f"does not stop within {_STOP_SECONDS:g} s"
    return f"stops with exit code {code}" if code else ""


def _environment() -> dict[str, str]:
    """This process's, without settings: they are the real node's."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("LIMPET_") and name not in ("PYTHONPATH", "PYTHONHOME")
    }
