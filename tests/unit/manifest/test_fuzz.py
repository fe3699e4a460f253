"""The fuzzer of tests/fuzz, for a moment: that it runs, and that it finds nothing at once."""

import fuzz_manifest


def test_mutated_manifests_are_read_or_refused():
    done, accepted = fuzz_manifest.fuzz(seed=1, seconds=60, inputs=400)
    assert done == 400
    assert accepted > 0
