from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from .harness import RunningRouter

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def running() -> Iterator[RunningRouter]:
    router = RunningRouter()
    yield router
    router.close()
