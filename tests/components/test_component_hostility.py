"""Components that ask for too much, or for what is not theirs, end; the host stays as it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from component_builds import build_guest_of
from component_runs import load, run

from limpet.engine.protocol import OutcomeKind

if TYPE_CHECKING:
    from limpet.engine.protocol import Engine


@pytest.mark.parametrize(
    ("what", "count", "message"),
    [
        ("write", 65537, "65536 are the most permitted"),
        ("write", 30_000_000, "too much data"),
        ("zeroes", 65537, "65536 are the most permitted"),
        ("zeroes", 2**63 - 1, "65536 are the most permitted"),
        ("random", 2**63 - 1, "are the most at once"),
        ("subscribe", 20_000, "holds more than 16384 resources"),
        ("poll", 0, "nothing to wait for"),
        ("poll", 20_000, "a list of 20000 elements"),
        ("poll", 200_000, "handle"),
        ("handle", 0, "handle"),
        ("handle", 12345, "handle"),
        ("handle", -1, "handle"),
        ("outside", 64, "out of bounds"),
        ("realloc", 0, ""),
    ],
)
def test_what_ends_the_run(engine: Engine, what: str, count: int, message: str) -> None:
    program = load(engine, build_guest_of("hostile"))
    outcome, output = run(program, what.encode(), b"%d" % count, deadline_seconds=20)
    assert outcome.kind is OutcomeKind.TRAP
    assert message in outcome.message
    assert "\n" not in outcome.message
    assert "done" not in output
    # The program is as good as new.
    assert run(program)[1] == "done\n"


@pytest.mark.parametrize(
    ("what", "count"), [("write", 65536), ("random", 65536), ("subscribe", 9000), ("poll", 9000)]
)
def test_what_is_still_fine(engine: Engine, what: str, count: int) -> None:
    program = load(engine, build_guest_of("hostile"))
    outcome, output = run(program, what.encode(), b"%d" % count, deadline_seconds=20)
    assert outcome.kind is OutcomeKind.EXIT
    assert output.endswith("done\n")
