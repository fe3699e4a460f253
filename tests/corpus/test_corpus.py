"""Every guest of the corpus does under Limpet what it does under Wasmtime.

Where the two differ on purpose, README.md beside this says how and why.
"""

from __future__ import annotations

import fuzz_against_wasmtime
import pytest
from corpus_cases import Case, call_scripts, programs, read_only_scripts
from guest_builds import build_guest, find_cli
from side_by_side import run_limpet, run_reference

pytestmark = pytest.mark.skipif(find_cli() is None, reason="needs the Wasmtime CLI")


@pytest.mark.parametrize("case", [*programs(), *call_scripts(), *read_only_scripts()], ids=str)
def test_as_under_wasmtime(case: Case) -> None:
    module = build_guest(case.guest)
    expected = run_reference(module, case.setup)
    found = run_limpet(module, case.setup)
    assert found.stdout.decode(errors="replace") == expected.stdout.decode(errors="replace")
    assert found.stderr == expected.stderr
    assert found.ending == expected.ending
    assert found.trees == expected.trees


def test_random_sequences() -> None:
    assert fuzz_against_wasmtime.fuzz(seed=1, seconds=30, scripts=30) > 0
