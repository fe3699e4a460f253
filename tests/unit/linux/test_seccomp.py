"""Filters of system calls: the programs by an interpreter of their machine, and real effects."""

from __future__ import annotations

import errno
import os
import signal
import socket
import struct
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limpet.linux import seccomp
from limpet.linux.calls import syscall
from limpet.linux.process import become_user, set_no_new_privileges
from limpet.linux.seccomp import (
    ALLOW,
    ALWAYS,
    ERRNO,
    INT,
    KILL_PROCESS,
    WHOLE,
    Condition,
    build_filter,
)
from limpet.linux.syscalls import MACHINES, parse_numbers

from .forked import attempt, end_of, needs_root, result_of

needs_seccomp = pytest.mark.skipif(
    not seccomp.is_available(), reason="needs a kernel that filters system calls"
)
ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
NAMES = sorted(set().union(*(parse_numbers(machine) for machine in MACHINES)))


def interpret(program, architecture, number, arguments=(0,) * 6):
    """Run a classic BPF program on a struct seccomp_data; return its value and the steps it took."""
    data = struct.pack("<iIQ6Q", number - (number >> 31 << 32), architecture, 0, *arguments)
    code = list(struct.iter_unpack("=HBBI", program))
    accumulator = position = steps = 0
    while True:
        operation, if_true, if_false, value = code[position]
        position += 1
        steps += 1
        match operation:
            case 0x20:
                assert value % 4 == 0
                (accumulator,) = struct.unpack_from("<I", data, value)
            case 0x54:
                accumulator &= value
            case 0x05:
                position += value
            case 0x15:
                position += if_true if accumulator == value else if_false
            case 0x35:
                position += if_true if accumulator >= value else if_false
            case 0x06:
                return value, steps
            case _:
                raise AssertionError(f"operation {operation:#x} at {position - 1}")


def verdict(program, machine, name, *arguments):
    padded = (*arguments, *(0,) * (6 - len(arguments)))
    number = parse_numbers(machine)[name]
    return interpret(program, ARCHITECTURES[machine], number, padded)[0]


def expected(allowed, answers, name, arguments):
    """The meaning of a filter, written down once more without a program."""
    for alternative in allowed.get(name, ()):
        if all(arguments[each.argument] & each.mask == each.value for each in alternative):
            return ALLOW
    return ERRNO | answers[name] if name in answers else KILL_PROCESS


words = st.one_of(
    st.integers(0, 3),
    st.integers(0, WHOLE),
    st.sampled_from([INT, INT + 1, WHOLE, 1 << 31, 1 << 32, 1 << 63]),
)
masks = st.one_of(words, st.just(WHOLE), st.just(INT))
conditions = st.builds(
    lambda argument, value, mask: Condition(argument, value & mask, mask),
    st.integers(0, 5),
    words,
    masks,
)
alternatives = st.one_of(
    st.just(ALWAYS), st.lists(st.lists(conditions, max_size=4), min_size=1, max_size=3)
)
names = st.sampled_from(NAMES)
filters = st.tuples(
    st.dictionaries(names, alternatives, max_size=60),
    st.dictionaries(names, st.integers(0, 4095), max_size=10),
)


@st.composite
def calls(draw, allowed, answers):
    """A call's name and arguments, near to what the filter asks for."""
    name = draw(st.sampled_from(sorted({*allowed, *answers, "read", "mount"})))
    arguments = [draw(words) for _ in range(6)]
    for alternative in allowed.get(name, ()):
        if draw(st.booleans()):
            for each in alternative:
                arguments[each.argument] = each.value | arguments[each.argument] & ~each.mask
    return name, arguments


@pytest.mark.parametrize("machine", MACHINES)
@given(data=st.data(), rules=filters)
def test_the_program_does_what_the_rules_say(machine, data, rules):
    allowed, answers = rules
    program = build_filter(allowed, answers=answers, machine=machine)
    numbers = parse_numbers(machine)
    name, arguments = data.draw(calls(allowed, answers))
    if name in numbers:
        found, _ = interpret(program, ARCHITECTURES[machine], numbers[name], arguments)
        assert found == expected(allowed, answers, name, arguments)


@pytest.mark.parametrize("machine", MACHINES)
@given(rules=filters, number=st.integers(0, 0xFFFF_FFFF), arguments=st.tuples(*[words] * 6))
def test_any_number_is_judged_and_unknown_ones_kill(machine, rules, number, arguments):
    allowed, answers = rules
    program = build_filter(allowed, answers=answers, machine=machine)
    name = {number: name for name, number in parse_numbers(machine).items()}.get(number, "")
    found, _ = interpret(program, ARCHITECTURES[machine], number, arguments)
    assert found == expected(allowed, answers, name, arguments)


@pytest.mark.parametrize("machine", MACHINES)
def test_every_number_of_a_long_list_is_found(machine):
    numbers = parse_numbers(machine)
    allowed = dict.fromkeys(sorted(numbers)[::2], ALWAYS)
    program = build_filter(allowed, machine=machine)
    results = {name: verdict(program, machine, name) for name in numbers}
    assert results == {name: ALLOW if name in allowed else KILL_PROCESS for name in numbers}


@pytest.mark.parametrize("machine", MACHINES)
def test_calls_of_another_architecture_kill(machine):
    program = build_filter(dict.fromkeys(NAMES, ALWAYS), machine=machine)
    own = ARCHITECTURES[machine]
    assert interpret(program, own, 0)[0] == ALLOW
    for architecture in (set(ARCHITECTURES.values()) | {0x40000003, 0x40000028}) - {own}:
        assert interpret(program, architecture, 0)[0] == KILL_PROCESS


def test_the_x32_numbers_kill():
    program = build_filter(dict.fromkeys(NAMES, ALWAYS), machine="x86_64")
    for number in range(600):
        found, _ = interpret(program, ARCHITECTURES["x86_64"], 0x4000_0000 | number)
        assert found == KILL_PROCESS


def test_a_name_of_the_other_architecture_is_left_out():
    rules = {"epoll_wait": ALWAYS, "epoll_pwait": ALWAYS}
    assert verdict(build_filter(rules, machine="x86_64"), "x86_64", "epoll_wait") == ALLOW
    assert build_filter(rules, machine="aarch64") == build_filter(
        {"epoll_pwait": ALWAYS}, machine="aarch64"
    )


def test_conditions_are_anded_alternatives_ored_and_the_rest_is_answered():
    stream = [Condition(0, socket.AF_INET, INT), Condition(1, socket.SOCK_STREAM, 0xF)]
    local = [Condition(0, socket.AF_UNIX, INT)]
    program = build_filter(
        {"socket": [stream, local]}, answers={"socket": errno.EAFNOSUPPORT}, machine="x86_64"
    )

    def ask(*arguments):
        return verdict(program, "x86_64", "socket", *arguments)

    assert ask(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) == ALLOW
    assert ask(socket.AF_INET | 7 << 32, socket.SOCK_STREAM) == ALLOW
    assert ask(socket.AF_UNIX, socket.SOCK_DGRAM) == ALLOW
    assert ask(socket.AF_INET, socket.SOCK_DGRAM) == ERRNO | errno.EAFNOSUPPORT
    assert ask(socket.AF_NETLINK, socket.SOCK_STREAM) == ERRNO | errno.EAFNOSUPPORT


def test_whole_arguments_are_compared_in_both_halves():
    value = 0x1234_5678_9ABC_DEF0
    program = build_filter({"read": [[Condition(5, value)]]}, machine="aarch64")
    assert verdict(program, "aarch64", "read", 0, 0, 0, 0, 0, value) == ALLOW
    for wrong in (value ^ 1, value ^ 1 << 63, value & INT, value >> 32):
        assert verdict(program, "aarch64", "read", 0, 0, 0, 0, 0, wrong) == KILL_PROCESS


@pytest.mark.parametrize("machine", MACHINES)
def test_a_typical_list_is_short_and_quick(machine):
    numbers = parse_numbers(machine)
    allowed = dict.fromkeys(sorted(numbers)[::4], ALWAYS)
    program = build_filter(allowed, machine=machine)
    steps = [interpret(program, ARCHITECTURES[machine], number)[1] for number in range(500)]
    assert len(program) // 8 < 5 * len(allowed)
    assert max(steps) <= 4 + 1 + (2 * len(allowed) + 1).bit_length() * 2


@pytest.mark.parametrize(
    ("rules", "answers", "message"),
    [
        ({"raed": ALWAYS}, {}, "called raed"),
        ({}, {"opne": 1}, "called opne"),
        ({"read": ()}, {}, "write ALWAYS"),
        ({}, {"read": 4096}, "no errno"),
        ({}, {"read": -1}, "no errno"),
        ({"read": [[Condition(0, 1)] * 90]}, {}, "read has an alternative with too many"),
        ({"read": [[Condition(0, n)] for n in range(900)]}, {}, "4096"),
    ],
)
def test_rules_that_make_no_program_are_refused(rules, answers, message):
    with pytest.raises(ValueError, match=message):
        build_filter(rules, answers=answers, machine="x86_64")


@pytest.mark.parametrize(
    ("fields", "message"),
    [((6, 0), "0 to 5"), ((-1, 0), "0 to 5"), ((0, 4, 3), "never"), ((0, 0, 1 << 64), "64 bits")],
)
def test_conditions_that_can_not_hold_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Condition(*fields)


def test_an_unknown_machine_is_refused():
    with pytest.raises(OSError, match="riscv64"):
        build_filter({}, machine="riscv64")


# What the interpreter and the child's report need, besides what a test is about.
BASIC = """
    read write close fstat newfstatat lseek mmap munmap mremap mprotect madvise brk futex
    rt_sigaction rt_sigprocmask rt_sigreturn exit exit_group getpid gettid getrandom rseq
    set_robust_list sched_yield clock_gettime clock_nanosleep
"""
PYTHON = dict.fromkeys(BASIC.split(), ALWAYS)


def filtered(function, rules, answers=None):
    """Return a function that restricts its process first."""
    program = build_filter({**PYTHON, **rules}, answers=answers)

    def run():
        set_no_new_privileges()
        seccomp.install(program)
        return function()

    return run


@needs_seccomp
def test_an_allowed_call_works_and_another_one_ends_the_process():
    assert result_of(filtered(os.getpid, {})) != 0
    assert end_of(filtered(os.getpgrp, {})).code == -signal.SIGSYS
    assert end_of(filtered(lambda: os.listdir("/"), {})).code == -signal.SIGSYS


@needs_seccomp
def test_an_answered_call_fails_with_its_errno():
    def run():
        return attempt(lambda: os.kill(os.getpid(), 0)), attempt(lambda: syscall("io_uring_setup"))

    answers = {"kill": errno.EPERM, "io_uring_setup": errno.ENOSYS}
    assert result_of(filtered(run, {}, answers)) == ("EPERM", "ENOSYS")


@needs_seccomp
def test_sockets_of_other_domains_are_refused():
    def run():
        return (
            attempt(lambda: socket.socket(socket.AF_INET).close()),
            attempt(lambda: socket.socket(socket.AF_UNIX).close()),
        )

    rules = {"socket": [[Condition(0, socket.AF_INET, INT)]]}
    assert result_of(filtered(run, rules, {"socket": errno.EAFNOSUPPORT})) == ("ok", "EAFNOSUPPORT")
    assert end_of(filtered(run, rules)).code == -signal.SIGSYS


CLONE_THREAD = 0x10000


@needs_seccomp
def test_threads_may_be_allowed_and_processes_not():
    def start_thread():
        thread = threading.Thread(target=os.getpid)
        thread.start()
        thread.join()
        return "ran"

    rules = {"clone": [[Condition(0, CLONE_THREAD, CLONE_THREAD)]]}
    # The flags of clone3 are in memory, out of a filter's sight: libc falls back to clone.
    answers = {"clone3": errno.ENOSYS}
    assert result_of(filtered(start_thread, rules, answers)) == "ran"
    assert end_of(filtered(os.fork, rules, answers)).code == -signal.SIGSYS


@needs_seccomp
def test_threads_that_run_already_are_restricted_along():
    def run():
        go = threading.Event()
        thread = threading.Thread(target=lambda: (go.wait(), os.getpgrp()))
        thread.start()
        filtered(go.set, {})()
        thread.join()

    assert end_of(run).code == -signal.SIGSYS


@needs_seccomp
@needs_root
def test_installing_needs_no_new_privileges():
    def run():
        become_user(65534, 65534)
        return attempt(lambda: seccomp.install(build_filter(PYTHON)))

    assert result_of(run) == "EACCES"


@needs_seccomp
def test_what_is_no_program_is_refused():
    def run():
        set_no_new_privileges()
        return attempt(lambda: seccomp.install(b"\0" * 12)), attempt(lambda: seccomp.install(b""))

    assert result_of(run) == ("EINVAL", "EINVAL")


@needs_seccomp
@needs_root
def test_the_first_process_of_a_namespace_dies_too():
    from limpet.linux.namespaces import fresh_pid_namespace

    def run():
        fresh_pid_namespace(os.open("/proc/self/ns/pid", os.O_RDONLY))
        child = os.fork()
        if not child:
            filtered(os.getpgrp, {})()
            os._exit(0)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    assert result_of(run) == -signal.SIGSYS
