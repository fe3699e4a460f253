"""The clock's state, as adjtimex(2) tells everybody."""

from __future__ import annotations

from limpet.linux.clock import is_synchronised


def test_anybody_may_ask():
    assert is_synchronised() in (True, False)
