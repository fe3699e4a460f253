"""The fuzzer of tests/fuzz, for a moment: that it runs, and that it finds nothing at once."""

import importlib.util
from pathlib import Path

PATH = Path(__file__).parents[2] / "fuzz" / "fuzz_manifest.py"


def test_mutated_manifests_are_read_or_refused():
    spec = importlib.util.spec_from_file_location("fuzz_manifest", PATH)
    fuzzer = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fuzzer)
    done, accepted = fuzzer.fuzz(seed=1, seconds=60, inputs=400)
    assert done == 400
    assert accepted > 0
