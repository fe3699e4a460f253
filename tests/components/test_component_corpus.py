"""Every guest of the corpus, as a component, does under Limpet what it does under Wasmtime.

There the same WASI 0.2 is written in Rust, so that the two are two readings of one standard.
"""

from __future__ import annotations

import pytest
from component_builds import build_component
from corpus_cases import Case, call_scripts, programs
from guest_builds import find_cli
from side_by_side import run_limpet, run_reference

pytestmark = pytest.mark.skipif(find_cli() is None, reason="needs the Wasmtime CLI")


@pytest.mark.parametrize("case", [*programs(), *call_scripts()], ids=str)
def test_as_under_wasmtime(case: Case) -> None:
    component = build_component(case.guest)
    expected = run_reference(component, case.setup)
    found = run_limpet(component, case.setup)
    assert found.stdout.decode(errors="replace") == expected.stdout.decode(errors="replace")
    assert found.stderr == expected.stderr
    assert found.ending == expected.ending
    assert found.trees == expected.trees
