"""Request bodies wait in memory until they are whole, all of them together within one budget.

A slow client so holds the router's memory, not a connection to an app; and many of them can't hold
more than the budget, whatever they announce.
"""

from __future__ import annotations

from limpet.errors import TemporaryError


class BudgetSpentError(TemporaryError):
    """Other clients' bodies take all the room."""

    reason = "TooManyBodies"


class BodyBudget:
    """What all bodies together may take, and each of them."""

    def __init__(self, *, total_bytes: int, max_bytes: int) -> None:
        self.left_bytes = total_bytes
        self.max_bytes = max_bytes

    def open(self, method: bytes, target: bytes) -> Body:
        """Make room for a request's body, as `HttpConnection` asks for it."""
        del method, target
        return Body(self)


class Body:
    """One request's body. What it took goes back to the budget with its last reference."""

    __slots__ = ("_budget", "data", "max_bytes")

    def __init__(self, budget: BodyBudget) -> None:
        self._budget = budget
        self.max_bytes = budget.max_bytes
        self.data = bytearray()

    def write(self, data: bytes) -> None:
        """Take the next piece. Raises `BudgetSpentError`."""
        if len(data) > self._budget.left_bytes:
            raise BudgetSpentError("too many uploads at once; try again")
        self._budget.left_bytes -= len(data)
        self.data += data

    def __del__(self) -> None:
        self._budget.left_bytes += len(self.data)
