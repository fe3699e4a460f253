"""What agents leave each other: texts that come back as they were, and others that are refused."""

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limpet.node.identity import (
    FigureRecord,
    Identity,
    RecordError,
    SlotRecord,
    format_record,
    parse_record,
)
from limpet.plan import AppKey

IDENTITY = Identity(
    namespace="default",
    name="web",
    number=7,
    slot=1,
    incarnation=1_700_000_000_000,
    fingerprint="ab12",
    engine="wasmtime",
    is_component=False,
    pid=4711,
    start_ticks=99,
    uid=300_001,
    group="app-1-00ff",
    grace_seconds=30.0,
    started_at=1.7e9,
    assigned_at=12.5,
)
SLOT = SlotRecord(
    namespace="default",
    name="web",
    created_at=1.7e9 + 1 / 3,
    generation=3,
    slot=0,
    failures=2,
    restarts=5,
    retry_at=77.5,
    is_completed=False,
    last_number=6,
    last_exit={"reason": "Signal", "message": "killed by SIGKILL", "finished_at": 1.7e9},
)
FIGURES = FigureRecord(
    namespace="default",
    name="web",
    created_at=1.0,
    requests=10,
    failed=1,
    cold_starts=2,
    latency=(0, 1, 2),
    start_times=(2.5,),
)


@pytest.mark.parametrize(
    "record",
    [
        IDENTITY,
        dataclasses.replace(IDENTITY, drain_until=5.5, said=("Exit", 3, "", 0), was_ready=True),
        SLOT,
        dataclasses.replace(SLOT, last_exit=None),
        FIGURES,
    ],
)
def test_what_is_written_comes_back(record):
    assert parse_record(type(record), format_record(record)) == record
    assert record.key == AppKey("default", "web")


def test_what_a_newer_version_adds_is_ignored_and_what_an_older_one_lacks_has_a_default():
    values = json.loads(format_record(IDENTITY))
    del values["said"], values["drain_until"], values["has_probes"]
    assert parse_record(Identity, json.dumps({**values, "colour": "blue"})) == IDENTITY


@pytest.mark.parametrize(
    "text", ["", "null", "[]", "{}", "7", '{"pid": 1}', format_record(SLOT), "\ud800"]
)
def test_what_is_no_identity_is_refused(text):
    with pytest.raises(RecordError):
        parse_record(Identity, text)


@given(st.text() | st.recursive(st.none() | st.integers(), st.lists, max_leaves=3).map(json.dumps))
def test_nothing_else_comes_of_any_text(text):
    for kind in (Identity, SlotRecord, FigureRecord):
        with pytest.raises(RecordError):
            parse_record(kind, text)
