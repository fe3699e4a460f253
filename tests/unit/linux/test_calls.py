"""Reaching the kernel: results, errors and names."""

from __future__ import annotations

import errno
import os

import pytest

from limpet.linux.calls import check, libc, number_of, prctl, syscall


def test_a_system_call_returns_what_the_kernel_returned():
    assert syscall("getpid") == os.getpid()


def test_a_refusal_says_which_call_and_why():
    with pytest.raises(FileNotFoundError, match="openat: No such file") as refused:
        syscall("openat", -100, b"/there is no such file", 0, 0)
    assert refused.value.errno == errno.ENOENT


def test_a_failed_libc_function_names_what_was_tried():
    with pytest.raises(OSError, match="umount2"):
        check(libc.umount2(b"/there is no such mount", 0), "umount2")


def test_a_call_that_the_architecture_lacks_is_not_implemented():
    assert number_of("no_such_call") == -1
    with pytest.raises(OSError, match="no_such_call") as refused:
        syscall("no_such_call")
    assert refused.value.errno == errno.ENOSYS


def test_an_unknown_prctl_is_refused_with_its_name():
    with pytest.raises(OSError, match=r"prctl\(PR_UNKNOWN\): Invalid argument"):
        prctl(0x7FFF, what="PR_UNKNOWN")
