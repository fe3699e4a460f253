import mmap
import os
import subprocess
import sys
import time

from limpet.telemetry.process import read_usage


def test_a_process_has_memory_and_time():
    usage = read_usage(os.getpid())
    assert 1 << 20 < usage.uss_bytes <= usage.pss_bytes < 1 << 34
    assert usage.cpu_seconds > 0


def test_private_memory_counts_fully():
    before = read_usage(os.getpid())
    with mmap.mmap(-1, 32 << 20) as memory:
        memory.write(b"x" * len(memory))
        during = read_usage(os.getpid())
    assert during.uss_bytes - before.uss_bytes >= 30 << 20
    assert during.pss_bytes - before.pss_bytes >= 30 << 20


def test_time_is_the_process_s_own():
    before = read_usage(os.getpid()).cpu_seconds
    end = time.process_time() + 0.05
    while time.process_time() < end:
        pass
    assert 0.02 <= read_usage(os.getpid()).cpu_seconds - before <= 5


def test_a_name_can_not_confuse():
    script = (
        "import ctypes, sys\n"
        "ctypes.CDLL(None).prctl(15, b') R 1 2 (', 0, 0, 0)\n"
        "print(flush=True)\nsys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        child.stdout.readline()
        usage = read_usage(child.pid)
        assert usage.pss_bytes > 0
        assert 0 <= usage.cpu_seconds < 60
        child.stdin.close()


def test_a_process_that_has_ended_has_nothing():
    child = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert read_usage(child.pid) is None, "it waits to be reaped"
    child.wait()
    assert read_usage(child.pid) is None
