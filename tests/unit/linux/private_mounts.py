"""Runs tests that mount: each in a thread with a mount namespace of its own, which ends with it."""

import ctypes
import functools
import os
import threading
import time
from pathlib import Path

import pytest

from limpet.linux import mount

_CLONE_NEWNS = 0x20000

needs_loop_devices = pytest.mark.skipif(
    os.geteuid() != 0 or not os.path.exists("/dev/loop-control"),
    reason="needs root and loop devices",
)


def enter_private_mounts():
    """Nothing that this thread mounts is seen outside; the rest of the process stays where it is."""
    if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNS):
        raise OSError(ctypes.get_errno(), "unshare")
    mount.mount(None, "/", None, flags=mount.MS_REC | mount.MS_PRIVATE)


def privately(test):
    """Decorate a test with it."""

    @functools.wraps(test)
    def run(*arguments, **named):
        failures = []

        def work():
            try:
                enter_private_mounts()
                test(*arguments, **named)
            except BaseException as error:
                failures.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        if failures:
            raise failures[0]

    return run


def attached_below(folder):
    """Return the backing files below a folder that have a loop device, one entry for each device."""
    found = []
    for path in Path("/sys/block").glob("loop*/loop/backing_file"):
        try:
            name = path.read_text().strip()
        except OSError:  # detached meanwhile
            continue
        if name.startswith(f"{folder}/"):
            found.append(name)
    return found


def wait_until_detached(folder):
    """A namespace goes a moment after its last process or thread."""
    until = time.monotonic() + 10
    while attached_below(folder):
        assert time.monotonic() < until, f"still attached: {attached_below(folder)}"
        time.sleep(0.01)
