"""A node for as long as `limpet run` lasts, when none is listening."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from limpet.api.client import Client
from limpet.api.exchange import NodeNotRunningError
from limpet.cli.ending import ends_with_this
from limpet.cli.terminal import notice
from limpet.cli.up import node_command, node_environment
from limpet.errors import TemporaryError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from limpet.cli.terminal import StatusLine

_START_SECONDS = 60.0
_STOP_SECONDS = 45.0  # above the 30 s that apps get by default
_POLL_SECONDS = 0.02
_TAIL_BYTES = 4096


class NodeStartError(UnavailableError):
    """The node that `limpet run` needs did not come up."""

    reason = "NodeStartFailed"


@contextlib.contextmanager
def child_node(
    socket_path: Path, *, data: str | None, status: StatusLine, is_expected: bool = False
) -> Iterator[None]:
    """Run a node as a child until the block ends, with its data in `data` or gone afterwards.

    A caller that promised a node of its own (`is_expected`) needs no notice about it.
    """
    with contextlib.ExitStack() as stack:
        if data is None:
            temporary = tempfile.mkdtemp(prefix="limpet-")
            stack.callback(_remove, temporary)
            folder = f"{temporary}/data"
            # What is thrown away needs no passphrase: its key goes with it.
            environment = {"LIMPET_KEYS_SOURCE": "file", "LIMPET_KEYS_FILE": f"{temporary}/key"}
            told = "nothing is kept; --data DIR keeps it"
        else:
            folder = str(Path(data).expanduser().absolute())
            environment = {}
            told = f"its data stays in {folder}"
        if not is_expected:
            notice(f"no node is listening: one runs on {socket_path} as long as this does; {told}")
        # The node's own messages matter only when it fails; the file has no name to clean up.
        output = stack.enter_context(tempfile.TemporaryFile())
        process = _start(folder, socket_path, output, environment)
        stack.callback(_stop, process, status)
        _wait_until_up(process, socket_path, output, status)
        yield


def _start(
    folder: str, socket_path: Path, output: BinaryIO, environment: Mapping[str, str]
) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            node_command(data=folder, socket=str(socket_path)),
            stdin=subprocess.DEVNULL,
            env=node_environment({**os.environ, **environment}),
            stdout=output,
            stderr=output,
            process_group=0,  # Ctrl-C is for this process, which stops the node in its own order
            preexec_fn=ends_with_this(),  # noqa: PLW1509 - there is one thread here
        )
    except OSError as error:
        raise NodeStartError(f"can't start a node: {error.strerror}") from error


def _wait_until_up(
    process: subprocess.Popen[bytes], socket_path: Path, output: BinaryIO, status: StatusLine
) -> None:
    client = Client(socket_path, timeout_seconds=5.0)
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            client.node()
        except (NodeNotRunningError, TemporaryError):
            code = process.poll()
            if code is not None:
                raise NodeStartError(
                    f"the node ended while it started (exit code {code}){_tail(output)}"
                ) from None
            if time.monotonic() > deadline:
                raise NodeStartError(
                    f"the node did not answer within {_START_SECONDS:g} s{_tail(output)}"
                ) from None
        else:
            status.clear()
            return
        status.show("starting a node")
        time.sleep(_POLL_SECONDS)


def _tail(output: BinaryIO) -> str:
    """The last lines that the node wrote."""
    size = output.seek(0, os.SEEK_END)
    output.seek(max(size - _TAIL_BYTES, 0))
    lines = output.read().decode("utf-8", "replace").strip().splitlines()[-5:]
    return ":\n" + "\n".join(lines) if lines else ""


def _stop(process: subprocess.Popen[bytes], status: StatusLine) -> None:
    if process.poll() is not None:
        return
    process.terminate()
    deadline = time.monotonic() + _STOP_SECONDS
    try:
        while process.poll() is None and time.monotonic() < deadline:
            status.show("stopping the node")
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.1)
    finally:
        status.clear()
        if process.poll() is None:  # too slow, or Ctrl-C again
            process.kill()
            process.wait()
            notice("the node did not stop in time and was killed")


def _remove(folder: str) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    if Path(folder).exists():
        notice(f"{folder} could not be removed entirely; it is no longer needed")
