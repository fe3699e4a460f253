"""Native code in a worker makes the system calls that attacks begin with. Each ends it, and is told."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from typing import Any

import pytest
from attack_node import AttackNode, outside
from running_node import wait_for

from limpet.linux.calls import number_of

AT_FDCWD = -100
NOWHERE = "/nowhere/at-all"

# One call each, with arguments that harm nobody where it is carried out: outside, as the control.
KILLED: dict[str, list[Any]] = {
    # Another process
    "fork": [],
    "vfork": [],
    "clone": [signal.SIGCHLD, 0, 0, 0, 0],
    "execve": [NOWHERE, None, None],
    "execveat": [AT_FDCWD, NOWHERE, None, None, 0],
    "kill": [1 << 22, 0],
    "tkill": [1 << 22, 0],
    "rt_sigqueueinfo": [1 << 22, 0, None],
    "pidfd_open": [1 << 22, 0],
    "pidfd_send_signal": [-1, 0, None, 0],
    "pidfd_getfd": [-1, 0, 0],
    "ptrace": [16, 1 << 22, 0, 0],
    "process_vm_readv": [1 << 22, None, 0, None, 0, 0],
    "process_vm_writev": [1 << 22, None, 0, None, 0, 0],
    "kcmp": [1 << 22, 1 << 22, 0, 0, 0],
    "process_madvise": [-1, None, 0, 0, 0],
    "wait4": [-1, None, 1, None],
    "setpriority": [0, 1 << 22, 0],
    "sched_setscheduler": [1 << 22, 0, None],
    "sched_setaffinity": [1 << 22, 0, None],
    "ioprio_set": [1, 1 << 22, 0],
    "migrate_pages": [1 << 22, 0, None, None],
    # Another network
    "socket": [socket.AF_INET, socket.SOCK_DGRAM, 0],
    "socketpair": [socket.AF_UNIX, socket.SOCK_STREAM, 0, {"room": 8}],
    "connect": [-1, None, 0],
    "bind": [-1, None, 0],
    "listen": [-1, 1],
    "sendmsg": [-1, None, 0],
    "sendmmsg": [-1, None, 0, 0],
    "io_uring_setup": [1, {"room": 120}],
    "io_uring_enter": [-1, 0, 0, 0, None],
    "io_setup": [1, {"room": 8}],
    # Another view of the files
    "mount": [NOWHERE, NOWHERE, "ext4", 0, None],
    "umount2": [NOWHERE, 0],
    "pivot_root": [NOWHERE, NOWHERE],
    "chroot": [NOWHERE],
    "chdir": [NOWHERE],
    "fchdir": [-1],
    "unshare": [0],
    "setns": [-1, 0],
    "open_tree": [AT_FDCWD, NOWHERE, 0],
    "move_mount": [-1, "", -1, "", 0],
    "fsopen": ["nosuchfs", 0],
    "mount_setattr": [-1, NOWHERE, 0, None, 0],
    "name_to_handle_at": [AT_FDCWD, NOWHERE, {"room": 8}, {"room": 4}, 0],
    "open_by_handle_at": [-1, {"room": 128}, 0],
    "mknodat": [AT_FDCWD, NOWHERE, 0o20666, 0x101],
    "fchownat": [AT_FDCWD, NOWHERE, 0, 0, 0],
    "fchown": [-1, 0, 0],
    "fchmod": [-1, 0o4777],
    "fchmodat": [AT_FDCWD, NOWHERE, 0o4777],
    "setxattr": [NOWHERE, "user.x", "x", 1, 0],
    "fsetxattr": [-1, "user.x", "x", 1, 0],
    "inotify_init1": [0],
    "fanotify_init": [0, 0],
    "quotactl": [0x7FFFFF, None, 0, None],
    "swapon": [NOWHERE, 0],
    "swapoff": [NOWHERE],
    "acct": [NOWHERE],
    # Other rights
    "setuid": [os.getuid()],
    "setresuid": [-1, -1, -1],
    "setgroups": [-1, None],
    "capset": [None, None],
    "seccomp": [2, 0, {"room": 4}],
    "personality": [0xFFFFFFFF],
    "keyctl": [0, -3, 0],
    "add_key": ["nosuchtype", "x", None, 0, -3],
    "request_key": ["nosuchtype", "x", None, 0],
    "landlock_create_ruleset": [None, 0, 1],
    # The device
    "init_module": [None, 0, ""],
    "finit_module": [-1, "", 0],
    "delete_module": ["no_such_module", 0],
    "kexec_load": [0, 1 << 20, None, 0],
    "kexec_file_load": [-1, -1, 0, None, 0],
    "reboot": [0, 0, 0, None],
    "settimeofday": [None, None],
    "clock_settime": [1 << 20, None],
    "adjtimex": [None],
    "sethostname": [None, 1 << 10],
    "setdomainname": [None, 1 << 10],
    "syslog": [10, None, 0],
    "bpf": [0x7FFF, None, 0],
    "perf_event_open": [None, 0, -1, -1, 0],
    "userfaultfd": [1],
    "vhangup": [],
    "lookup_dcookie": [0, None, 0],
    "iopl": [-1],
    "modify_ldt": [0, None, 0],
    # What shares memory or queues between processes
    "shmget": [0x7FFF0001, 4096, 0],
    "msgget": [0x7FFF0001, 0],
    "semget": [0x7FFF0001, 1, 0],
    "mq_open": ["nosuchqueue", 0, 0, None],
    "memfd_secret": [1 << 20],
    # Numbers that are nobody's
    "5000": [],
    "1073741825": [],  # x32's way to call the second one
}
# Elsewhere these end something even where they are refused here, so there is no control for them.
_WITHOUT_CONTROL = {"vfork", "vhangup"}
PRESENT = [name for name in KILLED if name.isdigit() or number_of(name) >= 0]

# Calls that are not worth a life: libraries make them and go on without.
ANSWERED: dict[str, tuple[list[Any], str]] = {
    "clone3": ([None, 0], "ENOSYS"),
    "prctl": ([4, 1, 0, 0, 0], "EINVAL"),  # PR_SET_DUMPABLE
    "prlimit64": ([0, 7, {"room": 16}, None], "EPERM"),
    "ioctl": ([0, 0x5412, "x"], "ENOTTY"),  # TIOCSTI
}


@pytest.fixture(scope="module")
def endings(attacked_node: AttackNode) -> dict[str, dict[str, Any]]:
    """How a Job ended for each of the calls."""
    found = {}
    for start in range(0, len(PRESENT), 16):
        names = PRESENT[start : start + 16]
        for name in names:
            attacked_node.start_job(_job(name), "call", name=name, args=KILLED[name])
        for name in names:
            status = attacked_node.end_of(_job(name))
            events = attacked_node.events(_job(name), "SystemCallDenied")
            found[name] = {**status, "events": events, "log": attacked_node.logs(_job(name))}
            attacked_node.delete("Job", _job(name))
    return found


def _job(name: str) -> str:
    return f"call-{name.replace('_', '-')}"


@pytest.mark.parametrize("name", PRESENT)
def test_a_call_that_no_app_needs_ends_its_worker(
    endings: dict[str, dict[str, Any]], name: str
) -> None:
    status = endings[name]
    assert (status["phase"], status["reason"]) == ("Failed", "SystemCallDenied"), status
    assert len(status["events"]) == 1
    assert status["events"][0]["type"] == "Warning"


@pytest.mark.parametrize("name", [name for name in PRESENT if name not in _WITHOUT_CONTROL])
def test_outside_a_worker_the_kernel_answers_that_call(name: str) -> None:
    """The control: without walls the same call returns, well or with an error."""
    ending = outside("call", {"name": name, "args": KILLED[name]})
    if name in ("fork", "clone"):
        assert isinstance(ending.result, int)
        assert ending.result > 0
    else:
        assert ending.signal == 0, "the call itself ends a process here: it proves nothing"


@pytest.mark.parametrize("name", list(ANSWERED))
def test_a_call_that_libraries_try_is_refused(node: AttackNode, name: str) -> None:
    args, error = ANSWERED[name]
    node.place_escaped("evil")
    assert node.run("evil", "call", name=name, args=args) == error


def test_another_architectures_gate_is_shut(node: AttackNode) -> None:
    if os.uname().machine != "x86_64":
        pytest.skip("only x86 has a second gate that code can go through at will")
    node.start_job("gate", "foreign_gate")
    assert node.end_of("gate")["reason"] == "SystemCallDenied"


def test_own_machine_code_may_be_run(node: AttackNode) -> None:
    """Not a wall: code that is already inside gains nothing by bringing more."""
    node.place_escaped("evil")
    assert node.run("evil", "run_memory") is True


def test_a_kill_is_shown_to_people_and_harms_nobody_else(node: AttackNode) -> None:
    node.place_escaped("evil")
    node.place_escaped("neighbour")
    neighbour = node.worker_pid("neighbour")
    before = node.worker_pid("evil")
    node.exchange("evil", _request("call", '{"name": "fork"}'))
    wait_for(lambda: node.events("evil", "SystemCallDenied"), "the event")
    status = node.wait_ready("evil")
    assert node.worker_pid("evil") != before
    [worker] = status["workers"]
    assert (worker["last_exit"]["reason"], worker["last_exit"]["signal"]) == (
        "SystemCallDenied",
        "SIGSYS",
    )
    assert "SystemCallDenied" in _describe(node, "evil")
    assert node.worker_pid("neighbour") == neighbour
    assert node.run("neighbour", "identity")["pid"] == 1


def test_a_worker_cannot_hide_why_it_was_killed(node: AttackNode) -> None:
    """What it says of itself before does not count against what the kernel says."""
    last_words = {
        "type": "Finished", "reason": "Completed", "exit_code": 0, "message": "", "memory_bytes": 0,
    }  # fmt: skip
    node.start_job("liar", "tell_and_end", messages=[last_words], name="fork", args=[])
    assert node.end_of("liar")["reason"] == "SystemCallDenied"


def _request(run: str, body: str) -> bytes:
    head = f"POST /?run={run} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    return (head + body).encode()


def _describe(node: AttackNode, name: str) -> str:
    command = [sys.executable, "-m", "limpet", "--socket", str(node.socket_path), "describe", name]
    shown = subprocess.run(
        command, env=node.environment(), capture_output=True, timeout=60, check=True
    )
    return shown.stdout.decode()


def test_what_apps_need_is_left_to_them(node: AttackNode) -> None:
    """The control of the kills: it is not that every call ends a worker."""
    node.place_escaped("evil")
    assert node.run("evil", "calls", wanted=[["getpid"], ["sched_yield"]]) == [1, 0]
