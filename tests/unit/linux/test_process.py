"""What a process says of itself and gives up: real effects, in forked children."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
from pathlib import Path

import pytest

from limpet.linux import process

from .forked import attempt, needs_root, result_of

NOBODY = 65534


def status(field: str) -> str:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return value.strip()
    raise LookupError(field)


def test_the_name_is_what_ps_shows_cut_at_15_bytes():
    def rename() -> str:
        process.set_process_name("app:a-very-long-name")
        return Path("/proc/self/comm").read_text(encoding="utf-8").strip()

    assert result_of(rename) == "app:a-very-long"


def test_a_subreaper_becomes_the_parent_of_orphans():
    def run() -> int:
        process.become_subreaper()
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            grandchild = os.fork()
            if not grandchild:
                os._exit(7)
            os.write(writing, str(grandchild).encode())
            os._exit(0)
        os.waitpid(child, 0)
        orphan = int(os.read(reading, 20))
        # Only a parent can wait for it.
        return os.waitstatus_to_exitcode(os.waitpid(orphan, 0)[1])

    assert result_of(run) == 7


def test_a_child_dies_with_its_parent():
    def run() -> int:
        process.become_subreaper()
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            grandchild = os.fork()
            if not grandchild:
                process.die_with_parent(signal.SIGKILL)
                os.write(writing, str(os.getpid()).encode())
                signal.pause()
            os.read(reading, 20)
            os.write(writing, str(grandchild).encode())
            os._exit(0)
        os.waitpid(child, 0)
        orphan = int(os.read(reading, 20))
        return os.waitstatus_to_exitcode(os.waitpid(orphan, 0)[1])

    assert result_of(run) == -signal.SIGKILL


def test_no_new_privileges_holds_and_is_told():
    def run() -> tuple[bool, bool, str]:
        before = process.has_no_new_privileges()
        process.set_no_new_privileges()
        return before, process.has_no_new_privileges(), status("NoNewPrivs")

    assert result_of(run) == (process.has_no_new_privileges(), True, "1")


def test_core_dumps_are_off_and_the_process_files_belong_to_root():
    def run() -> tuple[tuple[int, int], int]:
        process.disable_core_dumps()
        return resource.getrlimit(resource.RLIMIT_CORE), os.stat("/proc/self/environ").st_uid

    assert result_of(run) == ((0, 0), 0)


@needs_root
def test_an_undumpable_process_can_not_open_its_own_memory():
    def run(harden: bool) -> str:
        process.become_user(NOBODY, NOBODY)
        # The change of user made it undumpable as well: start from the usual state.
        process.prctl(4, 1, what="PR_SET_DUMPABLE")
        if harden:
            process.disable_core_dumps()
        return attempt(lambda: os.close(os.open("/proc/self/mem", os.O_RDONLY)))

    assert result_of(lambda: run(harden=False)) == "ok"
    assert result_of(lambda: run(harden=True)) == "EACCES"


@needs_root
def test_becoming_a_user_leaves_no_way_back():
    def run() -> tuple[object, ...]:
        process.become_user(NOBODY, NOBODY)
        return (
            os.getresuid(),
            os.getresgid(),
            os.getgroups(),
            process.has_capabilities(),
            attempt(lambda: os.setuid(0)),
            attempt(lambda: os.setgroups([0])),
        )

    assert result_of(run) == ((NOBODY,) * 3, (NOBODY,) * 3, [], False, "EPERM", "EPERM")


@pytest.mark.parametrize(("uid", "gid"), [(-1, 5), (5, -1)])
def test_ids_that_change_nothing_are_refused(uid, gid):
    with pytest.raises(ValueError, match="must not be negative"):
        process.become_user(uid, gid)


@needs_root
def test_becoming_a_user_without_the_right_is_an_error():
    def run() -> str:
        process.drop_capabilities()
        return attempt(lambda: process.become_user(NOBODY, NOBODY))

    assert result_of(run) == "EPERM"


def test_the_effective_set_is_the_one_in_proc():
    assert process.effective_capabilities() == int(status("CapEff"), 16)


@needs_root
def test_without_capabilities_root_may_nothing_special(tmp_path):
    victim = tmp_path / "file"
    victim.touch()
    os.chown(victim, NOBODY, NOBODY)
    victim.chmod(0o600)

    def run() -> tuple[object, ...]:
        process.drop_capabilities()
        sets = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
        return (
            [int(status(name), 16) for name in sets],
            process.has_capabilities(),
            process.effective_capabilities(),
            attempt(lambda: os.chown(victim, 0, 0)),
            attempt(lambda: os.close(os.open(victim, os.O_RDONLY))),
            attempt(lambda: os.chroot("/")),
        )

    assert result_of(run) == ([0] * 5, False, 0, "EPERM", "EACCES", "EPERM")


@needs_root
def test_an_execve_as_root_brings_no_capability_back():
    def run() -> str:
        process.drop_capabilities()
        shown = subprocess.run(
            ["grep", "CapEff", "/proc/self/status"], capture_output=True, text=True, check=True
        )
        return shown.stdout.split()[1]

    assert result_of(run) == "0" * 16


@needs_root
def test_the_bounding_set_goes_first_then_the_user_then_the_rest():
    def run() -> tuple[object, ...]:
        process.drop_bounding_set()
        kept = process.has_capabilities()
        process.become_user(NOBODY, NOBODY)
        process.drop_capabilities()
        return kept, int(status("CapBnd"), 16), process.has_capabilities()

    assert result_of(run) == (True, 0, False)


@needs_root
def test_another_order_is_an_error_not_a_silence():
    def run() -> str:
        process.become_user(NOBODY, NOBODY)
        return attempt(process.drop_capabilities)

    assert result_of(run) == "EPERM"
