"""Children in control groups, and waiting for what the kernel does in its own time."""

import os
import signal
import time
from contextlib import contextmanager, suppress

from limpet.linux.cgroup import CgroupBusyError

DEADLINE_SECONDS = 20


def until(condition):
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "the condition was not met in time"
        time.sleep(0.005)


def is_removed(tree):
    with suppress(CgroupBusyError):
        tree.remove()
        return True
    return False


@contextmanager
def child(group, action):
    """Fork a child that runs `action` once it is in the group; yields its pid, kills it at the end."""
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        with suppress(BaseException):
            os.close(write_end)
            os.read(read_end, 1)
            action()
        os._exit(0)
    os.close(read_end)
    try:
        group.add(pid)
        os.write(write_end, b"x")
        yield pid
    finally:
        os.close(write_end)
        with suppress(ChildProcessError):
            if os.waitpid(pid, os.WNOHANG) == (0, 0):
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)


def wait_for_exit(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
