"""Control files: small reads and writes in which the kernel's own error is seen.

`os.write` rather than a file object: a buffered write would show the error at close, if at all.
"""

from __future__ import annotations

import os
import time
from errno import EBUSY, ENODEV, ENOENT

from limpet.linux.cgroup.model import CgroupBusyError, CgroupFileError

# 31 ms in all: the kernel takes a killed process out of its group within a few, unless it holds much.
_RETRY_SECONDS = (0.0005, 0.0005, 0.001, 0.001, 0.004, 0.008, 0.016)
_CHUNK_BYTES = 65536


def write_control(path: str, value: str) -> None:
    """Write a control file. Raises CgroupFileError with file, value and the kernel's reason."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(descriptor, value.encode("ascii"))
        finally:
            os.close(descriptor)
    except OSError as error:
        raise CgroupFileError(error.errno or 0, path, value) from error


def read_control(path: str) -> str:
    """Read a whole control file. Raises CgroupFileError."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            chunks = []
            while chunk := os.read(descriptor, _CHUNK_BYTES):
                chunks.append(chunk)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise CgroupFileError(error.errno or 0, path) from error
    return b"".join(chunks).decode("ascii")


def read_number(path: str) -> int:
    """Read a control file that holds one whole number."""
    return int(read_control(path))


def read_counters(path: str) -> dict[str, int]:
    """Read a flat keyed file, one `name number` a line, such as cpu.stat or memory.events."""
    counters = {}
    for line in read_control(path).splitlines():
        name, _, number = line.partition(" ")
        counters[name] = int(number)
    return counters


def read_pids(directory: str) -> list[int]:
    """Return the processes in a group; none when the group itself is gone.

    Processes of another pid namespace, which the kernel lists as 0, are left out: to kill(2) and to
    cgroup.procs 0 means the caller.
    """
    try:
        pids = [int(line) for line in read_control(f"{directory}/cgroup.procs").split()]
        return [pid for pid in pids if pid != 0]
    except CgroupFileError as error:
        if error.errno in {ENOENT, ENODEV}:
            return []
        raise


def make_directory(path: str) -> None:
    """Make a group's directory. Raises FileExistsError, or CgroupFileError for any other reason."""
    try:
        os.mkdir(path, 0o755)
    except FileExistsError:
        raise
    except OSError as error:
        raise CgroupFileError(error.errno or 0, path) from error


def remove_directory(path: str) -> None:
    """Remove a group's directory if it is there.

    Tries again for some 31 ms while the kernel still empties the group. Raises CgroupBusyError when it
    holds processes or groups even then, CgroupFileError for any other reason.
    """
    for seconds in (*_RETRY_SECONDS, None):
        try:
            os.rmdir(path)
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno != EBUSY:
                raise CgroupFileError(error.errno or 0, path) from error
            if seconds is None:
                raise CgroupBusyError(
                    EBUSY, f"{len(read_pids(path))} processes are still in the group", path
                ) from error
            time.sleep(seconds)
        else:
            return
