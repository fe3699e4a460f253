from __future__ import annotations

import pytest

from limpet.ingress.bodies import BodyBudget, BudgetSpentError


def test_bodies_share_a_budget_and_give_it_back() -> None:
    budget = BodyBudget(total_bytes=10, max_bytes=8)
    first = budget.open(b"POST", b"/")
    first.write(b"123456")
    second = budget.open(b"POST", b"/")
    with pytest.raises(BudgetSpentError):
        second.write(b"12345")
    second.write(b"1234")
    assert (bytes(first.data), bytes(second.data), budget.left_bytes) == (b"123456", b"1234", 0)
    del first
    assert budget.left_bytes == 6
    del second
    assert budget.left_bytes == 10
