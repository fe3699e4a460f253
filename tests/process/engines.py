"""The engines that a test of a whole node runs on."""

from __future__ import annotations

import pytest

on_both_engines = pytest.mark.parametrize("node", ["wasmtime", "wasmedge"], indirect=True)
"""For tests with the fixture `node`: its apps run on this engine unless they name one."""
