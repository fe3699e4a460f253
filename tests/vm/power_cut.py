"""A device whose plug is pulled: the VM runs a node under load, QEMU is killed, the VM boots again, offline.

The node's data are on a disk of their own, behind the storm's recorder: what the guest had not flushed when
QEMU was killed is lost or torn, as on a device. Whatever the console had said to be acknowledged has to be
there.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from host import TREE, CannotHereError, StepError, run, say, step
from image import make_disk
from machine import Machine, run_machine, run_until_cut

from limpet.linux import mount, namespaces

sys.path.append(str(TREE / "tests/storm"))
import block_recorder

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_DATA_MEGABYTES, _JOB_MEGABYTES = 256, 512
_LIVE_SECONDS, _AFTER_SECONDS = 420.0, 420.0
_ACKNOWLEDGED = b"acknowledged "
_PROGRAM = "cd /job/tree && TEST_SLOWNESS=6 exec python tests/vm/guest/power_cut.py"


def cut_power(machine: Machine, job: Path) -> int:
    """Run the whole story once; return 0 when everything acknowledged survived."""
    if os.geteuid() or not os.access("/dev/fuse", os.W_OK):
        raise CannotHereError("a power cut records a disk: that needs root and /dev/fuse")
    # Nobody else may hold the recorder's mount: it has to end with this run.
    namespaces.unshare(namespaces.CLONE_NEWNS)
    mount.mount(None, "/", None, flags=mount.MS_REC | mount.MS_PRIVATE)
    seed = random.SystemRandom().getrandbits(32)
    chance = random.Random(seed)
    say(f"power cut with seed {seed}")
    folder = job.parent
    first, disk, log = folder / "first.img", folder / "data.img", folder / "data.log"
    with disk.open("wb") as file:
        file.truncate(_DATA_MEGABYTES << 20)
    run(["mkfs.ext4", "-q", "-m0", "-O", "encrypt", disk])
    run(["cp", "--sparse=always", disk, first])
    _write_job(job, f"{_PROGRAM} live")
    most = chance.randint(60, 160)

    def is_time(said: bytes) -> bool:
        return said.count(_ACKNOWLEDGED) >= most

    with step("until the cut"), _recorded(disk, folder / "recorded", log) as seen:
        said = run_until_cut(replace(machine, data=seen), seconds=_LIVE_SECONDS, is_time=is_time)
    acknowledged = [
        line.removeprefix(_ACKNOWLEDGED).strip().decode()
        for line in said.split(b"\n")[:-1]
        if line.startswith(_ACKNOWLEDGED)
    ]
    block_recorder.write_image(log, log.stat().st_size, first, chance)
    (job / "acknowledged.json").write_text(json.dumps(acknowledged))
    say(f"cut after {len(acknowledged)} acknowledgements, {log.stat().st_size} bytes of log")
    _write_job(job, f"{_PROGRAM} after")
    with step("after the cut"):
        return run_machine(replace(machine, data=first), seconds=_AFTER_SECONDS)


def _write_job(job: Path, command: str) -> None:
    (job / "command").write_text(command)
    make_disk(job, job.with_suffix(".img"), megabytes=_JOB_MEGABYTES)


@contextmanager
def _recorded(disk: Path, folder: Path, log: Path) -> Iterator[Path]:
    """Serve the disk's file from the recorder for a block."""
    folder.mkdir()
    recorder = subprocess.Popen(
        [sys.executable, block_recorder.__file__, str(disk), str(folder), str(log)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert recorder.stdout is not None
    if recorder.stdout.readline() != "mounted\n":
        raise StepError("the disk can't be recorded")
    try:
        yield folder / block_recorder.NAME
    finally:
        run(["umount", folder])
        recorder.communicate(timeout=30)
