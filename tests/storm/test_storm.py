"""A minute of the storm: schedules and cuts of fixed seeds, and one that nobody has seen yet."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from storm_operations import CHOICES
from storm_pool import run_apart
from storm_schedule import make_schedule
from storm_traffic import find_faults

FRESH_SEED = int.from_bytes(os.urandom(4), "big")
# Between them: most operations and faults, and a broken release of the app that is asked throughout.
SEEDS = (894, 1446, 2828)

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0
    or not all(map(shutil.which, ("unshare", "mkfs.ext4", "e2fsck", "ip", "mount")))
    or not Path("/dev/loop-control").exists(),
    reason="a storm mounts a disk of its own: needs root, loop devices, util-linux, iproute2, e2fsprogs",
)


def run(kind: str, seed: int) -> None:
    print(f"again: scripts/storm --kind {kind} --seed {seed} --verbose")
    outcome = run_apart(["--kind", kind, "--seed", str(seed), "--verbose"])
    print(outcome["said"])
    assert not outcome["failure"], outcome["failure"]


@pytest.mark.parametrize("seed", [*SEEDS, FRESH_SEED])
def test_a_schedule(seed: int) -> None:
    run("schedule", seed)


@pytest.mark.skipif(not os.access("/dev/fuse", os.W_OK), reason="the recorded disk needs /dev/fuse")
@pytest.mark.parametrize("seed", [1, FRESH_SEED])
def test_power_cuts(seed: int) -> None:
    run("cuts", seed)


def test_a_schedule_is_made_of_its_seed() -> None:
    schedule = make_schedule(7, CHOICES, steps=30)
    assert schedule == make_schedule(7, CHOICES, steps=30)
    assert make_schedule(7, CHOICES, steps=12).steps == schedule.steps[:12]
    assert schedule != make_schedule(8, CHOICES, steps=30)
    assert [number for number, _ in schedule.only([2, 5]).steps] == [2, 5]
    assert {step.operation for _, step in make_schedule(1, CHOICES, steps=500).steps} == {*CHOICES}


@pytest.mark.parametrize(
    ("book", "expected"),
    [
        ("\nB a 1;\n\nE a 1;\n\nB b 1;\n\nE b 1;\n", []),
        ("\nB a 1;\n\nE a 1;\n\nB b 1;\n", ["acknowledged record b is lost"]),
        ("\nB a 1;\n\nE a 1;\n\nE b 1;\n\nE b 1;\n", ["record b is there 2 times"]),
        (
            "\nB a 1;\n\nB b 2;\n\nE b 2;\n\nE a 1;\n",
            ["record b was begun while a was being written"],
        ),
        ("\nB a 1;\n\nE a 1;\n\nB c 1\nB b 1;\n\nE b 1;\n", []),
        ("\nE a 1;\n\nE b 1;\n\nE z 1;\n", ["record z was never sent"]),
    ],
)
def test_what_is_wrong_with_a_book(book: str, expected: list[str]) -> None:
    assert find_faults(book, acknowledged=["a", "b"], in_doubt=["c"]) == expected
