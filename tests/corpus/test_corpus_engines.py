"""The corpus on the engines that need a process of their own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import own_processes
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from limpet.engine.wasmedge.library import Installation

_FEWEST = 130

pytestmark = pytest.mark.skipif(own_processes.IS_ONE, reason="this is such a process")


@pytest.fixture(scope="module")
def processes(wasmedge: Installation) -> Iterator[own_processes.Processes]:
    with own_processes.running(Path(__file__).parent, wasmedge) as processes:
        yield processes


@pytest.mark.parametrize("variant", own_processes.VARIANTS)
def test_in_a_process_of_its_own(processes: own_processes.Processes, variant: str) -> None:
    own_processes.check_passed(processes[variant], fewest=_FEWEST)
