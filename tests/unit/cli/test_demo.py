from __future__ import annotations

import sys
from types import ModuleType


def test_runs_the_demo(limpet_, monkeypatch):
    calls = []
    module = ModuleType("limpet.bench.demo")
    module.run_demo = lambda: calls.append("run")
    monkeypatch.setitem(sys.modules, "limpet.bench.demo", module)
    assert limpet_("demo").exit_code == 0
    assert calls == ["run"]
