import pytest

from limpet.api.queries import read_number, read_seconds
from limpet.errors import InvalidInputError


def test_what_is_not_asked_has_its_default():
    assert read_number({}, "tail", default=None) is None
    assert read_number({}, "limit", default=100) == 100
    assert read_seconds({}, "since") is None


def test_what_is_asked_is_read():
    query = {"tail": "007", "since": "1.5"}
    assert read_number(query, "tail", default=None) == 7
    assert read_seconds(query, "since") == 1.5


@pytest.mark.parametrize("text", ["", "-1", "1.0", "1" * 10, "²", "x"])
def test_other_numbers_are_refused(text):
    with pytest.raises(InvalidInputError, match=r"tail=.*expected a whole number"):
        read_number({"tail": text}, "tail", default=None)


@pytest.mark.parametrize("text", ["", "-1", "nan", "inf", "1e11", "x"])
def test_other_times_are_refused(text):
    with pytest.raises(InvalidInputError, match=r"since=.*expected a number of seconds"):
        read_seconds({"since": text}, "since")
