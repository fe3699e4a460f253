"""Choosing settings by the address space there is."""

from __future__ import annotations

import subprocess
import sys

import pytest

from limpet.engine.address_space import can_reserve
from limpet.engine.wasmtime import settings
from limpet.engine.wasmtime.engine import WasmtimeEngine
from limpet.engine.wasmtime.settings import EngineSettings, choose_settings

RUN = """
import os, resource
resource.setrlimit(resource.RLIMIT_AS, ({limit}, {limit}))
from guest_builds import parse_wat
from limpet.engine.wasmtime.engine import WasmtimeEngine
from limpet.engine.protocol import Invocation, Limits
from limpet.wasi.streams import BufferOutput, NullInput
from limpet.wasi.strings import Strings
engine = WasmtimeEngine()
artifact, _ = engine.compile_module(parse_wat(
    '(module (memory (export "memory") 1) (func (export "_start") '
    '(if (i32.ne (memory.grow (i32.const 100)) (i32.const 1)) (then unreachable))'
    '(i32.store (i32.const 6600000) (i32.const 1))))'))
descriptor = os.memfd_create("artifact")
os.write(descriptor, artifact)
program = engine.load(descriptor, limits=Limits(memory_bytes=64 << 20))
output = BufferOutput(10)
for _ in range(20):
    invocation = Invocation(Strings([b"x"]), Strings(), NullInput(), output, output)
    outcome = program.run(invocation)
    assert outcome.kind == "Exit", outcome
print(engine.settings.reservation_bytes >> 20, engine.settings.slots)
"""


def test_plenty_is_reservable_and_too_much_is_not() -> None:
    assert can_reserve(1 << 30)
    assert not can_reserve(1 << 60)


@pytest.mark.parametrize(
    ("gib", "expected"),
    [
        (1000, EngineSettings(4 << 30, 8)),
        (60, EngineSettings(4 << 30, 4)),
        (20, EngineSettings(4 << 30, 2)),
        (10, EngineSettings(256 << 20, 8)),
        (1, EngineSettings(256 << 20, 0)),
    ],
)
def test_less_address_space_gives_fewer_slots_then_smaller_ones(
    monkeypatch: pytest.MonkeyPatch, gib: int, expected: EngineSettings
) -> None:
    monkeypatch.setattr(settings, "can_reserve", lambda length: length <= gib << 30)
    assert choose_settings() == expected


@pytest.mark.parametrize("gib", [40, 12, 3])
def test_guests_run_in_a_small_address_space(gib: int) -> None:
    """As on a kernel with a 39-bit address space, or under a limit."""
    done = subprocess.run(
        [sys.executable, "-c", RUN.format(limit=gib << 30)],
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": ":".join(sys.path), "PATH": "/usr/bin:/bin"},
    )
    assert done.returncode == 0, done.stderr
    reservation_mib, _slots = map(int, done.stdout.split())
    assert reservation_mib in {4096, 256}


def test_artifacts_of_other_settings_have_another_key() -> None:
    keys = {
        WasmtimeEngine(EngineSettings(reservation, 2)).artifact_key()
        for reservation in (4 << 30, 256 << 20)
    }
    assert len(keys) == 2
