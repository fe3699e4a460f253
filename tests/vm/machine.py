"""One boot of the VM: a Cortex-A53 with two cores and 1 GB that QEMU emulates, and its console.

The system on its first disk runs the second disk's `command`, sends its exit code through a virtio port
and powers off. The console says when it is up and down; what comes before and after is the kernel's.
"""

from __future__ import annotations

import os
import re
import selectors
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from host import StepError, say

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_UP, _DOWN = b"\x1eup\x1e", b"\x1edown\x1e"
_BOOT_SECONDS = 120.0
_POWER_OFF_SECONDS = 30.0
_KERNEL = (
    "root=/dev/nvme0n1 rootfstype=ext4 rw init=/usr/sbin/init console=ttyAMA0 loglevel=3 panic=-1"
)


@dataclass(frozen=True, slots=True)
class Machine:
    """What to boot. Unless `is_kept`, nothing that is written to the root disk lasts.

    `data` is one more disk, `/dev/sda`, whose flushes reach its file.
    """

    kernel: Path
    initial_root: Path
    root: Path
    job: Path
    is_kept: bool = False
    data: Path | None = None
    megabytes: int = 1024

    def command(self, result: Path, console: str) -> list[str]:
        """Return QEMU's command line; the kernel ends it with this process."""
        throwaway = "off" if self.is_kept else "on"
        return [
            *("setpriv", "--pdeathsig", "KILL", "qemu-system-aarch64"),
            *("-M", "virt", "-cpu", "cortex-a53", "-accel", "tcg,thread=multi"),
            *("-smp", "2", "-m", str(self.megabytes), "-nic", "none", "-no-reboot"),
            *("-display", "none", "-serial", console),
            *("-kernel", str(self.kernel), "-append", _KERNEL),
            *("-initrd", str(self.initial_root)),
            # Of two kinds: the kernel numbers several disks of one kind in no certain order.
            *("-drive", _drive("root", self.root, throwaway)),
            *("-device", "nvme,drive=root,serial=root"),
            *("-drive", _drive("job", self.job, "on")),
            *("-device", "virtio-blk-pci,drive=job"),
            *(_data_disk(self.data) if self.data else ()),
            *("-device", "virtio-serial-pci"),
            *("-chardev", f"file,id=result,path={_escaped(result)}"),
            *("-device", "virtserialport,chardev=result"),
        ]


def _escaped(path: Path) -> str:
    return str(path).replace(",", ",,")


def _drive(name: str, path: Path, snapshot: str) -> str:
    return f"if=none,id={name},format=raw,cache=unsafe,snapshot={snapshot},file={_escaped(path)}"


def _data_disk(path: Path) -> tuple[str, ...]:
    """Return a disk of a third kind, so that nobody else's number changes."""
    drive = f"if=none,id=data,format=raw,cache=writeback,file={_escaped(path)}"
    return ("-drive", drive, "-device", "virtio-scsi-pci", "-device", "scsi-hd,drive=data")


@contextmanager
def _booted(
    machine: Machine, console: str, **streams: int
) -> Iterator[tuple[subprocess.Popen, Path]]:
    """Start QEMU for a block; it doesn't outlive the block."""
    with tempfile.TemporaryDirectory(prefix="limpet-vm-") as folder:
        result = Path(folder) / "result"
        process = subprocess.Popen(machine.command(result, console), **streams)
        try:
            yield process, result
        finally:
            process.kill()
            process.wait()


def _read_result(result: Path) -> int:
    told = result.read_text() if result.exists() else ""
    if not re.fullmatch(r"\d+\s*", told):
        raise StepError("the VM ended without a result: its kernel or QEMU stopped early")
    return int(told)


@dataclass(slots=True)
class _Console:
    """What the console said: held back until the VM is up, then passed on until it is down."""

    held: bytes = b""
    is_up: bool = False
    is_down: bool = False

    def feed(self, chunk: bytes) -> bytes:
        """Take bytes, return those to pass on."""
        self.held += chunk
        if not self.is_up:
            _, mark, after = self.held.partition(_UP)
            if not mark:
                return b""
            self.is_up, self.held = True, after
        if self.is_down:
            return b""
        text, mark, rest = self.held.partition(_DOWN)
        if mark:
            self.is_down, self.held = True, rest
        else:
            # The mark may be under way.
            start = text.rfind(_DOWN[:1])
            text, self.held = (text, b"") if start < 0 else (text[:start], text[start:])
        return text.replace(b"\r\n", b"\n")


def run_machine(machine: Machine, *, seconds: float) -> int:
    """Boot, pass the console on to standard output, return the command's exit code.

    Raises StepError when the VM doesn't come up, takes longer or ends without a result.
    """
    started = time.monotonic()
    console = _Console()
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with _booted(machine, "stdio", **streams) as (process, result):
        for chunk in _chunks(process, console, started=started, seconds=seconds):
            was_up = console.is_up
            text = console.feed(chunk)
            if console.is_up and not was_up:
                say(f"boot: {time.monotonic() - started:.1f} s")
            if text:
                sys.stdout.buffer.write(text)
                sys.stdout.flush()
        if not console.is_up:
            raise StepError(f"the VM did not come up:\n{console.held.decode(errors='replace')}")
        process.wait(_POWER_OFF_SECONDS)
        return _read_result(result)


def _chunks(
    process: subprocess.Popen, console: _Console, *, started: float, seconds: float
) -> Iterator[bytes]:
    """Yield what QEMU writes until it ends. Raises StepError when a time limit is over."""
    assert process.stdout is not None
    descriptor = process.stdout.fileno()
    with selectors.DefaultSelector() as selector:
        selector.register(descriptor, selectors.EVENT_READ)
        while True:
            limit = seconds if console.is_up else min(seconds, _BOOT_SECONDS)
            left = started + limit - time.monotonic()
            if left <= 0 or not selector.select(left):
                what = "was not done" if console.is_up else "was not up"
                shown = console.held.decode(errors="replace")
                raise StepError(f"the VM {what} after {limit:g} s and was stopped\n{shown}")
            chunk = os.read(descriptor, 1 << 16)
            if not chunk:
                return
            yield chunk


def run_until_cut(machine: Machine, *, seconds: float, is_time: Callable[[bytes], bool]) -> bytes:
    """Boot and give `is_time` all that the console said, each time it says more; kill QEMU when it is.

    Returns what the console said. Raises StepError when the VM ends before, or takes longer.
    """
    started = time.monotonic()
    console, said = _Console(), b""
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with _booted(machine, "stdio", **streams) as (process, _):
        for chunk in _chunks(process, console, started=started, seconds=seconds):
            said += console.feed(chunk)
            if is_time(said):
                process.kill()
                return said
    raise StepError(f"the VM ended before its power was cut:\n{said.decode(errors='replace')}")


def run_interactively(machine: Machine, *, seconds: float) -> int:
    """Boot with this terminal as the VM's console."""
    with _booted(machine, "mon:stdio") as (process, result):
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired as error:
            raise StepError(f"the VM was stopped after {seconds:g} s") from error
        return _read_result(result)


def terminal_size() -> tuple[int, int]:
    """Return columns and lines to tell the VM: a serial line doesn't know."""
    size = shutil.get_terminal_size()
    return size.columns, size.lines
