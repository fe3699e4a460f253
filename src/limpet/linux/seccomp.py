"""seccomp: a list of system calls that a process may make; any other one ends it.

The list becomes a program for the kernel's classic BPF machine, which runs at every system call
(seccomp(2), Documentation/userspace-api/seccomp_filter.rst). Numbers are looked up by binary search
over ranges of equal treatment, so a call costs the logarithm of their count. Calls that are allowed
whatever their arguments the kernel remembers (since 5.11) and doesn't run the program for.
"""

from __future__ import annotations

import ctypes
import errno
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from limpet.linux.calls import MACHINE, syscall
from limpet.linux.syscalls import MACHINES, parse_numbers

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

# linux/seccomp.h
_SET_MODE_FILTER = 1
_GET_ACTION_AVAIL = 2
_FILTER_FLAG_TSYNC = 1
KILL_PROCESS = 0x8000_0000
ALLOW = 0x7FFF_0000
ERRNO = 0x0005_0000  # the errno in the low 16 bits
_MAX_ERRNO = 4095

# linux/audit.h, AUDIT_ARCH_*: the ELF machine, 64-bit, little-endian
_ARCHITECTURES = {"x86_64": 0xC000_003E, "aarch64": 0xC000_00B7}

# struct seccomp_data: where the program finds what it judges
_NUMBER_OFFSET = 0
_ARCHITECTURE_OFFSET = 4
_ARGUMENTS_OFFSET = 16
_ARGUMENTS = 6

# linux/bpf_common.h
_LOAD = 0x20  # BPF_LD | BPF_W | BPF_ABS
_AND = 0x54  # BPF_ALU | BPF_AND | BPF_K
_JUMP = 0x05  # BPF_JMP | BPF_JA
_JUMP_IF_EQUAL = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_JUMP_IF_AT_LEAST = 0x35  # BPF_JMP | BPF_JGE | BPF_K
_RETURN = 0x06  # BPF_RET | BPF_K
_MAX_INSTRUCTIONS = 4096
_MAX_CONDITIONAL_JUMP = 255

_WORD = 0xFFFF_FFFF
WHOLE = 0xFFFF_FFFF_FFFF_FFFF
INT = _WORD  # the mask for an argument that the kernel takes as a C int: it ignores the rest


@dataclass(frozen=True, slots=True)
class Condition:
    """Holds when `argument & mask == value`; arguments count from 0 and have 64 bits.

    What the kernel takes as an int (a domain, a descriptor) is compared with the mask INT: callers
    may leave anything in the upper half. Memory that an argument points to can't be judged.
    """

    argument: int
    value: int
    mask: int = WHOLE

    def __post_init__(self) -> None:
        if not 0 <= self.argument < _ARGUMENTS:
            raise ValueError(f"argument {self.argument}: system calls have arguments 0 to 5")
        if not 0 <= self.mask <= WHOLE:
            raise ValueError(f"mask {self.mask:#x} is not one of 64 bits")
        if self.value & ~self.mask:
            raise ValueError(f"value {self.value:#x} never equals anything & {self.mask:#x}")


# A call is allowed where all conditions of one alternative hold.
Alternatives: TypeAlias = "Sequence[Sequence[Condition]]"
ALWAYS: Alternatives = ((),)


class _Instruction(NamedTuple):
    """`struct sock_filter`: the two jumps count the instructions that are skipped."""

    code: int
    value: int
    if_true: int = 0
    if_false: int = 0


_Code: TypeAlias = tuple[_Instruction, ...]


def build_filter(
    allowed: Mapping[str, Alternatives],
    *,
    answers: Mapping[str, int] | None = None,
    machine: str | None = None,
) -> bytes:
    """Return the program that allows these calls, by name, and ends the process at any other one.

    `answers` gives calls that fail with an errno instead, for what libraries try and can do without;
    a call in both mappings is answered where none of its alternatives holds. Calls of another
    architecture (32-bit, x32) always end the process. Names that only the other supported
    architecture has are left out. `machine` is as `os.uname` names it, by default this one.

    Raises ValueError for a name that no supported architecture has, for a call without alternatives,
    an errno outside 0 to 4095 and a program above the kernel's 4096 instructions; OSError for a
    machine that is not supported.
    """
    machine = machine or MACHINE
    answers = answers or {}
    _check_names([*allowed, *answers])
    numbers = parse_numbers(machine)
    treatments = {
        numbers[name]: _compile_treatment(name, allowed.get(name), answers.get(name))
        for name in (*allowed, *answers)
        if name in numbers
    }
    program = (
        _Instruction(_LOAD, _ARCHITECTURE_OFFSET),
        _Instruction(_JUMP_IF_EQUAL, _ARCHITECTURES[machine], if_true=1),
        _Instruction(_RETURN, KILL_PROCESS),
        _Instruction(_LOAD, _NUMBER_OFFSET),
        *_compile_search(_to_ranges(treatments)),
    )
    if len(program) > _MAX_INSTRUCTIONS:
        raise ValueError(
            f"the filter has {len(program)} instructions, the kernel takes {_MAX_INSTRUCTIONS}: "
            "use fewer conditions"
        )
    return b"".join(
        struct.pack("=HBBI", each.code, each.if_true, each.if_false, each.value) for each in program
    )


def install(program: bytes) -> None:
    """Put all threads of this process, and what they start, under a program of `build_filter`.

    It can't be undone; a further one narrows it. Needs `no_new_privs` or CAP_SYS_ADMIN. Raises
    OSError: EACCES without either, EINVAL for what is no program, EBUSY when a thread is under
    another filter already.
    """
    buffer = ctypes.create_string_buffer(program, len(program))
    description = _ProgramDescription(len(program) // 8, ctypes.addressof(buffer))
    thread = syscall("seccomp", _SET_MODE_FILTER, _FILTER_FLAG_TSYNC, ctypes.byref(description))
    if thread:
        raise OSError(errno.EBUSY, f"seccomp: thread {thread} is under another filter already")


def is_available() -> bool:
    """Return whether this kernel filters system calls and can end a process that breaks the rules."""
    action = ctypes.c_uint32(KILL_PROCESS)
    try:
        syscall("seccomp", _GET_ACTION_AVAIL, 0, ctypes.byref(action))
    except OSError as error:
        if error.errno in (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP):
            return False
        raise
    return True


class _ProgramDescription(ctypes.Structure):
    """`struct sock_fprog`."""

    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p))


def _check_names(names: Iterable[str]) -> None:
    known = set().union(*(parse_numbers(machine) for machine in MACHINES))
    if unknown := sorted(set(names) - known):
        raise ValueError(f"no system call is called {', '.join(unknown)}")


def _compile_treatment(name: str, alternatives: Alternatives | None, answer: int | None) -> _Code:
    """Code for one call: it always ends in a return."""
    if alternatives is not None and not alternatives:
        raise ValueError(f"{name} is allowed without an alternative: write ALWAYS, or leave it out")
    if answer is not None and not 0 <= answer <= _MAX_ERRNO:
        raise ValueError(f"{name} is answered by {answer}, which is no errno")
    otherwise = _Instruction(_RETURN, KILL_PROCESS if answer is None else ERRNO | answer)
    code: list[_Instruction] = []
    for conditions in alternatives or ():
        code += _compile_alternative(name, conditions)
        if len(conditions) == 0:
            return tuple(code)
    return (*code, otherwise)


def _compile_alternative(name: str, conditions: Sequence[Condition]) -> _Code:
    """Code that allows the call where all conditions hold and else goes on behind its own end."""
    code: _Code = (_Instruction(_RETURN, ALLOW),)
    for condition in reversed(conditions):
        low = _ARGUMENTS_OFFSET + 8 * condition.argument  # both architectures are little-endian
        for offset, shift in ((low + 4, 32), (low, 0)):
            mask = condition.mask >> shift & _WORD
            if not mask:
                continue
            if len(code) > _MAX_CONDITIONAL_JUMP:
                raise ValueError(f"{name} has an alternative with too many conditions")
            code = (
                _Instruction(_LOAD, offset),
                *((_Instruction(_AND, mask),) if mask != _WORD else ()),
                _Instruction(_JUMP_IF_EQUAL, condition.value >> shift & _WORD, if_false=len(code)),
                *code,
            )
    return code


def _to_ranges(treatments: Mapping[int, _Code]) -> list[tuple[int, _Code]]:
    """Cover all numbers: each range's first number and how calls from there on are treated.

    Numbers with the x32 bit (0x40000000) are in the last range, which kills.
    """
    kill = (_Instruction(_RETURN, KILL_PROCESS),)
    ranges: list[tuple[int, _Code]] = []
    for number in sorted({0, *treatments, *(number + 1 for number in treatments)}):
        treatment = treatments.get(number, kill)
        if not ranges or treatment != ranges[-1][1]:
            ranges.append((number, treatment))
    return ranges


def _compile_search(ranges: Sequence[tuple[int, _Code]]) -> _Code:
    """Code that finds the range of the number in the accumulator and runs its treatment."""
    if len(ranges) == 1:
        return ranges[0][1]
    middle = len(ranges) // 2
    below, above = _compile_search(ranges[:middle]), _compile_search(ranges[middle:])
    pivot = ranges[middle][0]
    if len(below) <= _MAX_CONDITIONAL_JUMP:
        return (_Instruction(_JUMP_IF_AT_LEAST, pivot, if_true=len(below)), *below, *above)
    return (
        _Instruction(_JUMP_IF_AT_LEAST, pivot, if_false=1),
        _Instruction(_JUMP, len(below)),
        *below,
        *above,
    )
