from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limpet.manifest.model import RestartPolicy
from limpet.manifest.parse import parse_object
from limpet.node.restarts import (
    MAX_BACKOFF_SECONDS,
    decide_backoff,
    decide_restart,
    should_restart,
)

POD = parse_object(
    {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "a"},
        "spec": {"containers": [{"name": "a", "image": "file:///a.wasm"}]},
    }
)


def test_pauses_double_from_the_second_failure_on():
    pauses = [decide_backoff(failures, first_seconds=10.0) for failures in range(9)]
    assert pauses == [0, 0, 10, 20, 40, 80, 160, 300, 300]


@given(st.integers(0, 10**9), st.floats(0.001, 1e6))
def test_pauses_never_shrink_and_have_an_end(failures, first):
    pause = decide_backoff(failures, first_seconds=first)
    assert 0 <= pause <= MAX_BACKOFF_SECONDS
    assert pause <= decide_backoff(failures + 1, first_seconds=first)


@pytest.mark.parametrize(
    ("policy", "is_success", "expected"),
    [
        (RestartPolicy.ALWAYS, True, True),
        (RestartPolicy.ALWAYS, False, True),
        (RestartPolicy.ON_FAILURE, True, False),
        (RestartPolicy.ON_FAILURE, False, True),
        (RestartPolicy.NEVER, True, False),
        (RestartPolicy.NEVER, False, False),
    ],
)
def test_restart_policy_decides(policy, is_success, expected):
    app = replace(POD, restart_policy=policy)
    assert should_restart(app, restarts=1000, is_success=is_success) is expected


def test_a_job_starts_again_as_often_as_its_limit_says():
    job = replace(POD, kind="Job", restart_policy=RestartPolicy.ON_FAILURE, backoff_limit=2)
    again = [should_restart(job, restarts=count, is_success=False) for count in range(4)]
    assert again == [True, True, False, False]


def test_a_row_of_ends_begins_anew_after_a_stable_time():
    short = decide_restart(failures=3, lasted_seconds=19.9, first_seconds=10.0)
    assert (short.failures, short.pause_seconds, short.is_stable) == (4, 40.0, False)
    stable = decide_restart(failures=3, lasted_seconds=20.0, first_seconds=10.0)
    assert (stable.failures, stable.pause_seconds, stable.is_stable) == (1, 0.0, True)


def test_the_first_end_is_stable_only_after_the_first_pause():
    assert not decide_restart(failures=0, lasted_seconds=9.9, first_seconds=10.0).is_stable
    assert decide_restart(failures=0, lasted_seconds=10.0, first_seconds=10.0).is_stable
