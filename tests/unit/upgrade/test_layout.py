"""Versions side by side: whole or not there, one current, one before it."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limpet.errors import InvalidInputError, NotFoundError
from limpet.upgrade.layout import Installed, Prefix, check_version, running_prefix


def add(prefix, version, *, schema=2):
    prefix.folder(version).mkdir(parents=True)
    prefix.finish(Installed(version=version, schema=schema, handover=1))


@pytest.fixture
def prefix(tmp_path):
    made = Prefix(tmp_path / "opt")
    for version in ("0.1.0", "0.2.0", "0.3.0rc1"):
        add(made, version)
    return made


def test_nothing_is_there_at_first(tmp_path):
    prefix = Prefix(tmp_path / "opt")
    assert prefix.versions() == []
    assert (prefix.current, prefix.previous) == (None, None)
    assert prefix.find("0.1.0") is None
    assert prefix.remove_but([]) == []


def test_what_is_not_finished_is_not_there(prefix):
    prefix.folder("0.4.0").mkdir()
    (prefix.folder("0.5.0")).mkdir()
    (prefix.folder("0.5.0") / "limpet-version.json").write_text('{"version": "0.4.0"')
    assert [each.version for each in prefix.versions()] == ["0.1.0", "0.2.0", "0.3.0rc1"]
    with pytest.raises(NotFoundError, match=r"0\.4\.0 is not installed"):
        prefix.require("0.4.0")
    with pytest.raises(NotFoundError):
        prefix.switch("0.5.0")
    assert prefix.current is None


def test_a_version_under_another_name_is_none(prefix):
    prefix.folder("0.1.0").rename(prefix.folder("0.9.0"))
    assert prefix.find("0.9.0") is None


def test_the_current_one_and_the_one_before(prefix):
    prefix.switch("0.1.0")
    assert (prefix.current, prefix.previous) == ("0.1.0", None)
    prefix.switch("0.2.0")
    prefix.switch("0.2.0")
    assert (prefix.current, prefix.previous) == ("0.2.0", "0.1.0")
    prefix.switch("0.1.0")
    assert (prefix.current, prefix.previous) == ("0.1.0", "0.2.0")
    assert os.readlink(prefix.path / "current") == "versions/0.1.0"


def test_a_switch_that_was_cut_short_is_made_again(prefix):
    prefix.switch("0.1.0")
    (prefix.path / ".current.new").symlink_to("versions/0.2.0")
    (prefix.path / ".previous.new").symlink_to("nowhere")
    prefix.switch("0.2.0")
    assert (prefix.current, prefix.previous) == ("0.2.0", "0.1.0")


def test_a_link_that_leads_elsewhere_is_none_of_ours(prefix):
    (prefix.path / "current").symlink_to("/usr")
    (prefix.path / "previous").symlink_to("versions/..")
    assert (prefix.current, prefix.previous) == (None, None)


def test_all_but_these_are_removed(prefix):
    prefix.folder("0.4.0").mkdir()
    assert prefix.remove_but(["0.1.0", None]) == ["0.2.0", "0.3.0rc1", "0.4.0"]
    assert [each.version for each in prefix.versions()] == ["0.1.0"]


@pytest.mark.parametrize("text", ["", ".", "..", "0/1", "../0.1", "v0.1", "0.1 ", "0\n", "0" * 65])
def test_what_is_no_version(text):
    with pytest.raises(InvalidInputError, match="is not a version"):
        check_version(text)


@given(st.text())
def test_a_version_is_one_name_in_a_folder(text):
    try:
        version = check_version(text)
    except InvalidInputError:
        return
    assert os.path.basename(version) == version not in ("", ".", "..")


def test_this_interpreter_is_recognised_by_whichever_path(prefix, monkeypatch):
    assert running_prefix() is None
    prefix.switch("0.2.0")
    for path in (prefix.folder("0.2.0"), prefix.path / "current"):
        monkeypatch.setattr("sys.prefix", str(path))
        found = running_prefix()
        assert found is not None
        assert found.path == prefix.path.resolve()
    monkeypatch.setattr("sys.prefix", str(prefix.path / "versions"))
    assert running_prefix() is None
