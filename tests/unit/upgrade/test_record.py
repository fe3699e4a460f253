"""What is remembered of an upgrade: whole, or taken for nothing."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limpet.upgrade.record import Record, read_record, write_record

RECORD = Record(
    state="trial",
    version="0.2.0",
    previous="0.1.0",
    started_at=1000.5,
    ready=("default/a", "default/b"),
)


def test_it_is_read_as_it_was_written(tmp_path):
    assert read_record(tmp_path) is None
    write_record(tmp_path, RECORD)
    assert read_record(tmp_path) == RECORD
    assert [path.name for path in tmp_path.iterdir()] == ["upgrade.json"]


def test_another_versions_fields_are_left_out_and_missing_ones_have_defaults(tmp_path):
    told = {"state": "failed", "version": "2", "previous": "1", "started_at": 1.0, "mood": "good"}
    (tmp_path / "upgrade.json").write_text(json.dumps(told))
    found = read_record(tmp_path)
    assert found == Record(state="failed", version="2", previous="1", started_at=1.0)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "7", "{}", '{"state": "odd", "version": "", "previous": "", "started_at": 1}'],
)
def test_what_can_not_be_read_is_nothing(tmp_path, text):
    (tmp_path / "upgrade.json").write_text(text)
    assert read_record(tmp_path) is None


@given(data=st.binary(max_size=200))
def test_whatever_is_there_is_a_record_or_nothing(data, tmp_path_factory):
    folder = tmp_path_factory.getbasetemp()
    (folder / "upgrade.json").write_bytes(data)
    found = read_record(folder)
    assert found is None or isinstance(found, Record)
