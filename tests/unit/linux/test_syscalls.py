"""The table of system calls against the kernel's headers, as the ziglang wheel carries them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import ziglang

from limpet.linux.syscalls import parse_numbers

HEADERS = Path(ziglang.__file__).parent / "lib" / "libc" / "include"


def read_header(folder: str) -> dict[str, int]:
    text = (HEADERS / folder / "asm" / "unistd_64.h").read_text(encoding="utf-8")
    numbers = {name: int(n) for name, n in re.findall(r"#define __NR_(\w+)\s+(\d+)", text)}
    numbers.pop("syscalls", None)
    return numbers


@pytest.mark.parametrize(
    ("machine", "folder"), [("x86_64", "x86-linux-any"), ("aarch64", "aarch64-linux-any")]
)
def test_every_number_is_the_headers(machine, folder):
    header = read_header(folder)
    ours = parse_numbers(machine)
    common = header.keys() & ours.keys()
    assert len(common) > 300
    assert {name: ours[name] for name in common} == {name: header[name] for name in common}
    # Headers grow: what they know beyond the table is newer than its end.
    assert all(header[name] > max(ours.values()) for name in header.keys() - ours.keys())
    assert ours.keys() <= header.keys()


def test_another_machine_is_refused_by_name():
    with pytest.raises(OSError, match="not of riscv64"):
        parse_numbers("riscv64")
