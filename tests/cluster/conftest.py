"""The control plane that all tests of a cluster share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from cluster_program import NotBuiltError, find_program
from control_plane import ControlPlane

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def control_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A control plane without nodes; a skip with the reason where none was built."""
    try:
        program = find_program()
    except NotBuiltError as error:
        pytest.skip(str(error))
    made = ControlPlane(program, tmp_path_factory.mktemp("control-plane"))
    try:
        made.start()
        yield made
    finally:
        made.stop()
